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
    stands_in_for: int | None = None
    """Number of the lot that had expired when its credits were given back."""
    clawed_back: Decimal = ZERO
    expired: Decimal = ZERO
    moved: dict[int, Decimal] = field(default_factory=dict)
    """Lot number → what clawbacks of this lot have put into that one, less what they took."""

    @property
    def place(self) -> tuple[int, datetime, int]:
        """Where it stands in the queue to be spent."""
        return (self.priority, self.expires_at, self.number)

    @property
    def home(self) -> int:
        """The lot whose credits these are."""
        return self.number if self.stands_in_for is None else self.stands_in_for


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
    moved: dict[int, Decimal] = field(default_factory=dict)
    """Lot number → what refunds have put into it, less what the settlement took, in its order."""


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
        """Expires what is past its date, but for as much as is on hold, which burns before all."""
        protected, total = self.held, ZERO
        for lot in self.queue():
            if lot.expires_at <= self.now:
                kept = min(lot.remaining, protected)
                protected -= kept
                total += lot.remaining - kept
                lot.expired += lot.remaining - kept
                lot.remaining = kept
        if total:
            self.transactions += 1

    def _take(self, amount: Decimal, moved: dict[int, Decimal], first: Lot | None = None) -> None:
        """Burns credits: those of `first` before others, then what is left of expired lots."""

        def turn(lot: Lot) -> tuple[bool, bool, bool]:
            is_named = first is not None and first.number in (lot.number, lot.stands_in_for)
            return lot is not first, not is_named, is_named or lot.expires_at > self.now

        for lot in sorted(self.queue(), key=turn):
            if not amount:
                break
            part = min(amount, lot.remaining)
            lot.remaining -= part
            amount -= part
            moved[lot.number] = moved.get(lot.number, ZERO) - part
        assert not amount, "the model took what is not there"

    def _put(self, amount: Decimal, numbers: list[int], moved: dict[int, Decimal]) -> None:
        """Gives back what was taken from these lots; for an expired one there comes another."""
        of_home: dict[int, Decimal] = {}
        for number, change in moved.items():
            home = self.lots[number].home
            of_home[home] = of_home.get(home, ZERO) + change
        owed = [
            (lot, -max(moved[lot.number], of_home[lot.home]))
            for lot in map(self.lots.__getitem__, numbers)
            if moved[lot.number] < 0 and of_home[lot.home] < 0
        ]
        for lot, limit in sorted(owed, key=lambda pair: pair[0].expires_at <= self.now):
            part = min(amount, limit)
            if not part:
                break
            to = lot
            if lot.expires_at <= self.now:
                to = self._add_lot(part, ZERO, 100, self.now + self.grace)
                to.stands_in_for = lot.home
            to.remaining += part
            amount -= part
            moved[to.number] = moved.get(to.number, ZERO) + part
        if amount:
            # It was owed, and a later grant repaid it: it came from no lot, and no date applies.
            moved[self._add_lot(amount, amount, 100, FOREVER).number] = amount

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
            self._take(amount, {})
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
        self._take(amount - owed, hold.moved)
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
        self._put(amount - repaid, list(reversed(hold.moved)), hold.moved)
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
        expired = sum(
            (other.expired for other in self.lots if number in (other.number, other.stands_in_for)),
            ZERO,
        )
        target = min(target, max(lot.amount - expired, lot.clawed_back))
        change = target - lot.clawed_back
        lot.clawed_back = target
        if change > 0:
            from_lots = min(change, self.in_lots - self.held)
            self._take(from_lots, lot.moved, lot)
            self.debt += change - from_lots
        elif change < 0:
            back = -change - self._repay(-change)
            self._put(back, sorted(lot.moved, key=lambda n: (n == number, n)), lot.moved)
        self.transactions += bool(change)
