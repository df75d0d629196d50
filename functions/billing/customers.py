"""The one customer at Stripe that stands for a user or an organization."""

from __future__ import annotations

from uuid import UUID

from functions.billing.stripe_client import StripeGateway
from functions.core.database import Database


async def require_customer(
    database: Database, gateway: StripeGateway, user_id: UUID, organization_id: str | None
) -> str:
    """The id of the owner's customer, made on the first checkout. Raises QuernelError."""
    claim = await database.rpc(
        "customer_claim", p_user_id=user_id, p_organization_id=organization_id
    )
    if claim["customer_id"] is not None:
        return str(claim["customer_id"])
    created = await gateway.create_customer(
        claim["claim_id"],
        email=claim["email"],
        name=claim["name"],
        owner=(
            {"quernel_organization_id": organization_id}
            if organization_id
            else {"quernel_user_id": str(user_id)}
        ),
    )
    attached = await database.rpc(
        "customer_attach", p_claim_id=claim["claim_id"], p_customer_id=created
    )
    return str(attached["customer_id"])
