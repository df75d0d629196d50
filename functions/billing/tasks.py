"""What the worker does for billing."""

from __future__ import annotations

from functions.billing.mirror import ended_session, mirrored
from functions.billing.reconcile import Reconciler
from functions.billing.service import InboxService
from functions.billing.stripe_client import Reading, StripeGateway, stripe_client
from functions.billing.stripe_errors import provider_error
from functions.billing.stripe_lists import StripeLists
from functions.billing.stripe_payments import PaymentGateway
from functions.billing.stripe_subscriptions import SubscriptionGateway
from functions.billing.top_ups import TopUpService
from functions.core.errors import QuernelError, UnavailableError
from functions.core.json import Json
from functions.tasks.context import TaskContext, TaskRejectedError, TaskRetryError

ENDED = ("canceled", "incomplete_expired")
"""States of a subscription in which nothing is charged any more."""


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


async def cancel_subscription(payload: dict[str, Json], context: TaskContext) -> dict[str, Json]:
    """Cancel a subscription whose owner is gone; one that has ended already stays as it is.

    Raises TaskRejectedError when there is none named or no way to ask Stripe; any other error
    means: again later.
    """
    subscription_id = payload.get("stripe_subscription_id")
    if not isinstance(subscription_id, str):
        raise TaskRejectedError("the payload names no subscription")
    async with stripe_client(context.settings) as client:
        if client is None:
            raise TaskRejectedError("payments are not configured")
        gateway, subscriptions = StripeGateway(client), SubscriptionGateway(client)

        async def end() -> Reading:
            try:
                return await subscriptions.cancel_now(
                    {"stripe_subscription_id": subscription_id}, f"quernel-leave-{subscription_id}"
                )
            except QuernelError as error:
                if error.code != "payment_provider_error":
                    raise
                return await gateway.read("subscription", subscription_id)

        state = await mirrored(context.database, "subscription", subscription_id, end)
    if state["status"] not in ENDED:
        raise provider_error()
    return {"result": state["status"]}


async def expire_checkout(payload: dict[str, Json], context: TaskContext) -> dict[str, Json]:
    """End a page on which somebody who is gone could still pay; one that was used stays so.

    Raises as `cancel_subscription`.
    """
    session_id = payload.get("stripe_checkout_session_id")
    if not isinstance(session_id, str):
        raise TaskRejectedError("the payload names no checkout")
    async with stripe_client(context.settings) as client:
        if client is None:
            raise TaskRejectedError("payments are not configured")
        state = await ended_session(context.database, StripeGateway(client), session_id)
    if state["status"] == "open":
        raise provider_error()
    return {"result": state["status"]}


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
