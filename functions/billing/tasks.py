"""What the worker does for billing."""

from __future__ import annotations

from functions.billing.reconcile import Reconciler
from functions.billing.service import InboxService
from functions.billing.stripe_client import StripeGateway, stripe_client
from functions.billing.stripe_lists import StripeLists
from functions.billing.stripe_payments import PaymentGateway
from functions.billing.top_ups import TopUpService
from functions.core.errors import QuernelError, UnavailableError
from functions.core.json import Json
from functions.tasks.context import TaskContext, TaskRejectedError, TaskRetryError


async def apply_stripe_event(payload: dict[str, Json], context: TaskContext) -> dict[str, Json]:
    """Apply an event of the inbox that was stored and not finished.

    Raises TaskRejectedError when there is nothing to apply or no way to ask Stripe; any other error
    means: again later.
    """
    event_id = payload.get("event_id")
    if not isinstance(event_id, str):
        raise TaskRejectedError("the payload names no event")
    async with stripe_client(context.settings) as client:
        if client is None:
            raise TaskRejectedError("payments are not configured")
        try:
            result = await InboxService(context.database, StripeGateway(client)).retry(event_id)
        except QuernelError as error:
            if error.code == "event_not_found":
                raise TaskRejectedError("there is no such event") from None
            raise
    return {"result": result}


async def buy_automatic_top_up(payload: dict[str, Json], context: TaskContext) -> dict[str, Json]:
    """Top an account up, if it still needs it.

    Raises TaskRejectedError when there is no account named or no way to ask Stripe; any other error
    means: again later, for the same purchase.
    """
    account_id = payload.get("account_id")
    if not isinstance(account_id, str):
        raise TaskRejectedError("the payload names no account")
    async with stripe_client(context.settings) as client:
        if client is None:
            raise TaskRejectedError("payments are not configured")
        service = TopUpService(context.database, StripeGateway(client), PaymentGateway(client))
        return await service.buy(account_id)


async def reconcile_stripe(_: dict[str, Json], context: TaskContext) -> dict[str, Json]:
    """Compare with Stripe and repair; without payments there is nothing to compare.

    Raises TaskRetryError when Stripe or the database asks to wait, longer each time; the next
    attempt goes on where this one stopped.
    """
    async with stripe_client(context.settings) as client:
        if client is None:
            return {"result": "payments_not_configured"}
        reconciler = Reconciler(
            context.settings, context.database, StripeGateway(client), StripeLists(client)
        )
        try:
            return await reconciler.run()
        except UnavailableError as error:
            pause = (error.retry_after or 1) * 2 ** (context.attempt - 1)
            raise TaskRetryError(error.code, seconds=pause) from None
