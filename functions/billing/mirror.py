"""Applies what Stripe answered to the database at once, without waiting for its event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from functions.billing.stripe_client import Reading, StripeGateway
from functions.core.database import Database
from functions.core.errors import QuernelError
from functions.core.json import Json


async def mirrored(
    database: Database,
    object_type: str,
    object_id: str,
    call: Callable[[], Awaitable[Reading]],
) -> dict[str, Json]:
    """Make a call that answers with the state of one object; that state is applied and returned.

    When an event of the object is applied meanwhile, that one counts: it is as new, and what was
    answered may not be.

    Raises QuernelError of the call or of the database.
    """
    state, _ = await reapplied(database, object_type, object_id, call)
    return state


async def reapplied(
    database: Database,
    object_type: str,
    object_id: str,
    call: Callable[[], Awaitable[Reading]],
) -> tuple[dict[str, Json], str]:
    """As `mirrored`; also says what came of it: applied, ignored, or stale (an event counts)."""
    known = await database.rpc(
        "stripe_read_start", p_object_type=object_type, p_object_id=object_id
    )
    reading = await call()
    done = await database.rpc(
        "stripe_read_finish",
        p_object=reading.state,
        p_revision=known["revision"],
        p_asked_at=known["asked_at"],
        p_fetched_at=reading.at,
    )
    return reading.state, str(done["result"])


async def ended_session(
    database: Database, gateway: StripeGateway, session_id: str
) -> dict[str, Json]:
    """End a checkout session; its state, also where it was used or has ended already.

    Raises QuernelError of the call or of the database.
    """

    async def end() -> Reading:
        try:
            return await gateway.expire_session(session_id)
        except QuernelError as error:
            if error.code != "payment_provider_error":
                raise
            return await gateway.read("checkout.session", session_id)

    return await mirrored(database, "checkout.session", session_id, end)
