"""What the worker does for provider keys."""

from __future__ import annotations

from functions.core.errors import OperatorError
from functions.core.http import SafeClient
from functions.core.json import Json
from functions.provider_keys.checker import open_key_checker
from functions.provider_keys.service import checked
from functions.tasks.context import TaskContext, TaskRejectedError, TaskRetryError

RETRY_SECONDS = 600.0  # a provider that did not answer is asked again


async def check_idle_key(payload: dict[str, Json], context: TaskContext) -> dict[str, Json]:
    """Ask a provider about a key that lies idle.

    Raises TaskRejectedError where no key is named or it cannot be opened here, TaskRetryError while
    the provider does not say anything.
    """
    key_id = payload.get("provider_key_id")
    if not isinstance(key_id, str):
        raise TaskRejectedError("the payload names no key")
    if context.vault is None:
        raise TaskRejectedError("no master keys are configured")
    stored = await context.database.rpc("provider_key_idle", p_id=key_id)
    if stored is None:
        return {"result": "gone"}
    safe_client = SafeClient()
    try:
        async with open_key_checker(context.settings, safe_client) as checker:
            key = await checked(context.database, context.vault, checker, stored, None)
    except OperatorError as error:
        raise TaskRejectedError(error.operator_code) from None
    finally:
        await safe_client.aclose()
    check = key["check"]
    if check["is_valid"] is None:
        raise TaskRetryError("the provider did not say", seconds=RETRY_SECONDS * context.attempt)
    return {"result": check["outcome"]}
