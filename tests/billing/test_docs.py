"""docs/stripe.md says what the handler map says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args, get_type_hints

import stripe
from stripe.params import WebhookEndpointCreateParams

from functions.billing.stripe_client import StripeGateway
from functions.core.settings import STRIPE_API_VERSION
from local.paths import ROOT
from tests.billing.handler_map import documented, observe
from tests.billing.shop import Shop


def test_the_table_of_handled_events_is_the_handler_map(shop: Shop) -> None:
    with shop.connect() as connection:
        assert documented() == observe(connection)


def test_every_handler_exists(shop: Shop) -> None:
    missing = shop.rows(
        "select handler from private.stripe_object_handlers"
        " where to_regprocedure('private.' || handler || '(text, jsonb)') is null"
    )
    assert missing == []


def test_every_object_with_a_handler_can_be_read(shop: Shop) -> None:
    handled = {
        row["object_type"] for row in shop.rows("select * from private.stripe_object_handlers")
    }
    assert handled == set(StripeGateway(stripe.StripeClient("sk_test_none"))._readers)


def test_every_handled_event_is_one_stripe_sends(shop: Shop) -> None:
    """By the names that the installed SDK knows."""
    # The SDK imports these names for type checkers only.
    hints = get_type_hints(
        WebhookEndpointCreateParams, localns={"StripeContext": object, "Mapping": Mapping}
    )
    (names,) = get_args(hints["enabled_events"])
    rows = shop.rows("select event_type from private.stripe_event_types")
    assert {row["event_type"] for row in rows} <= set(get_args(names))


def test_the_api_version_is_the_installed_sdks() -> None:
    assert stripe.api_version == STRIPE_API_VERSION
    assert STRIPE_API_VERSION in (ROOT / "docs" / "stripe.md").read_text()
