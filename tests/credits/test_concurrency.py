"""Many connections on the same accounts, with the checks run while they work."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from local.stack import Stack
from tests.checks.queries import findings
from tests.credits.ledger import (
    Ledger,
    Payer,
    Refused,
    call,
    connect,
    hold_arguments,
    new_key,
    pass_deadline,
)
from tests.credits.parallel import at_once, open_doors, split

STORM_THREADS = 16
STORM_STEPS = 160  # of each thread
STORM_SEED = 20260101


@pytest.fixture(scope="module")
def doors(stack: Stack) -> Iterator[list[psycopg.Connection]]:
    """A hundred connections as the backend."""
    doors = open_doors(stack.functions_dsn, 100)
    yield doors
    for door in doors:
        door.close()


def test_a_hundred_parallel_holds_never_oversell(
    ledger: Ledger, doors: list[psycopg.Connection]
) -> None:
    payer = ledger.new_payer(37)
    assert len({door.info.backend_pid for door in doors}) == 100

    placed, refused = split(
        at_once(
            doors,
            lambda door, _: call(door, "backend.credit_hold", **hold_arguments(payer, 1)),
        )
    )

    assert len(placed) == 37
    assert Counter((r.status, r.code) for r in refused) == {(402, "insufficient_credits"): 63}
    account = ledger.account(payer)
    assert (account["balance"], account["held"], account["active_holds"]) == (37, 37, 37)
    ledger.verify(payer)


def test_a_hundred_members_never_overspend_their_organization(
    ledger: Ledger, doors: list[psycopg.Connection]
) -> None:
    payer = ledger.new_organization(1000, members=4)
    ledger.admin.execute(
        "update public.credit_accounts set monthly_credit_budget = 37 where id = %s",
        [payer.account_id],
    )
    placed, refused = split(
        at_once(
            doors,
            lambda door, index: call(
                door, "backend.credit_hold", **hold_arguments(payer, 1, member=index % 4)
            ),
        )
    )
    assert len(placed) == 37
    assert {r.code for r in refused} == {"budget_exceeded"}
    ledger.verify(payer)


@pytest.mark.parametrize("operation", ["grant", "hold", "settle", "refund"])
def test_the_same_key_fifty_times_in_parallel_has_one_effect(
    ledger: Ledger, doors: list[psycopg.Connection], operation: str
) -> None:
    payer = ledger.new_payer(100)
    key = new_key()
    active, settled = ledger.hold(payer, 10)["hold_id"], ledger.spend(payer, 10)
    before = ledger.account(payer)

    function, arguments = {
        "grant": (
            "backend.credit_grant",
            {
                "p_user_id": payer.user,
                "p_amount": 5,
                "p_source": "bonus",
                "p_idempotency_key": key,
                "p_actor": "tests",
            },
        ),
        "hold": ("backend.credit_hold", hold_arguments(payer, 5, key)),
        "settle": ("backend.credit_settle", {"p_hold_id": active, "p_amount": 5}),
        "refund": (
            "backend.credit_refund",
            {"p_hold_id": settled, "p_amount": 5, "p_idempotency_key": key, "p_reason": "test"},
        ),
    }[operation]
    done, refused = split(at_once(doors[:50], lambda door, _: call(door, function, **arguments)))

    assert (len(done), refused) == (50, [])
    if operation == "hold":
        assert len({result["hold_id"] for result in done}) == 1
    else:
        assert Counter(result["replayed"] for result in done) == {False: 1, True: 49}
    after = ledger.account(payer)
    changes = {"grant": (5, 0, 1), "hold": (0, 5, 0), "settle": (-5, -10, 1), "refund": (5, 0, 1)}
    assert (
        tuple(after[name] - before[name] for name in ("balance", "held", "version"))
        == changes[operation]
    )
    ledger.verify(payer)


# A storm -----------------------------------------------------------------------------------------

EXPECTED_REFUSALS = {
    "insufficient_credits",
    "account_in_debt",
    "budget_exceeded",
    "hold_already_settled",
    "hold_released",
    "hold_expired",
    "refund_exceeds_settlement",
}


def some(dice: random.Random, most: int) -> Decimal:
    """An amount, to the last decimal."""
    return Decimal(dice.randint(1, most * 1_000_000)) / 1_000_000


class Storm:
    """What threads do to accounts: anything, to holds and lots that others are working on."""

    def __init__(self, ledger: Ledger, payers: list[Payer]) -> None:
        self.ledger = ledger
        self.payers = payers
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.lots: dict[Payer, list[tuple[str, Decimal]]] = {payer: [] for payer in payers}
        self.holds: dict[Payer, list[tuple[str, Decimal]]] = {payer: [] for payer in payers}
        for payer in payers:
            self.lots[payer].append((ledger.grant(payer, 200)["lot_id"], Decimal(200)))
            self.holds[payer].append((ledger.hold(payer, 10)["hold_id"], Decimal(10)))

    def run(self, seed: int) -> None:
        """One thread. Raises anything but an expected refusal."""
        dice = random.Random(seed)  # noqa: S311
        steps = {
            self._grant: 3,
            self._hold: 8,
            self._settle: 7,
            self._release: 2,
            self._extend: 2,
            self._refund: 3,
            self._claw_back: 2,
            self._reap: 2,
            self._expire: 2,
            self._set_budget: 1,
        }
        door, admin = connect(self.ledger.functions_dsn), connect(self.ledger.admin_dsn)
        try:
            for _ in range(STORM_STEPS):
                step = dice.choices(list(steps), list(steps.values()))[0]
                try:
                    step(dice, door, admin, dice.choice(self.payers))
                    self.done[step.__name__] += 1
                except Refused as refusal:
                    if refusal.code not in EXPECTED_REFUSALS:
                        raise
                    self.refused[refusal.code] += 1
        finally:
            door.close()
            admin.close()

    def _some_hold(self, dice: random.Random, payer: Payer) -> tuple[str, Decimal]:
        # Mostly a recent one, which others are likely to be working on.
        holds = self.holds[payer]
        return holds[-min(len(holds), dice.randint(1, 12))]

    def _grant(self, dice: random.Random, door: Any, _: Any, payer: Payer) -> None:
        amount, expires_at = some(dice, 40), None
        if dice.random() < 0.6:
            expires_at = datetime.now(UTC) + timedelta(seconds=dice.uniform(0.2, 2))
        result = call(
            door,
            "backend.credit_grant",
            p_user_id=None if payer.organization_id else payer.user,
            p_organization_id=payer.organization_id,
            p_amount=amount,
            p_source="bonus",
            p_idempotency_key=new_key(),
            p_expires_at=expires_at,
            p_priority=dice.choice([50, 100, 150]),
            p_actor="tests",
        )
        self.lots[payer].append((result["lot_id"], amount))

    def _hold(self, dice: random.Random, door: Any, _: Any, payer: Payer) -> None:
        amount = some(dice, 25)
        arguments = hold_arguments(
            payer,
            amount,
            member=dice.randrange(len(payer.users)),
            p_seconds=dice.choice([1, 60]),
            p_tokens=dice.randrange(1000),
        )
        hold = call(door, "backend.credit_hold", **arguments)
        self.holds[payer].append((hold["hold_id"], amount))

    def _settle(self, dice: random.Random, door: Any, _: Any, payer: Payer) -> None:
        hold_id, amount = self._some_hold(dice, payer)
        share = (amount * dice.choice([0, 1, 2]) / 2).quantize(Decimal("0.000001"))
        call(door, "backend.credit_settle", p_hold_id=hold_id, p_amount=min(share, amount))

    def _release(self, dice: random.Random, door: Any, _: Any, payer: Payer) -> None:
        hold_id, _amount = self._some_hold(dice, payer)
        call(door, "backend.credit_release", p_hold_id=hold_id, p_reason="test")

    def _extend(self, dice: random.Random, door: Any, _: Any, payer: Payer) -> None:
        hold_id, _amount = self._some_hold(dice, payer)
        call(door, "backend.credit_extend", p_hold_id=hold_id, p_seconds=dice.randint(1, 5))

    def _refund(self, dice: random.Random, door: Any, _: Any, payer: Payer) -> None:
        hold_id, _amount = self._some_hold(dice, payer)
        call(
            door,
            "backend.credit_refund",
            p_hold_id=hold_id,
            p_amount=some(dice, 8),
            p_idempotency_key=new_key(),
            p_reason="test",
        )

    def _claw_back(self, dice: random.Random, _: Any, admin: Any, payer: Payer) -> None:
        lot_id, amount = dice.choice(self.lots[payer][-8:])
        target = (amount * dice.choice([0, 0, 1, 2]) / 2).quantize(Decimal("0.000001"))
        call(
            admin,
            "private.credit_claw_back",
            p_lot_id=lot_id,
            p_target=min(target, amount),
            p_reason="test",
            p_reference="pi_test",
        )

    def _reap(self, dice: random.Random, door: Any, admin: Any, payer: Payer) -> None:
        hold_id, _amount = self._some_hold(dice, payer)
        pass_deadline(admin, hold_id)
        call(door, "backend.credit_reap", p_limit=dice.choice([1, 5, 500]))

    def _expire(self, dice: random.Random, door: Any, _: Any, __: Payer) -> None:
        call(door, "backend.credit_expire", p_limit=dice.choice([1, 5, 500]))

    def _set_budget(self, dice: random.Random, _: Any, admin: Any, payer: Payer) -> None:
        budget = dice.choice([None, None, Decimal(100_000), Decimal(5)])
        admin.execute(
            "update public.credit_accounts set monthly_credit_budget = %s where id = %s",
            [budget, payer.account_id],
        )


def test_the_checks_are_empty_at_every_moment_of_a_storm(ledger: Ledger) -> None:
    payers = [ledger.new_payer() for _ in range(3)] + [
        ledger.new_organization(members=3) for _ in range(2)
    ]
    storm = Storm(ledger, payers)
    account_ids = [payer.account_id for payer in payers]
    is_over = threading.Event()
    looks = 0

    def watch() -> int:
        looks = 0
        with connect(ledger.admin_dsn) as watcher:
            while not is_over.is_set():
                assert findings(watcher, account_ids) == []
                looks += 1
                time.sleep(0.02)
        return looks

    with ThreadPoolExecutor(STORM_THREADS + 1) as pool:
        watching = pool.submit(watch)
        running = [pool.submit(storm.run, STORM_SEED + n) for n in range(STORM_THREADS)]
        try:
            for thread in running:
                thread.result()
        finally:
            is_over.set()
        looks = watching.result()

    assert looks >= 5
    # Everything happened, or this was no storm.
    assert len(storm.done) == 10, storm.done
    assert storm.refused["hold_already_settled"] > 0
    ledger.reap(*(hold_id for payer in payers for hold_id, _ in storm.holds[payer]))
    ledger.verify(*payers)
    for payer in payers:
        account = ledger.account(payer)
        assert (account["held"], account["active_holds"], account["tokens_held"]) == (0, 0, 0)
