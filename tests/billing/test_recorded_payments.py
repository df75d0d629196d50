"""Payments that an operator records: refusals first, once each, credits exact, all audited."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.conftest import NewUser, User
from tests.support.people import wait_until_blocked
from tests.support.service import Service, ServiceError

PAID = 3000  # minor units
CREDITS = Decimal(1500)


@dataclass
class Books:
    """Records payments of one user, and looks at what came of it."""

    service: Service
    connection: psycopg.Connection
    user: User

    def record(self, **arguments: object) -> dict[str, Any]:
        """Record a payment with credits, with arguments replaced."""
        return dict(
            self.service.rpc(
                "payment_record",
                **{
                    "p_user_id": self.user.id,
                    "p_provider": "paypal",
                    "p_transaction_id": uuid.uuid4().hex,
                    "p_amount_minor": PAID,
                    "p_currency": "eur",
                    "p_credits": str(CREDITS),
                    "p_description": "Credits by PayPal",
                    "p_reason": "order 7",
                    "p_actor": "ada",
                }
                | arguments,
            )
        )

    def bill(self, **arguments: object) -> dict[str, Any]:
        """Record an invoice for a month of pro, with arguments replaced."""
        return dict(
            self.service.rpc(
                "invoice_record",
                **{
                    "p_user_id": self.user.id,
                    "p_number": uuid.uuid4().hex,
                    "p_amount_minor": PAID,
                    "p_currency": "eur",
                    "p_tax_minor": 500,
                    "p_plan": "pro",
                    "p_reason": "a contract",
                    "p_actor": "ada",
                }
                | arguments,
            )
        )

    def refund(self, payment: dict[str, Any], total: int, actor: str | None = "ada") -> Any:
        """Record that so much was given back in all."""
        return self.service.rpc(
            "payment_refund_record",
            p_payment_id=payment["payment_id"],
            p_amount_refunded_minor=total,
            p_reason="unhappy",
            p_actor=actor,
        )

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        with self.connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, values).fetchall()

    @property
    def payments(self) -> list[dict[str, Any]]:
        return self.rows("select * from public.payments where user_id = %s", self.user.id)

    @property
    def invoices(self) -> list[dict[str, Any]]:
        return self.rows(
            "select i.*, p.slug from public.invoices as i left join public.plans as p"
            " on p.id = i.plan_id where user_id = %s order by i.created_at",
            self.user.id,
        )

    @property
    def receipts(self) -> list[dict[str, Any]]:
        """Facts of the receipts that were sent."""
        rows = self.rows(
            "select facts from private.notifications where user_id = %s and template = 'receipt'"
            " order by id",
            self.user.id,
        )
        return [row["facts"] for row in rows]

    @property
    def balance(self) -> Decimal:
        return Decimal(self.service.rpc("credit_balance", p_user_id=self.user.id)["balance"])

    def audit(self, subject: str) -> list[dict[str, Any]]:
        return self.rows(
            "select * from private.operator_actions where subject = %s order by id", subject
        )


@pytest.fixture
def books(service: Service, db: Callable[[], psycopg.Connection], new_user: NewUser) -> Books:
    return Books(service, db(), new_user())


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "param"),
    [
        ({"p_amount_minor": 0}, "invalid_argument", "amount_minor"),
        ({"p_amount_minor": -1}, "invalid_argument", "amount_minor"),
        ({"p_amount_minor": None}, "invalid_argument", "amount_minor"),
        ({"p_provider": "stripe"}, "invalid_argument", "provider"),
        ({"p_provider": "cash"}, "invalid_argument", "provider"),
        ({"p_provider": None}, "invalid_argument", "provider"),
        ({"p_transaction_id": " "}, "invalid_argument", "transaction_id"),
        ({"p_transaction_id": "x" * 256}, "invalid_argument", "transaction_id"),
        ({"p_currency": "xxx"}, "invalid_argument", "currency"),
        ({"p_currency": "EUR"}, "invalid_argument", "currency"),
        ({"p_currency": None}, "invalid_argument", "currency"),
        ({"p_credits": "-1"}, "invalid_amount", None),
        ({"p_credits": "0"}, "invalid_amount", None),
        ({"p_credits": "NaN"}, "invalid_amount", None),
        ({"p_paid_at": "2999-01-01T00:00:00Z"}, "invalid_argument", "paid_at"),
        ({"p_actor": None}, "invalid_argument", "p_actor"),
        ({"p_actor": " "}, "invalid_argument", "p_actor"),
        ({"p_period_start": "2026-01-01T00:00:00Z"}, "invalid_argument", "period_end"),
        (
            {"p_period_start": "2026-01-01T00:00:00Z", "p_period_end": "2026-02-01T00:00:00Z"},
            "invalid_argument",
            "period_start",
        ),
        (
            {
                "p_plan": "pro",
                "p_period_start": "2026-02-01T00:00:00Z",
                "p_period_end": "2026-01-01T00:00:00Z",
            },
            "invalid_argument",
            "period_end",
        ),
        ({"p_plan": "pro", "p_invoice_id": str(uuid.uuid4())}, "invalid_argument", "plan"),
    ],
)
def test_what_is_no_payment_is_refused(
    books: Books, arguments: dict[str, object], code: str, param: str | None
) -> None:
    before = books.balance
    with pytest.raises(ServiceError) as refusal:
        books.record(**arguments)
    assert (refusal.value.status, refusal.value.code) == (400, code)
    assert param is None or refusal.value.facts["param"] == param
    assert (books.payments, books.balance, books.receipts) == ([], before, [])


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        ({"p_plan": "no-such-plan"}, 404, "plan_not_found"),
        ({"p_invoice_id": str(uuid.uuid4())}, 404, "invoice_not_found"),
    ],
)
def test_a_payment_for_what_does_not_exist_is_refused(
    books: Books, arguments: dict[str, object], status: int, code: str
) -> None:
    with pytest.raises(ServiceError) as refusal:
        books.record(**arguments)
    assert (refusal.value.status, refusal.value.code) == (status, code)
    assert books.payments == []


@pytest.mark.parametrize(
    ("arguments", "code", "param"),
    [
        ({"p_amount_minor": 0}, "invalid_argument", "amount_minor"),
        ({"p_amount_minor": None}, "invalid_argument", "amount_minor"),
        ({"p_provider": "stripe"}, "invalid_argument", "provider"),
        ({"p_provider": None}, "invalid_argument", "provider"),
        ({"p_number": " "}, "invalid_argument", "number"),
        ({"p_number": None}, "invalid_argument", "number"),
        ({"p_number": "x" * 101}, "invalid_argument", "number"),
        ({"p_currency": "xxx"}, "invalid_argument", "currency"),
        ({"p_tax_minor": -1}, "invalid_argument", "tax_minor"),
        ({"p_tax_minor": PAID + 1}, "invalid_argument", "tax_minor"),
        ({"p_tax_minor": None}, "invalid_argument", "tax_minor"),
        ({"p_issued_at": "2999-01-01T00:00:00Z"}, "invalid_argument", "issued_at"),
        ({"p_due_at": "2020-01-01T00:00:00Z"}, "invalid_argument", "due_at"),
        ({"p_period_end": "2026-01-01T00:00:00Z"}, "invalid_argument", "period_end"),
        ({"p_actor": None}, "invalid_argument", "p_actor"),
    ],
)
def test_what_is_no_invoice_is_refused(
    books: Books, arguments: dict[str, object], code: str, param: str
) -> None:
    with pytest.raises(ServiceError) as refusal:
        books.bill(**arguments)
    assert (refusal.value.status, refusal.value.code) == (400, code)
    assert refusal.value.facts["param"] == param
    assert books.invoices == []


def test_an_invoice_of_nobody_or_for_no_plan_is_refused(books: Books) -> None:
    for arguments, code in (
        ({"p_user_id": str(uuid.uuid4())}, "account_not_found"),
        ({"p_plan": "no-such-plan"}, "plan_not_found"),
    ):
        with pytest.raises(ServiceError) as refusal:
            books.bill(**arguments)
        assert (refusal.value.status, refusal.value.code) == (404, code)
    assert books.invoices == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [({"p_amount_minor": PAID + 1}, "amount_mismatch"), ({"p_currency": "usd"}, "amount_mismatch")],
)
def test_an_invoice_takes_no_more_than_it_asks_and_in_its_currency(
    books: Books, arguments: dict[str, object], code: str
) -> None:
    invoice = books.bill()
    books.connection.execute(
        "insert into public.credit_packs (slug, name, credits, price_minor, currency, is_active)"
        " values ('in-dollars', 'In dollars', 1, 1, 'usd', false) on conflict do nothing"
    )
    with pytest.raises(ServiceError) as refusal:
        books.record(p_invoice_id=invoice["invoice_id"], **arguments)
    assert (refusal.value.status, refusal.value.code) == (409, code)
    assert (books.payments, books.invoices[0]["amount_paid_minor"]) == ([], 0)


def test_an_invoice_that_is_paid_takes_nothing_more(books: Books) -> None:
    invoice = books.bill()["invoice_id"]
    books.record(p_invoice_id=invoice)
    with pytest.raises(ServiceError) as refusal:
        books.record(p_invoice_id=invoice, p_amount_minor=1)
    assert (refusal.value.status, refusal.value.code) == (409, "invoice_not_open")
    assert len(books.payments) == 1


def test_somebody_elses_invoice_cannot_be_paid(books: Books, new_user: NewUser) -> None:
    invoice = books.bill(p_user_id=new_user().id)["invoice_id"]
    with pytest.raises(ServiceError) as refusal:
        books.record(p_invoice_id=invoice)
    assert (refusal.value.status, refusal.value.code) == (404, "invoice_not_found")


def test_an_invoice_at_stripe_is_paid_there(books: Books) -> None:
    (row,) = books.rows(
        "insert into public.invoices (user_id, account_id, status, subtotal_minor, total_minor,"
        " amount_due_minor, amount_remaining_minor, currency, period_start, period_end, issued_at,"
        " stripe_invoice_id) select user_id, id, 'open', 3000, 3000, 3000, 3000, 'eur', now(),"
        " now(), now(), 'in_' || id from public.credit_accounts where user_id = %s returning id",
        books.user.id,
    )
    with pytest.raises(ServiceError) as refusal:
        books.record(p_invoice_id=str(row["id"]))
    assert (refusal.value.status, refusal.value.code) == (409, "invoice_is_stripes")
    assert (books.payments, books.invoices[0]["status"]) == ([], "open")


def test_a_payment_of_nobody_is_refused(books: Books) -> None:
    with pytest.raises(ServiceError) as refusal:
        books.record(p_user_id=str(uuid.uuid4()))
    assert (refusal.value.status, refusal.value.code) == (404, "account_not_found")


@pytest.mark.parametrize("total", [-1, PAID + 1, None])
def test_no_more_than_was_paid_is_given_back(books: Books, total: Any) -> None:
    payment = books.record()
    before = books.balance
    with pytest.raises(ServiceError) as refusal:
        books.refund(payment, total)
    assert (refusal.value.status, refusal.value.code) == (400, "invalid_argument")
    assert (books.payments[0]["status"], books.balance) == ("succeeded", before)


def test_a_refund_without_an_actor_is_refused(books: Books) -> None:
    payment = books.record()
    before = books.balance
    with pytest.raises(ServiceError) as refusal:
        books.refund(payment, PAID, actor=None)
    assert refusal.value.facts["param"] == "p_actor"
    assert (books.payments[0]["amount_refunded_minor"], books.balance) == (0, before)


def test_a_refund_of_no_payment_is_refused(books: Books) -> None:
    with pytest.raises(ServiceError) as refusal:
        books.refund({"payment_id": str(uuid.uuid4())}, 1)
    assert (refusal.value.status, refusal.value.code) == (404, "payment_not_found")


def test_a_payment_through_stripe_is_refunded_there(books: Books) -> None:
    (row,) = books.rows(
        "insert into public.payments"
        " (user_id, account_id, status, amount_minor, currency, provider_transaction_id)"
        " select user_id, id, 'succeeded', 500, 'eur', 'pi_' || id from public.credit_accounts"
        " where user_id = %s returning id",
        books.user.id,
    )
    with pytest.raises(ServiceError) as refusal:
        books.refund({"payment_id": str(row["id"])}, 1)
    assert (refusal.value.status, refusal.value.code) == (409, "payment_is_stripes")
    assert books.payments[0]["amount_refunded_minor"] == 0


# Recording --------------------------------------------------------------------------------------


def test_a_payment_brings_its_credits_and_an_audit_row(books: Books) -> None:
    before = books.balance
    made = books.record(p_paid_at="2026-01-05T10:00:00Z")
    (payment,) = books.payments
    assert (payment["status"], payment["amount_minor"]) == ("succeeded", PAID)
    assert payment["processed_at"].isoformat() == "2026-01-05T10:00:00+00:00"
    (lot,) = books.rows("select * from public.credit_lots where id = %s", payment["lot_id"])
    assert (lot["source"], lot["amount"], lot["paid_minor"]) == ("purchase", CREDITS, PAID)
    assert lot["currency"] == "eur"
    assert books.balance == before + CREDITS
    (row,) = books.audit(made["payment_id"])
    assert (row["actor"], row["action"], row["reason"]) == ("ada", "payment_record", "order 7")
    assert Decimal(str(row["before"]["account"]["balance"])) == before
    assert Decimal(str(row["after"]["account"]["balance"])) == before + CREDITS


def test_a_payment_may_bring_no_credits(books: Books) -> None:
    before = books.balance
    payment = books.record(p_credits=None)
    books.refund(payment, PAID)
    assert (books.payments[0]["lot_id"], books.payments[0]["status"]) == (None, "refunded")
    assert books.balance == before


def test_the_same_payment_is_recorded_once(books: Books) -> None:
    first = books.record(p_transaction_id="T-" + books.user.id)
    again = books.record(p_transaction_id="T-" + books.user.id)
    assert (first.pop("replayed"), again.pop("replayed")) == (False, True)
    assert again == first
    assert len(books.audit(first["payment_id"])) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"p_amount_minor": PAID + 1},
        {"p_credits": "1"},
        {"p_credits": None},
        {"p_description": "something else"},
        {"p_paid_at": "2026-01-01T00:00:00Z"},
    ],
)
def test_the_same_payment_otherwise_is_a_conflict(books: Books, other: dict[str, object]) -> None:
    transaction = "T-" + books.user.id
    books.record(p_transaction_id=transaction)
    before = books.balance
    with pytest.raises(ServiceError) as refusal:
        books.record(p_transaction_id=transaction, **other)
    assert (refusal.value.status, refusal.value.code) == (409, "idempotency_conflict")
    assert books.balance == before


def test_somebody_elses_payment_is_a_conflict(books: Books, new_user: NewUser) -> None:
    transaction = "T-" + books.user.id
    books.record(p_transaction_id=transaction)
    with pytest.raises(ServiceError) as refusal:
        books.record(p_transaction_id=transaction, p_user_id=new_user().id)
    assert refusal.value.code == "idempotency_conflict"


def test_a_payment_recorded_ten_times_at_once_counts_once(books: Books) -> None:
    before = books.balance
    transaction = "T-" + books.user.id
    with ThreadPoolExecutor(10) as threads:
        made = list(threads.map(lambda _: books.record(p_transaction_id=transaction), range(10)))
    assert sorted(m["replayed"] for m in made) == [False] + [True] * 9
    assert books.balance == before + CREDITS


# Plans and invoices -----------------------------------------------------------------------------


def test_a_payment_may_name_the_plan_and_the_time_it_was_for(books: Books) -> None:
    made = books.record(
        p_plan="pro", p_period_start="2026-01-01T00:00:00Z", p_period_end="2026-02-01T00:00:00Z"
    )
    assert made["plan"] == "pro"
    (payment,) = books.payments
    assert payment["period_end"].isoformat() == "2026-02-01T00:00:00+00:00"
    # Money, and no plan: that is given by itself.
    (profile,) = books.rows(
        "select subscription_tier from public.profiles where id = %s", books.user.id
    )
    assert profile == {"subscription_tier": "free"}


def test_an_invoice_is_open_until_its_last_payment(books: Books) -> None:
    made = books.bill(p_description="January")
    (invoice,) = books.invoices
    assert (invoice["status"], invoice["slug"], invoice["provider"]) == ("open", "pro", "manual")
    assert (invoice["subtotal_minor"], invoice["tax_minor"], invoice["total_minor"]) == (
        2500,
        500,
        PAID,
    )
    (item,) = invoice["items"]
    assert (item["description"], item["type"], item["amount_minor"]) == (
        "January",
        "subscription",
        2500,
    )
    books.record(p_invoice_id=made["invoice_id"], p_amount_minor=1000, p_credits=None)
    assert books.invoices[0]["status"] == "open"
    books.record(p_invoice_id=made["invoice_id"], p_amount_minor=2000, p_credits=None)
    (invoice,) = books.invoices
    assert (invoice["status"], invoice["amount_remaining_minor"]) == ("paid", 0)
    assert invoice["paid_at"] is not None
    assert {payment["invoice_id"] for payment in books.payments} == {invoice["id"]}
    shown = books.user.client.table("invoices").select("number, status").execute().data
    assert shown == [{"number": made["number"], "status": "paid"}]


def test_an_invoice_leaves_an_audit_row(books: Books) -> None:
    made = books.bill()
    (row,) = books.audit(made["invoice_id"])
    assert (row["actor"], row["action"], row["reason"]) == ("ada", "invoice_record", "a contract")
    assert (row["before"], row["after"]["number"]) == (None, made["number"])


def test_the_same_invoice_is_recorded_once_and_otherwise_a_conflict(
    books: Books, new_user: NewUser
) -> None:
    number = uuid.uuid4().hex
    first, again = books.bill(p_number=number), books.bill(p_number=number)
    assert (first.pop("replayed"), again.pop("replayed")) == (False, True)
    assert again == first
    for other in (
        {"p_amount_minor": PAID + 1},
        {"p_tax_minor": 0},
        {"p_plan": "business"},
        {"p_plan": None},
        {"p_due_at": "2999-01-01T00:00:00Z"},
        {"p_issued_at": "2026-01-01T00:00:00Z"},
        {"p_user_id": new_user().id},
    ):
        with pytest.raises(ServiceError) as refusal:
            books.bill(p_number=number, **other)
        assert refusal.value.code == "idempotency_conflict", other
    assert len(books.audit(first["invoice_id"])) == 1


def test_ten_payments_at_once_pay_an_invoice_once(books: Books) -> None:
    invoice = books.bill()["invoice_id"]

    def pay(_: int) -> str:
        try:
            return str(books.record(p_invoice_id=invoice, p_credits=None)["status"])
        except ServiceError as error:
            return error.code

    with ThreadPoolExecutor(10) as threads:
        answers = sorted(threads.map(pay, range(10)))
    assert answers == ["invoice_not_open"] * 9 + ["succeeded"]
    assert books.invoices[0]["amount_paid_minor"] == PAID
    assert len(books.payments) == 1


@pytest.mark.parametrize(
    "other", [{"p_plan": "business"}, {"p_plan": None}, {"p_period_end": "2026-03-01T00:00:00Z"}]
)
def test_a_payment_recorded_for_another_plan_is_a_conflict(
    books: Books, other: dict[str, object]
) -> None:
    arguments = {
        "p_transaction_id": "T-" + books.user.id,
        "p_plan": "pro",
        "p_period_start": "2026-01-01T00:00:00Z",
        "p_period_end": "2026-02-01T00:00:00Z",
    }
    books.record(**arguments)
    if other == {"p_plan": None}:
        other |= {"p_period_start": None, "p_period_end": None}
    with pytest.raises(ServiceError) as refusal:
        books.record(**arguments | other)
    assert refusal.value.code == "idempotency_conflict"


# Receipts ---------------------------------------------------------------------------------------


def test_a_recorded_payment_sends_one_receipt(books: Books) -> None:
    transaction = uuid.uuid4().hex
    for _ in range(2):
        books.record(p_transaction_id=transaction)
    assert books.receipts == [
        {
            "amount_minor": PAID,
            "currency": "eur",
            "credits": 1500,
            "description": "Credits by PayPal",
        }
    ]


def test_a_receipt_without_a_description_names_the_invoice_or_the_plan(books: Books) -> None:
    invoice = books.bill()
    books.record(p_invoice_id=invoice["invoice_id"], p_description=None, p_credits=None)
    books.record(p_plan="pro", p_description=None, p_credits=None)
    assert [receipt["description"] for receipt in books.receipts] == [invoice["number"], "Pro"]


def test_who_enters_old_books_writes_to_nobody(books: Books) -> None:
    books.record(p_paid_at="2020-01-05T10:00:00Z")
    assert books.receipts == []


# Refunds ----------------------------------------------------------------------------------------


def test_refunds_take_their_share_and_come_back(books: Books) -> None:
    payment = books.record()
    full = books.balance
    seen = []
    for total in (900, 1800, 3000, 900, 0):
        books.refund(payment, total)
        (row,) = books.payments
        seen.append((row["amount_refunded_minor"], row["status"], full - books.balance))
    assert seen == [
        (900, "partially_refunded", CREDITS * 3 / 10),
        (1800, "partially_refunded", CREDITS * 6 / 10),
        (3000, "refunded", CREDITS),
        (900, "partially_refunded", CREDITS * 3 / 10),
        (0, "succeeded", 0),
    ]


def test_the_same_refund_twice_is_one(books: Books) -> None:
    payment = books.record()
    assert [books.refund(payment, 900)["replayed"] for _ in range(2)] == [False, True]
    rows = books.audit(payment["payment_id"])
    assert [row["action"] for row in rows] == ["payment_record", "payment_refund_record"]
    states = [(r["before"].get("status"), r["after"]["status"]) for r in rows]
    assert states == [(None, "succeeded"), ("succeeded", "partially_refunded")]


@pytest.mark.parametrize("source", ["promotional", "compensation", "adjustment"])
def test_a_grant_leaves_an_audit_row_with_before_and_after(books: Books, source: str) -> None:
    before = books.balance
    granted = books.service.rpc(
        "credit_grant",
        p_user_id=books.user.id,
        p_amount="7",
        p_source=source,
        p_idempotency_key=uuid.uuid4().hex,
        p_reason="sorry",
        p_actor="ada",
    )
    (row,) = books.audit(granted["account_id"])
    assert (row["actor"], row["action"], row["reason"]) == ("ada", "credit_grant", "sorry")
    assert Decimal(str(row["before"]["balance"])) == before
    assert Decimal(str(row["after"]["balance"])) == before + 7


def test_recording_a_refund_and_erasing_its_payer_never_wait_for_each_other(
    books: Books, db: Callable[[], psycopg.Connection]
) -> None:
    """The erasure has reached the account when the refund comes in between."""
    payment = books.record()
    eraser, refunder, observer = db(), db(), db()
    with ThreadPoolExecutor(1) as pool:
        with eraser.transaction():
            for table, column in (("profiles", "id"), ("credit_accounts", "user_id")):
                eraser.execute(
                    f"select from public.{table} where {column} = %s for update",
                    [books.user.id],
                )
            refunding = pool.submit(
                refunder.execute,
                "select backend.payment_refund_record(%s, %s, 'unhappy', 'ada')",
                [payment["payment_id"], PAID],
            )
            wait_until_blocked(observer, refunder.info.backend_pid)
            eraser.execute("delete from auth.users where id = %s", [books.user.id])
        refunding.result()
    (row,) = books.rows("select * from public.payments where id = %s", payment["payment_id"])
    assert (row["status"], row["user_id"]) == ("refunded", None)


def test_a_recorded_refund_switches_the_automatic_top_up_off(books: Books) -> None:
    payment = books.record()
    books.connection.execute(
        "insert into public.auto_top_ups (account_id, user_id, pack_id, threshold, max_per_day)"
        " select a.id, a.user_id, k.id, 200, 1 from public.credit_accounts as a,"
        " public.credit_packs as k where a.user_id = %s and k.slug = 'starter'",
        [books.user.id],
    )
    books.refund(payment, PAID)
    (row,) = books.rows("select * from public.auto_top_ups where user_id = %s", books.user.id)
    assert (row["is_enabled"], row["last_failure_code"]) == (False, "payment_refunded")
