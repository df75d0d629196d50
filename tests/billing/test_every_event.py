"""Every handled event ends the same whether it is delivered once, twice, or by twenty at once."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.billing.every_event import CHANGES_NOTHING, SCENES, Stage, books
from tests.billing.shop import Shop
from tests.billing.subscribers import Subscribers
from tests.conftest import NewUser

OWN = [
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "a uuid"),
    (r"\b([a-z]+(?:_test)?)_[0-9a-f]{24}\b", r"\1"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[^\" ]*", "a time"),
    (r'"id": \d+', '"id": "a count"'),
    (r'"fingerprint": "[0-9a-f]+"', '"fingerprint": "of these"'),
    (r"DOUBLE-\d+-[0-9a-f]{6}", "a number"),
    (r"user-[0-9a-f]{12}", "a name"),
]
"""What differs between two people to whom the same happens."""


def common(rows: dict[str, list[Any]]) -> dict[str, list[str]]:
    """Rows without what is only one person's."""
    shown = {}
    for table, found in rows.items():
        text = "\n".join(json.dumps(row, sort_keys=True) for row in found)
        for pattern, word in OWN:
            text = re.sub(pattern, word, text)
        shown[table] = sorted(text.splitlines())
    return shown


def test_every_handled_event_has_its_scene(shop: Shop) -> None:
    rows = shop.rows("select event_type from private.stripe_event_types")
    assert {row["event_type"] for row in rows} == SCENES.keys()


@pytest.mark.parametrize("kind", SCENES)
def test_once_twice_or_twenty_at_once(
    subscribers: Subscribers, new_user: NewUser, kind: str
) -> None:
    shop = subscribers.shop
    stage = Stage(subscribers, new_user())
    event = SCENES[kind](stage, kind)
    before = books(stage)
    assert shop.result(event) == "applied"
    once = books(stage)
    assert (common(once) == common(before)) == (kind in CHANGES_NOTHING)
    assert shop.result(event) == "duplicate"
    assert books(stage) == once

    other = Stage(subscribers, new_user())
    event = SCENES[kind](other, kind)
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda _: shop.deliver(event), range(20)))
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert shop.result(event) == "duplicate"
    assert common(books(other)) == common(once)
