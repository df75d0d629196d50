"""What the worker finds in an image (its colours, by Pillow), and in all of them together."""

from __future__ import annotations

from functions.core.json import Json
from functions.core.settings import SettingsError
from functions.core.storage import NoObjectError, open_storage
from functions.images.adapters.base import MAX_IMAGE_BYTES
from functions.images.pictures import COLORS, DOMINANT, UndecodableError, colors_of
from functions.images.tasks import BUCKET
from functions.tasks.context import TaskContext, TaskRejectedError

REFRESH_SECONDS = 600.0
"""As backend.insights_refresh() has it. A million images of one week take about ten seconds."""

COLOR_VERSION = f"pillow-mediancut-{COLORS}"


async def analyze_image(payload: dict[str, Json], context: TaskContext) -> dict[str, Json]:
    """Look at an image and keep what is found.

    Raises TaskRejectedError where no image is named or its bytes are none, QuernelError where the
    database or Storage does not answer: another attempt follows.
    """
    image_id = payload.get("image_id")
    if not isinstance(image_id, str):
        raise TaskRejectedError("the payload names no image")
    job = await context.database.rpc("image_analysis_begin", p_image_id=image_id)
    if job is None:
        return {"result": "gone"}
    try:
        async with open_storage(context.settings, BUCKET) as storage:
            content = await storage.get(job["path"], max_bytes=MAX_IMAGE_BYTES)
        colors = await colors_of(content)
    except NoObjectError:
        raise TaskRejectedError("the image's file is gone") from None
    except (SettingsError, UndecodableError) as error:
        raise TaskRejectedError(str(error) or "the image does not decode") from None
    answer = await context.database.rpc(
        "image_analysed",
        p_image_id=image_id,
        p_type="color",
        p_version=COLOR_VERSION,
        p_raw={"colors": [{"color": color, "share": round(share, 4)} for color, share in colors]},
        p_summary={
            "color_palette": [color for color, _ in colors],
            "dominant_colors": [color for color, _ in colors[:DOMINANT]],
        },
    )
    return {"result": answer["state"]}


async def refresh_insights(_: dict[str, Json], context: TaskContext) -> dict[str, Json]:
    """Reckon anew what people draw. Raises QuernelError: another attempt follows."""
    answer: dict[str, Json] = await context.database.long_rpc("insights_refresh", REFRESH_SECONDS)
    return answer
