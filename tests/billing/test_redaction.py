"""The inbox keeps no personal data: what is not there need not be found when somebody is erased."""

from __future__ import annotations

import json

from tests.billing.shop import Shop
from tests.conftest import User

PERSONAL = {
    "name": "Ada Lovelace",
    "email": "ada@personal.example",
    "phone": "+441234567890",
    "line1": "12 St James's Square",
    "ip": "203.0.113.77",
    "fingerprint": "Xt5EWLLDS7FJjR1c",
    "tax_id": "GB123456789",
    "page": "https://hooks.stripe.com/3d_secure_2/hosted?merchant=a&payment_intent=secret",
}


def test_names_addresses_and_fingerprints_are_not_stored(shop: Shop, user: User) -> None:
    purchase = shop.buy(user)
    event = shop.completed(purchase)
    event["data"]["object"] |= {
        "customer_email": PERSONAL["email"],
        "customer_details": {
            "name": PERSONAL["name"],
            "email": PERSONAL["email"],
            "phone": PERSONAL["phone"],
            "address": {"line1": PERSONAL["line1"]},
        },
        "collected_information": {"individual_name": PERSONAL["name"]},
        "shipping_details": {"name": PERSONAL["name"]},
        "client_secret": "cs_secret_value",
        "customer_tax_ids": [{"type": "eu_vat", "value": PERSONAL["tax_id"]}],
        "next_action": {"redirect_to_url": {"url": PERSONAL["page"]}},
    }
    event["data"]["previous_attributes"] = {"customer_email": PERSONAL["email"]}
    assert shop.result(event) == "applied"

    refunded = shop.refunded(purchase, 100)
    charge = refunded["data"]["object"]
    charge["billing_details"] = {"name": PERSONAL["name"], "address": {"line1": PERSONAL["line1"]}}
    charge["receipt_email"] = PERSONAL["email"]
    charge["payment_method_details"]["card"]["fingerprint"] = PERSONAL["fingerprint"]
    assert shop.result(refunded) == "applied"

    dispute = shop.stripe.world.dispute(charge["id"], status="needs_response")
    dispute["evidence"] |= {
        "customer_name": PERSONAL["name"],
        "customer_purchase_ip": PERSONAL["ip"],
        "customer_signature": "file_signature",
    }
    assert shop.result(shop.event("charge.dispute.created", dispute)) == "applied"

    kept = json.dumps(
        [
            shop.rows("select payload::text, outcome::text, last_error from private.stripe_events"),
            shop.rows("select state::text from private.stripe_objects"),
            shop.rows("select payload::text from private.tasks"),
        ]
    )
    for value in (*PERSONAL.values(), "cs_secret_value", "file_signature", user.email):
        assert value not in kept
    # What the handlers need, and a card's last digits for step-by-step support, stay.
    (row,) = shop.inbox(refunded)
    assert row["payload"]["data"]["object"]["payment_method_details"]["card"]["last4"] == "4242"


def test_the_object_read_from_stripe_is_redacted_too(shop: Shop, user: User) -> None:
    purchase = shop.paid(user)
    first = shop.refunded(purchase, 100)
    second = shop.refunded(purchase, 100) | {"created": first["created"]}
    charge = shop.charge(purchase)
    shop.stripe.world.change(charge["id"], receipt_email=PERSONAL["email"])
    assert [shop.result(first), shop.result(second)] == ["applied", "applied"]
    row = shop.row("select state::text from private.stripe_objects where id = %s", charge["id"])
    assert PERSONAL["email"] not in row["state"]
