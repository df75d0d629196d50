"""How often a person may ask for what makes us ask Stripe something."""

from __future__ import annotations

import pytest

from tests.billing.shop import ORIGIN, Shop
from tests.conftest import NewUser, User

LIMIT = 30
"""billing_requests_per_minute, as seeded."""


def used(shop: Shop, user: User, seconds: int) -> None:
    """So many seconds' worth of requests were made just now."""
    shop.rows(
        "insert into private.billing_rates (user_id, next_at)"
        " values (%s, clock_timestamp() + make_interval(secs => %s))"
        " on conflict (user_id) do update set next_at = excluded.next_at",
        user.id,
        seconds,
    )


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
    used(shop, user, 3600)
    answer = shop.http.post(f"/billing/{path}", json=body, headers=user.headers)
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert answer.json()["limit_source"] == "billing_requests_per_minute"
    assert 3000 < int(answer.headers["retry-after"]) <= 3542
    assert shop.stripe.requests == []


def test_one_persons_limit_is_nobody_elses(shop: Shop, user: User, new_user: NewUser) -> None:
    used(shop, user, 3600)
    assert shop.checkout(user).status_code == 429
    assert shop.checkout(new_user()).status_code == 200


def test_what_was_used_comes_back_evenly(shop: Shop, user: User) -> None:
    """A minute's worth at once, and one more every two seconds."""
    left = []
    for seconds in (0, 30):
        used(shop, user, seconds)
        left.append(shop.service.rpc("billing_request", p_user_id=user.id)["remaining"])
    assert left[0] == LIMIT - 1
    assert LIMIT / 2 - 1 <= left[1] < LIMIT - 1


def test_a_request_that_is_refused_counts_as_well(shop: Shop, user: User) -> None:
    assert shop.checkout(user, pack="no-such-pack").status_code == 404
    (row,) = shop.rows("select next_at from private.billing_rates where user_id = %s", user.id)
    assert shop.checkout(user, pack="no-such-pack").status_code == 404
    (again,) = shop.rows("select next_at from private.billing_rates where user_id = %s", user.id)
    assert again["next_at"] > row["next_at"]
