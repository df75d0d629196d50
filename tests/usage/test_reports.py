"""Reports: a person's own use, an organization's for its admins, and nothing of anybody else's."""

from __future__ import annotations

import re
from typing import Any

import pytest

from local.paths import ROOT
from tests.conftest import NewUser, User
from tests.credits.ledger import Ledger
from tests.support.people import NewPerson, Person, refused
from tests.support.service import Service
from tests.usage.conftest import add_row


class Books:
    """Usage of a person and of their team, written as an import would."""

    def __init__(self, ledger: Ledger, new_person: NewPerson) -> None:
        self.ledger = ledger
        self.team = ledger.new_organization(members=3)
        self.owner, self.admin, self.member = (
            Person(user_id, None, new_person().as_role) for user_id in self.team.users
        )
        ledger.admin.execute(
            "update public.organization_members set role = 'admin' where user_id = %s",
            [self.admin.id],
        )
        self.stranger = new_person()

    def use(self, person: Person, on: str, *, private: bool = False, **columns: Any) -> None:
        self.ledger.admin.execute("select private.create_usage_partition(%s)", [on])
        account = self.team.account_id
        if private:
            account = self.ledger.admin.execute(
                "select private.account_id(%s, null)", [person.id]
            ).fetchone()[0]  # type: ignore[index]
        add_row(
            self.ledger.admin,
            self.team,
            **{
                "user_id": person.id,
                "account_id": account,
                "organization_id": None if private else self.team.organization_id,
                "created_at": on,
                "prompt_tokens": 10,
                "completion_tokens": 5,
            }
            | columns,
        )


@pytest.fixture
def books(ledger: Ledger, new_person: NewPerson) -> Books:
    return Books(ledger, new_person)


def report(person: Person, group_by: str = "day", **arguments: Any) -> Any:
    return person.call(
        "usage_report",
        **({"p_from": "2026-03-01", "p_to": "2026-03-31"} | arguments),
        p_group_by=group_by,
    )


def column(found: Any, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in found["rows"]]


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"p_group_by": "password"}, "group_by"),
        ({"p_group_by": None}, "group_by"),
        ({"p_from": "2026-03-02", "p_to": "2026-03-01"}, "to"),
        ({"p_from": "2025-03-01", "p_to": "2026-03-02"}, "to"),
        ({"p_from": "-infinity", "p_to": "2026-03-02"}, "to"),
        ({"p_from": "2026-03-02", "p_to": "infinity"}, "to"),
        ({"p_limit": 0}, "limit"),
        ({"p_limit": 1001}, "limit"),
        ({"p_limit": None}, "limit"),
    ],
)
def test_a_report_that_makes_no_sense_or_is_too_large_is_refused(
    new_person: NewPerson, arguments: dict[str, Any], param: str
) -> None:
    with refused("invalid_argument", 400) as refusals:
        new_person().call("usage_report", **arguments)
    assert refusals[0].facts["param"] == param


def test_a_stranger_gets_no_report_of_an_organization(books: Books) -> None:
    with refused("not_a_member", 403):
        report(books.stranger, p_organization_id=books.team.organization_id)


def test_a_member_gets_no_report_of_their_organization(books: Books) -> None:
    with refused("not_an_admin", 403):
        report(books.member, p_organization_id=books.team.organization_id)


def test_a_suspended_person_gets_no_report(books: Books) -> None:
    books.ledger.admin.execute(
        "update public.profiles set is_active = false where id = %s", [books.owner.id]
    )
    with refused("account_suspended", 403):
        report(books.owner)


def test_a_visitor_may_not_ask(books: Books) -> None:
    with books.stranger.as_role("anon") as connection, pytest.raises(Exception, match="denied"):
        connection.execute("select public.usage_report()")


def test_nobody_reads_what_others_used(books: Books) -> None:
    books.use(books.owner, "2026-03-01T10:00Z")
    books.use(books.owner, "2026-03-01T10:00Z", private=True)
    for person in (books.stranger, books.member):
        assert person.rows("select * from public.api_usage") == []
        found = report(person)
        assert (found["rows"], found["totals"]["requests"]) == ([], 0)


def test_an_admin_does_not_read_what_a_member_paid_for_themselves(books: Books) -> None:
    books.use(books.member, "2026-03-01T10:00Z", private=True)
    assert books.admin.rows("select * from public.api_usage") == []
    found = report(books.admin, "user", p_organization_id=books.team.organization_id)
    assert found["rows"] == []


# Reports -----------------------------------------------------------------------------------------


def test_own_use_by_day(books: Books) -> None:
    for on, charged in (
        ("2026-02-28T23:59:59Z", 64),
        ("2026-03-01T00:00:00Z", 1),
        ("2026-03-01T23:59:59Z", 2),
        ("2026-03-31T23:59:59Z", 4),
        ("2026-04-01T00:00:00Z", 64),
    ):
        books.use(books.member, on, credits=charged, credits_held=charged, cost_estimate=charged)
    books.use(books.member, "2026-03-31T12:00:00Z", private=True, status="failed", credits=0)
    books.use(books.owner, "2026-03-31T12:00:00Z")
    found = report(books.member)
    assert column(found, "day", "requests", "failed", "tokens", "credits") == [
        ("2026-03-01", 2, 0, 30, 3),
        ("2026-03-31", 2, 1, 30, 4),
    ]
    assert found["totals"]["credits"] == 7
    assert (found["from"], found["to"], found["group_by"]) == ("2026-03-01", "2026-03-31", "day")
    assert found["next_after"] is None


@pytest.mark.parametrize("actor", ["owner", "admin"])
def test_an_organization_by_person_key_and_model(books: Books, actor: str) -> None:
    key = "00000000-0000-4000-8000-00000000000a"
    books.use(books.member, "2026-03-01T10:00Z", model_id="large")
    books.use(books.member, "2026-03-02T10:00Z", model_id="small")
    books.use(books.owner, "2026-03-02T10:00Z", model_id="small")
    books.use(books.owner, "2026-03-02T10:00Z", private=True)
    books.use(books.owner, "2026-03-02T10:00Z", user_id=None, api_key_id=key, model_id="small")
    asked = {"p_organization_id": books.team.organization_id}
    person = getattr(books, actor)
    by_user = dict(column(report(person, "user", **asked), "user", "requests"))
    assert by_user == {None: 1, books.member.id: 2, books.owner.id: 1}
    assert column(report(person, "api_key", **asked), "api_key", "requests") == [
        (None, 3),
        (key, 1),
    ]
    assert column(report(person, "model", **asked), "model", "requests") == [
        ("large", 1),
        ("small", 3),
    ]
    assert column(report(person, "month", **asked), "month", "requests") == [("2026-03", 4)]


@pytest.mark.parametrize(
    ("group_by", "value"),
    [
        ("provider", "test"),
        ("action", "chat"),
        ("credential", "own"),
        ("provider_key", "00000000-0000-4000-8000-00000000000b"),
    ],
)
def test_what_else_there_is_to_group_by(books: Books, group_by: str, value: str) -> None:
    books.use(
        books.member,
        "2026-03-01T10:00Z",
        credential="own",
        provider_key_id="00000000-0000-4000-8000-00000000000b",
    )
    assert column(report(books.member, group_by), group_by, "requests") == [(value, 1)]


def test_own_use_by_who_paid(books: Books) -> None:
    books.use(books.member, "2026-03-01T10:00Z")
    books.use(books.member, "2026-03-01T10:00Z", private=True)
    assert column(report(books.member, "organization"), "organization", "requests") == [
        (None, 1),
        (books.team.organization_id, 1),
    ]


def test_pages_cover_everything_once(books: Books) -> None:
    for day in range(1, 8):
        books.use(books.member, f"2026-03-{day:02}T10:00Z")
    days: list[str] = []
    after = None
    while True:
        page = report(books.member, p_limit=3, p_after=after)
        assert len(page["rows"]) <= 3
        assert page["totals"]["requests"] == 7
        days += [row["day"] for row in page["rows"]]
        if (after := page["next_after"]) is None:
            break
    assert days == [f"2026-03-{day:02}" for day in range(1, 8)]


def test_a_group_without_a_name_is_a_page_of_its_own_too(books: Books) -> None:
    books.use(books.member, "2026-03-01T10:00Z")
    books.use(books.member, "2026-03-01T10:00Z", private=True)
    first = report(books.member, "organization", p_limit=1)
    assert (column(first, "organization"), first["next_after"]) == ([(None,)], "")
    second = report(books.member, "organization", p_limit=1, p_after="")
    assert column(second, "organization") == [(books.team.organization_id,)]
    assert second["next_after"] is None


def test_a_refund_is_told_apart(books: Books) -> None:
    books.use(books.member, "2026-03-01T10:00Z", credits=1, credits_refunded="0.4")
    assert report(books.member)["totals"]["credits_refunded"] == 0.4


def test_without_days_it_is_this_month(books: Books) -> None:
    found = books.member.call("usage_report")
    row = books.ledger.admin.execute(
        "select date_trunc('month', now() at time zone 'utc')::date::text,"
        " (now() at time zone 'utc')::date::text"
    ).fetchone()
    assert (found["from"], found["to"]) == row


# Documents ---------------------------------------------------------------------------------------

DOCUMENT = (ROOT / "docs" / "usage.md").read_text()


def test_the_examples_of_the_document_run(
    service: Service, new_user: NewUser, capsys: pytest.CaptureFixture[str]
) -> None:
    user: User = new_user()
    hold = service.rpc(
        "credit_hold",
        p_user_id=user.id,
        p_organization_id=None,
        p_amount=2,
        p_idempotency_key="doc",
        p_action="chat",
    )
    service.rpc("credit_settle", p_hold_id=hold["hold_id"], p_amount=2)
    team = user.client.rpc(
        "create_organization", {"p_name": "Doc", "p_slug": f"doc-{user.id[:8]}"}
    ).execute()
    first, second = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"db": user.client, "team": team.data["id"]}
    exec(first, names)  # noqa: S102
    exec(second, names)  # noqa: S102
    assert names["mine"]["totals"]["credits"] == 2
    assert len(names["recent"]) == 1
    assert names["page"] == []
    assert capsys.readouterr().out.startswith("2")


@pytest.mark.parametrize("table", ["usage_logs", "api_usage"])
def test_every_column_is_in_the_document(ledger: Ledger, table: str) -> None:
    columns = ledger.admin.execute(
        "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0"
        " and not attisdropped",
        [f"public.{table}"],
    ).fetchall()
    known = {"id", "created_at", "updated_at"}
    missing = [name for (name,) in columns if f"`{name}`" not in DOCUMENT and name not in known]
    assert missing == []
