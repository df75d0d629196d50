"""What the worker does for privacy: erase a person.

The order, and why it is so, is in the chapter of the migrations.
"""

from __future__ import annotations

from functools import partial
from uuid import UUID

from functions.billing.mirror import mirrored
from functions.billing.stripe_client import StripeGateway, stripe_client
from functions.core.auth_admin import open_auth_admin
from functions.core.json import Json
from functions.core.settings import SettingsError
from functions.core.storage import open_storage
from functions.tasks.context import TaskContext, TaskRejectedError

STEP_SECONDS = 60.0
FINISH_SECONDS = 600.0
"""As the functions of the database set them."""


async def erase_person(payload: dict[str, Json], context: TaskContext) -> dict[str, Json]:
    """Execute an erasure that is due, or go on with it.

    What it has to wait for is looked at again by the job erasures_due. Raises TaskRejectedError
    where no erasure is named, or where the settings for a part of it are missing; any other error
    means: again later.
    """
    erasure_id = payload.get("erasure_id")
    if not isinstance(erasure_id, str):
        raise TaskRejectedError("the payload names no erasure")
    job = await context.database.rpc("erasure_begin", p_id=erasure_id)
    if job is None:
        return {"result": "over"}
    try:
        await _erase_rows(context, erasure_id)
        await _delete_customers(context, job["customers"])
        await _delete_objects(context, erasure_id)
        async with open_auth_admin(context.settings) as auth:
            await auth.delete_user(UUID(job["user_id"]))
        # What a request that was under way made meanwhile.
        await _erase_rows(context, erasure_id)
        await _delete_objects(context, erasure_id)
    except SettingsError as error:
        raise TaskRejectedError(str(error)) from None
    finished = await context.database.long_rpc("erasure_finish", FINISH_SECONDS, p_id=erasure_id)
    return dict(finished)


async def _erase_rows(context: TaskContext, erasure_id: str) -> None:
    position = 0
    while position is not None:
        step = await context.database.long_rpc(
            "erasure_step", STEP_SECONDS, p_id=erasure_id, p_position=position
        )
        position = step["position"]


async def _delete_customers(context: TaskContext, customers: list[str]) -> None:
    """Raises TaskRejectedError where there are some and no way to ask Stripe."""
    if not customers:
        return
    async with stripe_client(context.settings) as client:
        if client is None:
            raise TaskRejectedError("payments are not configured")
        gateway = StripeGateway(client)
        for customer_id in customers:
            delete = partial(gateway.delete_customer, customer_id)
            await mirrored(context.database, "customer", customer_id, delete)


async def _delete_objects(context: TaskContext, erasure_id: str) -> None:
    """Raises SettingsError, StorageError."""
    while True:
        found = await context.database.rpc("erasure_objects", p_id=erasure_id)
        if not found["objects"]:
            return
        for folder in found["objects"]:
            async with open_storage(context.settings, folder["bucket"]) as storage:
                await storage.delete(folder["paths"])
