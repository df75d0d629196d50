"""What the ledger promises, as plain Python: no SQL, no locks, no clock.

The rules are those of docs/architecture.md, written a second time. Where the database disagrees
with this file, one of them is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

ZERO = Decimal(0)
FOREVER = datetime.max.replace(tzinfo=UTC)


class RefusedByModel(Exception):  # noqa: N818
    """The operation must fail with this code and change nothing."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Lot:
    """Granted credits."""

    number: int
    amount: Decimal
    remaining: Decimal
    priority: int
    expires_at: datetime
    clawed_back: Decimal = ZERO
    expired: Decimal = ZERO
    lent: dict[int, Decimal] = field(default_factory=dict)
    """Lot number → credits it gave in this lot's place when this one was clawed back."""

    @property
    def place(self) -> tuple[int, datetime, int]:
        """Where it stands in the queue to be spent."""
        return (self.priority, self.expires_at, self.number)


@dataclass
class Hold:
    """Promised credits."""

    number: int
    member: int
    amount: Decimal
    key: int
    """Number of the first hold under the same key."""
    status: str = "active"
    settled: Decimal | None = None
    refunded: Decimal = ZERO
    taken: list[list[Decimal | int]] = field(default_factory=list)
    """[lot number, credits] in the order they were taken, refunds deducted."""


@dataclass
class Member:
    """Who spends."""

    budget: Decimal | None = None
    held: Decimal = ZERO
    spent: Decimal = ZERO


@dataclass
class Account:
    """One ledger. `now` only tells expired lots from others."""

    now: datetime
    grace: timedelta
    is_organization: bool = False
    members: list[Member] = field(default_factory=lambda: [Member()])
    lots: list[Lot] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    debt: Decimal = ZERO
    budget: Decimal | None = None
    spent_this_month: Decimal = ZERO
    lifetime_granted: Decimal = ZERO
    lifetime_spent: Decimal = ZERO
    transactions: int = 0

    # Derived -------------------------------------------------------------------------------------

    @property
    def in_lots(self) -> Decimal:
        return sum((lot.remaining for lot in self.lots), ZERO)

    @property
    def balance(self) -> Decimal:
        return self.in_lots - self.debt

    @property
    def held(self) -> Decimal:
        return sum((hold.amount for hold in self.holds if hold.status == "active"), ZERO)

    @property
    def available(self) -> Decimal:
        return self.balance - self.held

    def queue(self) -> list[Lot]:
        return sorted((lot for lot in self.lots if lot.remaining), key=lambda lot: lot.place)

    # Parts ---------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Expires what is past its date and not needed for holds, which burn from the front."""
        protected, total = self.held, ZERO
        for lot in self.queue():
            kept = min(lot.remaining, protected)
            protected -= kept
            if lot.expires_at <= self.now:
                total += lot.remaining - kept
                lot.expired += lot.remaining - kept
                lot.remaining = kept
        if total:
            self.transactions += 1

    def _take(self, amount: Decimal, first: Lot | None = None) -> list[list[Decimal | int]]:
        queue = self.queue()
        if first is not None and first in queue:
            queue.remove(first)
            queue.insert(0, first)
        taken: list[list[Decimal | int]] = []
        for lot in queue:
            if not amount:
                break
            part = min(amount, lot.remaining)
            lot.remaining -= part
            amount -= part
            taken.append([lot.number, part])
        assert not amount, "the model took what is not there"
        return taken

    def _put(self, amount: Decimal, places: list[tuple[int, Decimal]]) -> list[tuple[int, Decimal]]:
        put = []
        for number, limit in places:
            lot = self.lots[number]
            if lot.expires_at <= self.now:
                continue
            part = min(amount, limit, lot.amount - lot.remaining)
            if part <= 0:
                continue
            lot.remaining += part
            amount -= part
            put.append((number, part))
        if amount:
            lot = self._add_lot(amount, amount, 100, self.now + self.grace)
            put.append((lot.number, amount))
        return put

    def _add_lot(
        self, amount: Decimal, remaining: Decimal, priority: int, expires_at: datetime
    ) -> Lot:
        self.lots.append(Lot(len(self.lots), amount, remaining, priority, expires_at))
        return self.lots[-1]

    def _repay(self, amount: Decimal) -> Decimal:
        repaid = min(self.debt, amount)
        self.debt -= repaid
        return repaid

    def _net_debt(self) -> None:
        amount = min(self.debt, self.in_lots - self.held)
        if amount > 0:
            self._take(amount)
            self.debt -= amount
            self.transactions += 1

    # Operations ----------------------------------------------------------------------------------

    def grant(self, amount: Decimal, priority: int, expires_at: datetime) -> int:
        self.sweep()
        remaining = amount - self._repay(amount)
        self.lifetime_granted += amount
        self.transactions += 1
        return self._add_lot(amount, remaining, priority, expires_at).number

    def hold(self, member: int, amount: Decimal, key: int | None = None) -> int:
        """Its number. A key gives the hold it gave before, unless that one was released."""
        self.sweep()
        for same in reversed(self.holds):
            if same.key == key and same.status != "released":
                return same.number
        who = self.members[member]
        if amount:
            if self.debt:
                raise RefusedByModel("account_in_debt")
            if self.available < amount:
                raise RefusedByModel("insufficient_credits")
            if self.budget is not None and (
                self.budget - self.spent_this_month - self.held < amount
            ):
                raise RefusedByModel("budget_exceeded")
            if who.budget is not None and who.budget - who.spent - who.held < amount:
                raise RefusedByModel("budget_exceeded")
        number = len(self.holds)
        self.holds.append(Hold(number, member, amount, number if key is None else key))
        who.held += amount
        return number

    def settle(self, number: int, amount: Decimal) -> None:
        self.sweep()
        hold = self.holds[number]
        if hold.status == "settled" and hold.settled == amount:
            return
        if hold.status == "settled":
            raise RefusedByModel("hold_already_settled")
        if hold.status == "released":
            raise RefusedByModel("hold_released")
        if amount > hold.amount:
            raise RefusedByModel("settle_exceeds_hold")
        owed = ZERO
        if hold.status == "expired":
            owed = amount - min(amount, max(self.in_lots - self.held, ZERO))
        else:
            self.members[hold.member].held -= hold.amount
        hold.status, hold.settled = "settled", amount
        hold.taken = self._take(amount - owed)
        self.debt += owed
        self.members[hold.member].spent += amount
        self.spent_this_month += amount
        self.lifetime_spent += amount
        self.transactions += bool(amount)
        self._net_debt()
        self.sweep()

    def release(self, number: int, status: str = "released") -> None:
        self.sweep()
        hold = self.holds[number]
        if hold.status == "settled":
            raise RefusedByModel("hold_already_settled")
        if hold.status == "active":
            hold.status = status
            self.members[hold.member].held -= hold.amount
            self._net_debt()
            self.sweep()
        elif hold.status == "expired":
            hold.status = status

    def refund(self, number: int, amount: Decimal) -> None:
        self.sweep()
        hold = self.holds[number]
        if hold.status != "settled" or hold.refunded + amount > (hold.settled or ZERO):
            raise RefusedByModel("refund_exceeds_settlement")
        repaid = self._repay(amount)
        places = [(int(lot), Decimal(part)) for lot, part in reversed(hold.taken) if part]
        put = dict(self._put(amount - repaid, places))
        hold.taken = [[lot, part - put.get(int(lot), ZERO)] for lot, part in hold.taken]
        hold.refunded += amount
        member = self.members[hold.member]
        member.spent = max(member.spent - amount, ZERO)
        self.spent_this_month = max(self.spent_this_month - amount, ZERO)
        self.lifetime_spent -= amount
        self.transactions += 1

    def claw_back(self, number: int, target: Decimal) -> None:
        self.sweep()
        lot = self.lots[number]
        if target > lot.amount:
            raise RefusedByModel("invalid_amount")
        target = min(target, max(lot.amount - lot.expired, lot.clawed_back))
        change = target - lot.clawed_back
        lot.clawed_back = target
        if change > 0:
            from_lots = min(change, self.in_lots - self.held)
            for other, part in self._take(from_lots, lot):
                lot.lent[int(other)] = lot.lent.get(int(other), ZERO) + Decimal(part)
            self.debt += change - from_lots
        elif change < 0:
            back = -change - self._repay(-change)
            places = [(n, part) for n, part in sorted(lot.lent.items()) if part > 0 and n != number]
            for other, part in self._put(back, [*places, (number, lot.amount)]):
                lot.lent[other] = lot.lent.get(other, ZERO) - part
        self.transactions += bool(change)
