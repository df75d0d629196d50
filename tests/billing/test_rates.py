"""How often a person may ask for what makes us ask Stripe something."""

from __future__ import annotations

import pytest

from tests.billing.shop import ORIGIN, Shop
from tests.conftest import NewUser, User

LIMIT = 30
"""billing_requests_per_minute, as seeded."""


def use_up(shop: Shop, user: User, left: int = 0) -> None:
    for _ in range(LIMIT - left):
        shop.service.rpc("billing_request", p_user_id=user.id)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("checkout", {"pack": "starter", "success_url": ORIGIN, "cancel_url": ORIGIN}),
        (
            "subscriptions",
            {"plan": "pro", "interval": "month", "success_url": ORIGIN, "cancel_url": ORIGIN},
        ),
        ("subscriptions/00000000-0000-0000-0000-000000000000/resume", None),
        ("portal", {"return_url": ORIGIN}),
    ],
)
def test_beyond_the_limit_nothing_is_asked_of_stripe(
    shop: Shop, user: User, path: str, body: dict[str, object] | None
) -> None:
    use_up(shop, user)
    answer = shop.http.post(f"/billing/{path}", json=body, headers=user.headers)
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert answer.json()["limit_source"] == "billing_requests_per_minute"
    assert 1 <= int(answer.headers["retry-after"]) <= 3
    assert shop.stripe.requests == []


def test_one_persons_limit_is_nobody_elses(shop: Shop, user: User, new_user: NewUser) -> None:
    use_up(shop, user)
    assert shop.checkout(user).status_code == 429
    assert shop.checkout(new_user()).status_code == 200


def test_what_was_used_comes_back_evenly(shop: Shop, user: User) -> None:
    use_up(shop, user)
    shop.rows(
        "update private.billing_rates set next_at = next_at - interval '2 seconds'"
        " where user_id = %s",
        user.id,
    )
    assert [shop.checkout(user).status_code for _ in range(2)] == [200, 429]


def test_a_request_that_is_refused_counts_as_well(shop: Shop, user: User) -> None:
    use_up(shop, user, left=1)
    assert shop.checkout(user, pack="no-such-pack").status_code == 404
    assert shop.checkout(user).status_code == 429
