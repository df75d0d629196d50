"""What the worker finds in an image, and in all of them together.

    color      by Pillow
    safety     what whoever drew it said, else a vision model's rating
    vision     what a vision model says is on it
    style      how that looks, in the same answer
    embedding  a vector of the two, for search_similar_images()

What was found is kept and not looked for again. What is missing is asked for again while that may
help, and else left out.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable
from decimal import Decimal
from typing import Any, TypeVar

from functions.chat.model_server import (
    ModelServer,
    NotNowError,
    RefusedError,
    UnreadableError,
    open_model_server,
)
from functions.core.json import Json
from functions.core.settings import SettingsError
from functions.core.storage import NoObjectError, open_storage
from functions.images.adapters.base import MAX_IMAGE_BYTES
from functions.images.looks import embed, look
from functions.images.pictures import COLORS, DOMINANT, UndecodableError, colors_of, shown_of
from functions.images.tasks import BUCKET
from functions.tasks.context import TaskContext, TaskRejectedError, TaskRetryError
from gpu.vision import Seen

REFRESH_SECONDS = 600.0
"""As backend.insights_refresh() has it. A million images of one week take about ten seconds."""

COLOR_VERSION = f"pillow-mediancut-{COLORS}"
DRAWN_VERSION = "image-server"
"""Of a safety analysis that came with the image."""

UNSCORED_VERSION = "unscored"
"""Of a safety analysis that nobody made."""

UNREADABLE_ATTEMPTS = 3
"""Until then what cannot be read is asked for again: it may well be the same each time."""

FIRST_PAUSE_SECONDS = 30
MAX_PAUSE_SECONDS = 3600
"""Five attempts are spread over three quarters of an hour: a card's first start takes as long."""

Answer = TypeVar("Answer")


class GoneError(Exception):
    """The image was deleted meanwhile."""


async def analyze_image(payload: dict[str, Json], context: TaskContext) -> dict[str, Json]:
    """Look at an image and keep what is found: {result, found, left_out}.

    Raises TaskRejectedError where no image is named or its bytes are none, TaskRetryError where a
    model may answer later, QuernelError where the database or Storage does not.
    """
    image_id = payload.get("image_id")
    if not isinstance(image_id, str):
        raise TaskRejectedError("the payload names no image")
    try:
        analysis = _Analysis(context, image_id, await _begin(context, image_id))
        await analysis.run()
    except GoneError:
        return {"result": "gone"}
    except (SettingsError, UndecodableError) as error:
        raise TaskRejectedError(str(error) or "the image does not decode") from None
    return {"result": "kept", "found": analysis.found, "left_out": analysis.left_out}


async def refresh_insights(_: dict[str, Json], context: TaskContext) -> dict[str, Json]:
    """Reckon anew what people draw. Raises QuernelError: another attempt follows."""
    answer: dict[str, Json] = await context.database.long_rpc("insights_refresh", REFRESH_SECONDS)
    return answer


async def _begin(context: TaskContext, image_id: str) -> dict[str, Any]:
    """What is known of the image. Raises GoneError."""
    job: dict[str, Any] | None = await context.database.rpc(
        "image_analysis_begin", p_image_id=image_id
    )
    if job is None:
        raise GoneError
    return job


class _Analysis:
    """One attempt at one image. Nothing is locked while anybody is waited for."""

    def __init__(self, context: TaskContext, image_id: str, job: dict[str, Any]) -> None:
        self._context = context
        self._settings = context.settings
        self._image_id = image_id
        self._job = job
        self._done = {(kind, version) for kind, version in job["done"]}
        self._analyses: list[dict[str, Json]] = []
        self._summary: dict[str, Json] = {}
        self.found: list[str] = []
        """What this attempt has found."""
        self.left_out: dict[str, str] = {}
        """What will not be found, and why."""

    async def run(self) -> None:
        """Raises GoneError, UndecodableError, TaskRejectedError, TaskRetryError, QuernelError."""
        content = await self._content()
        if not self._has("color", COLOR_VERSION):
            await self._count_colors(content)
        if self._job["nsfw_score"] is not None and not self._is_rated:
            self._rate(DRAWN_VERSION, self._job["nsfw_score"], "image_server", self._job["model"])
        await self._keep()
        try:
            async with open_model_server(self._settings, self._image_id) as server:
                seen = await self._seen(server, content)
                if not self._is_rated:
                    self._rate(UNSCORED_VERSION, None, None, None)
                await self._embedded(server, seen)
        finally:
            await self._keep()

    async def _content(self) -> bytes:
        """The image's bytes; none where nobody will look at them."""
        model = self._settings.vision_model
        if self._has("color", COLOR_VERSION) and (model is None or self._has("vision", model)):
            return b""
        try:
            async with open_storage(self._settings, BUCKET) as storage:
                return await storage.get(self._job["path"], max_bytes=MAX_IMAGE_BYTES)
        except NoObjectError:
            await _begin(self._context, self._image_id)  # with its image, most likely
            raise TaskRejectedError("the image's file is gone") from None

    async def _count_colors(self, content: bytes) -> None:
        colors = await colors_of(content)
        shares = [{"color": color, "share": round(share, 4)} for color, share in colors]
        self._find("color", COLOR_VERSION, {"colors": shares})
        self._summary["color_palette"] = [color for color, _ in colors]
        self._summary["dominant_colors"] = [color for color, _ in colors[:DOMINANT]]

    async def _seen(self, server: ModelServer | None, content: bytes) -> Seen | None:
        """What is on it; None where nobody says. Raises TaskRetryError."""
        model = self._settings.vision_model
        if model is not None and self._has("vision", model):
            return Seen(
                labels=self._job["labels"] or [],
                description=self._job["description"],
                style_tags=self._job["style_tags"] or [],
            )
        if model is None or server is None:
            self._leave_out("off" if model is None else "not_configured", "vision", "style")
            return None
        shown = await shown_of(content)
        found = await self._asked(look(server, model, shown), "vision", "style")
        if found is None:
            return None
        seen = found.seen
        self._find("vision", model, found.raw)
        self._find("style", model, found.raw)
        self._summary["vision_labels"] = seen.labels
        self._summary["vision_description"] = seen.description
        self._summary["style_tags"] = seen.style_tags
        if self._job["nsfw_score"] is None and seen.nsfw is not None:
            self._rate(model, seen.nsfw, "vision_model", model)
            self._summary["nsfw_score"] = seen.nsfw
        return seen

    async def _embedded(self, server: ModelServer | None, seen: Seen | None) -> None:
        """A vector of what is on it. Raises TaskRetryError."""
        model = self._settings.embedding_model
        if model is None or server is None or seen is None:
            self._leave_out("off" if model is None else "nothing_seen", "embedding")
            return
        if self._job["embedding_model"] == model and "vision" not in self.found:
            return
        vector = await self._asked(embed(server, model, seen), "embedding")
        if vector is not None:
            self._summary["vision_embedding"] = vector
            self._summary["vision_embedding_model"] = model
            self.found.append("embedding")

    async def _asked(self, asking: Awaitable[Answer], *parts: str) -> Answer | None:
        """What a model answers; None where it never will, and so these are left out.

        Raises TaskRetryError.
        """
        try:
            return await asking
        except NotNowError as error:
            raise TaskRetryError(error.reason, seconds=self._pause(error.seconds)) from None
        except UnreadableError as error:
            if self._context.attempt < UNREADABLE_ATTEMPTS:
                raise TaskRetryError(error.reason, seconds=self._pause(None)) from None
            self._leave_out(error.reason, *parts)
        except RefusedError as error:
            self._leave_out(error.reason, *parts)
        return None

    def _pause(self, told: float | None) -> float:
        if told is not None:
            return min(told, MAX_PAUSE_SECONDS)
        seconds: int = min(
            FIRST_PAUSE_SECONDS * 4 ** (self._context.attempt - 1), MAX_PAUSE_SECONDS
        )
        # So that what failed together does not come back together.
        return seconds * random.uniform(0.75, 1.25)  # noqa: S311

    def _rate(
        self, version: str, score: Decimal | float | None, by: str | None, model: str | None
    ) -> None:
        raw = {"nsfw_score": score, "scored_by": by, "model": model}
        self._find("safety", version, raw | {"safety_level": self._job["safety_level"]})

    def _find(self, kind: str, version: str, raw: dict[str, Json]) -> None:
        self._analyses.append({"type": kind, "version": version, "raw": raw})
        self._done.add((kind, version))
        self.found.append(kind)

    def _leave_out(self, reason: str, *parts: str) -> None:
        self.left_out |= dict.fromkeys(parts, reason)

    def _has(self, kind: str, version: str) -> bool:
        return (kind, version) in self._done

    @property
    def _is_rated(self) -> bool:
        return any(kind == "safety" for kind, _ in self._done)

    async def _keep(self) -> None:
        """Store what was found since the last time. Raises GoneError, QuernelError."""
        if not self._analyses and not self._summary:
            return
        answer = await self._context.database.rpc(
            "image_analysed",
            p_image_id=self._image_id,
            p_analyses=self._analyses,
            p_summary=self._summary,
        )
        self._analyses, self._summary = [], {}
        if answer["state"] == "gone":
            raise GoneError
