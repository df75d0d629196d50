"""The ledger against its model: any order of operations, compared after every one.

`QUERNEL_HYPOTHESIS=thorough` runs many more and other examples than the fixed ones of every day.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.checks.queries import findings
from tests.credits.ledger import (
    Ledger,
    Refused,
    call,
    hold_arguments,
    new_key,
    one,
    pass_deadline,
    pass_expiry,
)
from tests.credits.model import FOREVER, Account, Member, RefusedByModel

THOROUGH = os.environ.get("QUERNEL_HYPOTHESIS") == "thorough"
COMMON = settings(
    deadline=None, suppress_health_check=list(HealthCheck), print_blob=False, database=None
)
EVERY_DAY = settings(
    COMMON,
    max_examples=30,
    stateful_step_count=40,
    derandomize=True,
    phases=[Phase.generate],
)
MANY = settings(COMMON, max_examples=1500, stateful_step_count=80)

GRAIN = Decimal("0.000001")  # the finest credit there is
GRACE = timedelta(days=30)  # refund_grace_days

amounts = st.one_of(
    st.integers(1, 60).map(Decimal),
    st.decimals(min_value=GRAIN, max_value=100, places=6),
)
indexes = st.integers(0, 1_000_000)  # modulo however many there are
members = st.integers(0, 1)
expiring = st.one_of(st.none(), st.none(), st.none(), indexes)
"""Which lot's date passes at the very moment of an operation."""
shares = st.sampled_from(["nothing", "grain", "part", "part", "all", "all", "more"])
hold_shares = st.sampled_from(["nothing", "part", "part", "part", "most", "most", "all", "more"])

STATE = """
select jsonb_build_object(
  'balance', a.balance, 'held', a.held, 'debt', a.debt, 'budget', a.monthly_credit_budget,
  'active', a.active_holds, 'spent', a.period_credits, 'lifetime_granted', a.lifetime_granted,
  'lifetime_spent', a.lifetime_spent, 'transactions', a.version,
  'lots', coalesce((
    select jsonb_agg(
      jsonb_build_array(
        l.amount, l.remaining, l.clawed_back, l.expired, l.priority, l.expires_at is null)
      order by l.id)
    from public.credit_lots as l where l.account_id = a.id
  ), '[]'),
  'holds', coalesce((
    select jsonb_agg(
      jsonb_build_array(h.amount, h.status, h.settled_amount, h.refunded_amount)
      order by h.created_at)
    from private.credit_holds as h where h.account_id = a.id
  ), '[]'),
  'members', coalesce((
    select jsonb_agg(jsonb_build_array(m.monthly_credit_budget, s.held, s.spent)
      order by array_position(%s::uuid[], m.user_id))
    from public.organization_members as m
    left join private.member_spending as s
      on s.organization_id = m.organization_id and s.user_id = m.user_id
    where m.organization_id = a.organization_id
  ), '[]')
) from public.credit_accounts as a where a.id = %s
"""


def share_of(share: str, whole: Decimal) -> Decimal:
    """An interesting part of an amount."""
    return {
        "nothing": Decimal(0),
        "grain": GRAIN,
        "part": (whole / 3).quantize(GRAIN),
        "most": (whole * 4 / 5).quantize(GRAIN),
        "all": whole,
        "more": whole + GRAIN,
    }[share]


class LedgerMachine(RuleBasedStateMachine):
    """One account, its model, and everything that may happen to it."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        self.db = ledger.admin
        self.grants: list[dict[str, Any]] = []
        self.holds: list[dict[str, Any]] = []
        self.refunds: list[dict[str, Any]] = []
        self.hold_ids: list[str] = []
        self.is_compared = True

    @initialize(is_organization=st.booleans(), lots=st.lists(amounts, max_size=3))
    def open_account(self, is_organization: bool, lots: list[Decimal]) -> None:
        make = self.ledger.new_organization if is_organization else self.ledger.new_payer
        self.payer = make()
        self.start = datetime.now(UTC)
        self.past = self.start - timedelta(days=1)
        self.model = Account(
            now=self.start,
            grace=GRACE,
            is_organization=is_organization,
            members=[Member() for _ in self.payer.users],
        )
        for amount in lots:
            self._grant(amount, 100, None, None)

    # One step ------------------------------------------------------------------------------------

    def step(
        self,
        predict: Callable[[Account], object],
        perform: Callable[[], Any],
        expiring: int | None = None,
    ) -> Any:
        """Do the same to the model and the database; both succeed alike or fail alike.

        Everything is one transaction that ends with a sweep, because the stack's own cron may
        sweep at any moment. The result of `perform`, or None where it was refused.
        """
        model, code, result = copy.deepcopy(self.model), None, None
        lot_ids = self._lot_ids() if expiring is not None and self.model.lots else []
        try:
            with self.db.transaction():
                if lot_ids:
                    self.past += timedelta(seconds=1)
                    number = (expiring or 0) % len(lot_ids)
                    model.lots[number].expires_at = self.past
                    pass_expiry(self.db, lot_ids[number], expires_at=self.past)
                try:
                    predict(model)
                except RefusedByModel as refusal:
                    code = refusal.code
                result = perform()
                assert code is None, f"the database should have refused: {code}"
                if isinstance(result, dict) and "debt" in result:
                    assert (result["balance"], result["debt"], result["available"]) == (
                        model.balance,
                        model.debt,
                        model.available,
                    )
                call(self.db, "private.lock_account", p_account_id=self.payer.account_id)
                model.sweep()
                self._compare(model)
        except Refused as refusal:
            if refusal.code != code:
                raise AssertionError(f"{refusal} where the model says {code}") from refusal
            return None
        self.model = model
        return result

    def _lot_ids(self) -> list[str]:
        query = "select array_agg(id::text order by id) from public.credit_lots"
        ids: list[str] = one(self.db, query + " where account_id = %s", self.payer.account_id)
        return ids

    def _compare(self, model: Account) -> None:
        state = one(self.db, STATE, list(self.payer.users), self.payer.account_id)
        assert state == {
            "balance": model.balance,
            "held": model.held,
            "debt": model.debt,
            "budget": model.budget,
            "active": sum(hold.status == "active" for hold in model.holds),
            "spent": model.spent_this_month,
            "lifetime_granted": model.lifetime_granted,
            "lifetime_spent": model.lifetime_spent,
            "transactions": model.transactions,
            "lots": [
                [
                    lot.amount,
                    lot.remaining,
                    lot.clawed_back,
                    lot.expired,
                    lot.priority,
                    lot.expires_at == FOREVER,
                ]
                for lot in model.lots
            ],
            "holds": [
                [hold.amount, hold.status, hold.settled, hold.refunded] for hold in model.holds
            ],
            "members": [
                [
                    member.budget,
                    *(
                        (member.held, member.spent)
                        if state_member[1:] != [None, None]
                        else (None, None)
                    ),
                ]
                for member, state_member in zip(model.members, state["members"], strict=True)
            ]
            if model.is_organization
            else [],
        }
        self.is_compared = False

    @invariant()
    def every_check_is_empty(self) -> None:
        if not self.is_compared:
            assert findings(self.db, [self.payer.account_id]) == []
            self.is_compared = True

    # Rules ---------------------------------------------------------------------------------------

    @rule(
        amount=amounts,
        priority=st.sampled_from([10, 100, 100, 200]),
        hours=st.one_of(st.none(), st.integers(1, 48)),
        expiring=expiring,
    )
    def grant(
        self, amount: Decimal, priority: int, hours: int | None, expiring: int | None
    ) -> None:
        self._grant(amount, priority, hours, expiring)

    def _grant(
        self, amount: Decimal, priority: int, hours: int | None, expiring: int | None
    ) -> None:
        # A microsecond per lot, so that no two expire at the same time.
        expires_at = None
        if hours is not None:
            expires_at = self.start + timedelta(hours=hours, microseconds=len(self.model.lots))
        arguments = {
            "p_account_id": self.payer.account_id,
            "p_amount": amount,
            "p_source": "bonus",
            "p_idempotency_key": new_key(),
            "p_priority": priority,
            "p_expires_at": expires_at,
        }
        self.grants.append(arguments)
        result = self.step(
            lambda model: model.grant(amount, priority, expires_at or FOREVER),
            lambda: call(self.db, "private.credit_grant", **arguments),
            expiring,
        )
        assert result["replayed"] is False

    @rule(member=members, share=hold_shares, expiring=expiring)
    def hold(self, member: int, share: str, expiring: int | None) -> None:
        self._hold(member, share, expiring)

    @rule(member=members, held=hold_shares, share=shares, expiring=expiring)
    def spend(self, member: int, held: str, share: str, expiring: int | None) -> None:
        if self._hold(member, held, None):
            self._settle(len(self.hold_ids) - 1, share, expiring)

    def _hold(self, member: int, share: str, expiring: int | None) -> bool:
        amount = max(share_of(share, self.model.available), Decimal(0))
        member %= len(self.payer.users)
        arguments = hold_arguments(self.payer, amount, member=member, p_seconds=3600)
        result = self.step(
            lambda model: model.hold(member, amount),
            lambda: call(self.db, "backend.credit_hold", **arguments),
            expiring,
        )
        if result:
            self.holds.append(arguments)
            self.hold_ids.append(result["hold_id"])
        return bool(result)

    @rule(index=indexes, share=shares, expiring=expiring)
    def settle(self, index: int, share: str, expiring: int | None) -> None:
        self._settle(self._some_hold(index, "active", "expired"), share, expiring)

    def _some_hold(self, index: int, *statuses: str) -> int:
        """Mostly one in such a state, which is made where there is none; else any."""
        some = [hold.number for hold in self.model.holds if hold.status in statuses]
        if not some and not self._hold(index, "part", None):
            self._hold(index, "nothing", None)
        choice = some if index % 8 and some else range(len(self.hold_ids))
        return choice[-1 - index // 8 % len(choice)]

    def _settle(self, number: int, share: str, expiring: int | None) -> None:
        amount = share_of(share, self.model.holds[number].amount)
        was_settled = self.model.holds[number].status == "settled"
        result = self.step(
            lambda model: model.settle(number, amount),
            lambda: call(
                self.db, "backend.credit_settle", p_hold_id=self.hold_ids[number], p_amount=amount
            ),
            expiring,
        )
        if result:
            assert (result["charged"], result["replayed"]) == (amount, was_settled)

    @rule(index=indexes, expiring=expiring)
    def release(self, index: int, expiring: int | None) -> None:
        number = self._some_hold(index, "active")
        self.step(
            lambda model: model.release(number),
            lambda: call(
                self.db,
                "backend.credit_release",
                p_hold_id=self.hold_ids[number],
                p_reason="test",
            ),
            expiring,
        )

    def _extend(self, index: int) -> None:
        number, seconds = index % len(self.hold_ids), index % 3000 + 1

        def predict(model: Account) -> None:
            status = model.holds[number].status
            if status != "active":
                raise RefusedByModel(
                    "hold_already_settled" if status == "settled" else f"hold_{status}"
                )

        def perform() -> Any:
            hold_id = self.hold_ids[number]
            before = one(
                self.db, "select deadline from private.credit_holds where id = %s", hold_id
            )
            result = call(self.db, "backend.credit_extend", p_hold_id=hold_id, p_seconds=seconds)
            assert datetime.fromisoformat(result["deadline"]) >= before
            return result

        self.step(predict, perform)

    @rule(index=indexes, expiring=expiring, share=st.one_of(st.none(), shares))
    def reap(self, index: int, expiring: int | None, share: str | None) -> None:
        """With a share, the settlement comes after all."""
        number = self._some_hold(index | 1, "active")
        is_active = self.model.holds[number].status == "active"

        def perform() -> None:
            if is_active:
                pass_deadline(self.db, self.hold_ids[number])
            assert call(self.db, "backend.credit_reap", p_limit=5000)["count"] >= is_active

        self.step(
            lambda model: model.release(number, "expired") if is_active else model.sweep(),
            perform,
            expiring,
        )
        if share is not None:
            self._settle(number, share, None)

    @rule(index=indexes, share=shares, expiring=expiring)
    def refund(self, index: int, share: str, expiring: int | None) -> None:
        charged = [hold.number for hold in self.model.holds if hold.settled != hold.refunded]
        number = charged[-1 - index // 8 % len(charged)] if charged else None
        if number is None or not index % 8:
            number = self._some_hold(index, "settled")
        hold = self.model.holds[number]
        amount = share_of(share, (hold.settled or Decimal(0)) - hold.refunded)
        arguments = {
            "p_hold_id": self.hold_ids[hold.number],
            "p_amount": max(amount, GRAIN),
            "p_idempotency_key": new_key(),
            "p_reason": "test",
        }
        result = self.step(
            lambda model: model.refund(hold.number, arguments["p_amount"]),
            lambda: call(self.db, "backend.credit_refund", **arguments),
            expiring,
        )
        if result:
            self.refunds.append(arguments)

    @rule(
        index=indexes,
        share=st.sampled_from(["nothing", "part", "all", "all", "all", "more"]),
        expiring=expiring,
    )
    def claw_back(self, index: int, share: str, expiring: int | None) -> None:
        if not self.model.lots:
            self._grant(Decimal(50), 100, None, None)
        # Mostly one that was spent, at least in part.
        spent = [lot for lot in self.model.lots if lot.remaining < lot.amount - lot.clawed_back]
        choice = spent if index % 4 and spent else self.model.lots
        lot = choice[-1 - index // 4 % len(choice)]
        target = share_of(share, lot.amount)
        lot_id = self._lot_ids()[lot.number]
        self.step(
            lambda model: model.claw_back(lot.number, target),
            lambda: call(
                self.db,
                "private.credit_claw_back",
                p_lot_id=lot_id,
                p_target=target,
                p_reason="test",
                p_reference="pi_test",
            ),
            expiring,
        )

    def _expire(self, index: int) -> None:
        def perform() -> None:
            # What the owner is told before the sweep is what they find after it.
            told = one(self.db, "select private.balance_of(%s)", self.payer.account_id)
            call(self.db, "backend.credit_expire", p_limit=5000)
            found = one(self.db, "select private.account_summary(%s)", self.payer.account_id)
            assert {key: told[key] for key in found} == found

        self.step(lambda model: model.sweep(), perform, index)

    def _set_budget(self, index: int) -> None:
        member = index % len(self.payer.users)
        budget = [None, None, None, Decimal(0), Decimal(index % 1000)][index // 2 % 5]

        def predict(model: Account) -> None:
            model.budget = budget

        def predict_member(model: Account) -> None:
            model.members[member].budget = budget

        if member and self.payer.organization_id:
            self.step(
                predict_member,
                lambda: self.db.execute(
                    "update public.organization_members set monthly_credit_budget = %s"
                    " where organization_id = %s and user_id = %s",
                    [budget, self.payer.organization_id, self.payer.users[member]],
                ),
            )
        else:
            self.step(
                predict,
                lambda: self.db.execute(
                    "update public.credit_accounts set monthly_credit_budget = %s where id = %s",
                    [budget, self.payer.account_id],
                ),
            )

    @rule(index=indexes, what=st.integers(0, 5))
    def something_smaller(self, index: int, what: int) -> None:
        """One rule for what moves few credits, so that the others get their share of steps."""
        possible: list[Callable[[int], None]] = [self._set_budget]
        possible += [self._expire] if self.model.lots else []
        possible += [self._extend, self._hold_again] if self.hold_ids else []
        possible += [self._grant_again] if self.grants else []
        possible += [self._refund_again] if self.refunds else []
        possible[what % len(possible)](index)

    # Idempotency ---------------------------------------------------------------------------------

    def _grant_again(self, index: int) -> None:
        is_same = bool(index % 2)
        arguments = self.grants[index // 2 % len(self.grants)]
        result = self._again("private.credit_grant", arguments, is_same=is_same)
        assert result is None or (result["replayed"], result["amount"]) == (
            True,
            arguments["p_amount"],
        )

    def _hold_again(self, index: int) -> None:
        is_same = bool(index % 2)
        number = index // 2 % len(self.holds)
        arguments, hold = self.holds[number], self.model.holds[number]
        if not is_same:
            self._again("backend.credit_hold", arguments, is_same=False)
            return
        found: list[int] = []
        result = self.step(
            lambda model: found.append(model.hold(hold.member, hold.amount, hold.key)),
            lambda: call(self.db, "backend.credit_hold", **arguments),
        )
        if result is None:
            return
        if found[0] == len(self.hold_ids):
            self.holds.append(arguments)
            self.hold_ids.append(result["hold_id"])
        assert (result["hold_id"], result["status"]) == (
            self.hold_ids[found[0]],
            self.model.holds[found[0]].status,
        )

    def _refund_again(self, index: int) -> None:
        is_same = bool(index % 2)
        arguments = self.refunds[index // 2 % len(self.refunds)]
        result = self._again("backend.credit_refund", arguments, is_same=is_same)
        assert result is None or (result["replayed"], result["refunded"]) == (
            True,
            arguments["p_amount"],
        )

    def _again(self, function: str, arguments: dict[str, Any], *, is_same: bool) -> Any:
        def predict(_: Account) -> None:
            if not is_same:
                raise RefusedByModel("idempotency_conflict")

        amount = arguments["p_amount"] if is_same else arguments["p_amount"] + GRAIN
        return self.step(
            predict, lambda: call(self.db, function, **(arguments | {"p_amount": amount}))
        )


@pytest.mark.timeout(7200 if THOROUGH else 300)
def test_the_ledger_does_what_its_model_does(ledger: Ledger) -> None:
    run_state_machine_as_test(
        lambda: LedgerMachine(ledger), settings=MANY if THOROUGH else EVERY_DAY
    )
