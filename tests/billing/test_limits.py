"""Limits that are counted in rows: refused where the row is written, and never taken away."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.conftest import User
from tests.credits.ledger import Ledger, Payer, Refused, call, expect_refusal, one
from tests.credits.parallel import at_once, open_doors, split
from tests.support.people import NewPerson, Person, new_slug, put_on_plan, refused

Connect = Callable[[], psycopg.Connection]
LIMITS = ["max_agents", "max_documents", "max_libraries", "max_team_members"]


def room(ledger: Ledger, payer: Payer, limit: str, used: int) -> None:
    """Raises Refused when there is none for one more."""
    call(ledger.admin, "private.require_plan_room", **payer.owner(), p_limit=limit, p_used=used)


# The rule -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("used", [3, 4, 1000])
def test_a_402_names_the_limit_and_the_remedy(ledger: Ledger, limit: str, used: int) -> None:
    slug = new_plan(ledger, **{limit: 3})
    for payer in (ledger.new_payer(plan=slug), ledger.new_organization(plan=slug)):
        answer = expect_refusal(
            lambda payer=payer: room(ledger, payer, limit, used), 402, "plan_limit_reached"
        )
        assert answer.facts == {
            "limit_source": f"plan.{limit}",
            "plan": slug,
            "limit": 3,
            "required": 1,
            "available": 0,
            "remedy": "upgrade_plan",
        }


@pytest.mark.parametrize("limit", ["monthly_tokens", "max_everything", "name", "max_agents --", ""])
def test_what_is_no_limit_of_rows_is_a_defect(ledger: Ledger, limit: str) -> None:
    with pytest.raises(psycopg.errors.UndefinedColumn, match="plans have no limit"):
        room(ledger, ledger.new_payer(), limit, 0)


@pytest.mark.parametrize("limit", LIMITS)
def test_below_the_limit_there_is_room(ledger: Ledger, limit: str) -> None:
    payer = ledger.new_payer(plan=new_plan(ledger, **{limit: 3}))
    for used in (0, 2):
        room(ledger, payer, limit, used)


@pytest.mark.parametrize("limit", LIMITS)
def test_minus_one_is_no_limit(ledger: Ledger, limit: str) -> None:
    room(ledger, ledger.new_payer(plan="enterprise"), limit, 10**12)


def test_nothing_is_allowed_where_the_plan_allows_nothing(ledger: Ledger) -> None:
    payer = ledger.new_payer(plan="free")
    expect_refusal(lambda: room(ledger, payer, "max_documents", 0), 402, "plan_limit_reached")


def test_the_payers_plan_rules(ledger: Ledger) -> None:
    small, large = new_plan(ledger, max_agents=1), new_plan(ledger, max_agents=5)
    team = ledger.new_organization(plan=large)
    set_plan(ledger, Payer(team.account_id, team.users), small)
    room(ledger, team, "max_agents", 4)
    own = Payer(team.account_id, team.users)
    expect_refusal(lambda: room(ledger, own, "max_agents", 1), 402, "plan_limit_reached")


def new_plan(ledger: Ledger, **limits: int) -> str:
    """A plan with these limits of rows and no other."""
    slug = ledger.new_plan()
    for column, limit in limits.items():
        ledger.admin.execute(
            sql.SQL("update public.plans set {} = %s where slug = %s").format(
                sql.Identifier(column)
            ),
            [limit, slug],
        )
    return slug


def set_plan(ledger: Ledger, payer: Payer, slug: str) -> None:
    table, owner = (
        ("organizations", payer.organization_id)
        if payer.organization_id
        else ("profiles", payer.user)
    )
    ledger.admin.execute(
        f"update public.{table} set plan_id ="  # noqa: S608
        " (select id from public.plans where slug = %s) where id = %s",
        [slug, owner],
    )


# A table that takes the trigger -------------------------------------------------------------------


@dataclass(frozen=True)
class Things:
    """A table as later chapters have them, with the one trigger they need."""

    name: str

    def add(self, connection: psycopg.Connection, payer: Payer, **columns: Any) -> str:
        """Its id. Raises Refused."""
        owner = {"user_id": payer.user, "organization_id": payer.organization_id} | columns
        try:
            return str(
                one(
                    connection,
                    f"insert into public.{self.name} (user_id, organization_id)"  # noqa: S608
                    " values (%(user_id)s, %(organization_id)s) returning id",
                    **owner,
                )
            )
        except psycopg.Error as error:
            if (error.sqlstate or "").startswith("PT"):
                raise Refused(error) from None
            raise

    def count(self, connection: psycopg.Connection) -> int:
        return int(one(connection, f"select count(*) from public.{self.name}"))  # noqa: S608


@pytest.fixture
def things(ledger: Ledger) -> Iterator[Things]:
    made = Things(f"things_{uuid.uuid4().hex[:12]}")
    ledger.admin.execute(
        f"create table public.{made.name} (id uuid primary key default gen_random_uuid(),"
        " user_id uuid not null, organization_id uuid);"
        f" alter table public.{made.name} enable row level security;"
        f" create trigger things_stay_within_their_plan"
        f" before insert or update of user_id, organization_id on public.{made.name}"
        " for each row execute function private.refuse_rows_beyond_plan('max_agents')".encode()
    )
    yield made
    ledger.admin.execute(f"drop table public.{made.name}".encode())


@pytest.mark.parametrize("owner", ["user", "organization"])
def test_one_more_row_than_the_plan_allows_is_refused(
    ledger: Ledger, things: Things, owner: str
) -> None:
    slug = new_plan(ledger, max_agents=2)
    payer = ledger.new_payer(plan=slug) if owner == "user" else ledger.new_organization(plan=slug)
    for _ in range(2):
        things.add(ledger.admin, payer)
    expect_refusal(lambda: things.add(ledger.admin, payer), 402, "plan_limit_reached")
    assert things.count(ledger.admin) == 2


def test_rows_of_an_organization_are_none_of_their_authors(ledger: Ledger, things: Things) -> None:
    slug = new_plan(ledger, max_agents=1)
    team = ledger.new_organization(plan=slug)
    set_plan(ledger, Payer(team.account_id, team.users), slug)
    things.add(ledger.admin, team)
    things.add(ledger.admin, team, organization_id=None)
    for more in ({}, {"organization_id": None}):
        expect_refusal(
            lambda more=more: things.add(ledger.admin, team, **more), 402, "plan_limit_reached"
        )


def test_a_row_does_not_move_to_where_there_is_no_room(ledger: Ledger, things: Things) -> None:
    slug = new_plan(ledger, max_agents=1)
    team = ledger.new_organization(plan=slug)
    things.add(ledger.admin, team)
    own_id = things.add(ledger.admin, team, organization_id=None)
    move = f"update public.{things.name} set organization_id = %s where id = %s"  # noqa: S608
    with refused("plan_limit_reached", 402):
        ledger.admin.execute(move.encode(), [team.organization_id, own_id])
    # What stays with its payer may change, even beyond the limit.
    assert ledger.admin.execute(move.encode(), [None, own_id]).rowcount == 1


def test_a_smaller_plan_keeps_what_is_there_and_blocks_what_is_new(
    ledger: Ledger, things: Things
) -> None:
    payer = ledger.new_payer(plan=new_plan(ledger, max_agents=3))
    ids = [things.add(ledger.admin, payer) for _ in range(3)]
    set_plan(ledger, payer, new_plan(ledger, max_agents=2))
    assert things.count(ledger.admin) == 3
    remove = f"delete from public.{things.name} where id = %s".encode()  # noqa: S608
    for thing_id in ids[:2]:
        expect_refusal(lambda: things.add(ledger.admin, payer), 402, "plan_limit_reached")
        ledger.admin.execute(remove, [thing_id])
    things.add(ledger.admin, payer)


@pytest.mark.parametrize("owner", ["user", "organization"])
def test_twenty_at_once_do_not_take_more_than_is_left(
    ledger: Ledger, things: Things, owner: str
) -> None:
    slug = new_plan(ledger, max_agents=7)
    payer = ledger.new_payer(plan=slug) if owner == "user" else ledger.new_organization(plan=slug)
    doors = [ledger.another_admin() for _ in range(20)]
    made, refusals = split(at_once(doors, lambda door, _: things.add(door, payer)))
    assert (len(made), {refusal.code for refusal in refusals}) == (7, {"plan_limit_reached"})
    assert things.count(ledger.admin) == 7


# Members ------------------------------------------------------------------------------------------


def new_organization(owner: Person, connection: psycopg.Connection, plan: str) -> str:
    made = owner.call("create_organization", p_name="Team", p_slug=new_slug())
    put_on_plan(connection, made["id"], plan)
    return str(made["id"])


def invite(owner: Person, organization_id: str, person: Person) -> dict[str, Any]:
    answer: dict[str, Any] = owner.call(
        "invite_member", p_organization_id=organization_id, p_email=person.email
    )
    return answer


def test_an_invitation_that_waits_takes_a_place(
    ledger: Ledger, new_person: NewPerson, db: Connect
) -> None:
    owner, first, second = new_person(), new_person(), new_person()
    plan = new_plan(ledger, max_team_members=2)
    organization_id = new_organization(owner, db(), plan)
    invite(owner, organization_id, first)
    with refused("plan_limit_reached", 402) as caught:
        invite(owner, organization_id, second)
    assert caught[0].facts == {
        "limit_source": "plan.max_team_members",
        "plan": plan,
        "limit": 2,
        "required": 1,
        "available": 0,
        "remedy": "upgrade_plan",
    }
    assert len(owner.rows("select * from public.organization_invitations")) == 1


def test_a_new_invitation_to_the_same_address_takes_no_second_place(
    ledger: Ledger, new_person: NewPerson, db: Connect
) -> None:
    owner, guest = new_person(), new_person()
    organization_id = new_organization(owner, db(), new_plan(ledger, max_team_members=2))
    invite(owner, organization_id, guest)
    token = invite(owner, organization_id, guest)["token"]
    assert guest.call("accept_invitation", p_token=token)["role"] == "member"


@pytest.mark.parametrize("end", ["revoked", "expired", "left"])
def test_what_an_ended_invitation_took_is_free_again(
    ledger: Ledger, new_person: NewPerson, db: Connect, end: str
) -> None:
    owner, first, second = new_person(), new_person(), new_person()
    organization_id = new_organization(owner, db(), new_plan(ledger, max_team_members=2))
    invitation = invite(owner, organization_id, first)
    if end == "revoked":
        owner.call("revoke_invitation", p_invitation_id=invitation["id"])
    elif end == "expired":
        db().execute(
            "update public.organization_invitations set created_at = now() - interval '8 days',"
            " expires_at = now() - interval '1 s' where id = %s",
            [invitation["id"]],
        )
    else:
        first.call("accept_invitation", p_token=invitation["token"])
        first.call("leave_organization", p_organization_id=organization_id)
    assert invite(owner, organization_id, second)["id"]


def test_a_smaller_plan_removes_nobody_and_admits_nobody(
    new_person: NewPerson, db: Connect
) -> None:
    owner, first, second = new_person(), new_person(), new_person()
    organization_id = new_organization(owner, db(), "business")
    first.call("accept_invitation", p_token=invite(owner, organization_id, first)["token"])
    token = invite(owner, organization_id, second)["token"]
    put_on_plan(db(), organization_id, "free")
    with refused("plan_limit_reached", 402):
        second.call("accept_invitation", p_token=token)
    assert len(owner.rows("select * from public.organization_members")) == 2
    # Who is there goes on as before.
    owner.call(
        "change_member_role", p_organization_id=organization_id, p_user_id=first.id, p_role="admin"
    )


def test_twenty_who_join_at_once_take_the_places_that_are_left(
    ledger: Ledger, new_person: NewPerson, db: Connect
) -> None:
    owner, guests = new_person(), [new_person() for _ in range(20)]
    organization_id = new_organization(owner, db(), "enterprise")
    tokens = [invite(owner, organization_id, guest)["token"] for guest in guests]
    put_on_plan(db(), organization_id, new_plan(ledger, max_team_members=8))

    def accept(door: psycopg.Connection, index: int) -> Any:
        with door.transaction():
            door.execute(
                "select set_config('request.jwt.claims', json_build_object('sub', %s::text,"
                " 'role', 'authenticated')::text, true), set_config('role', 'authenticated', true)",
                [guests[index].id],
            )
            return call(door, "public.accept_invitation", p_token=tokens[index])

    doors = open_doors(ledger.admin_dsn, 20)
    joined, refusals = split(at_once(doors, accept))
    for door in doors:
        door.close()
    assert (len(joined), {refusal.code for refusal in refusals}) == (7, {"plan_limit_reached"})
    assert len(owner.rows("select * from public.organization_members")) == 8


def test_twenty_invitations_at_once_take_the_places_that_are_left(
    ledger: Ledger, new_person: NewPerson, db: Connect
) -> None:
    owner, guests = new_person(), [new_person() for _ in range(20)]
    organization_id = new_organization(owner, db(), new_plan(ledger, max_team_members=8))

    def attempt(guest: Person) -> str | None:
        try:
            invite(owner, organization_id, guest)
        except psycopg.DatabaseError as error:
            return error.sqlstate
        return None

    with ThreadPoolExecutor(20) as pool:
        assert Counter(pool.map(attempt, guests)) == {None: 7, "PT402": 13}
    assert len(owner.rows("select * from public.organization_invitations")) == 7


def test_a_client_is_told_which_limit_it_met(user: User) -> None:
    made = user.client.rpc(
        "create_organization", {"p_name": "Mine", "p_slug": new_slug()}
    ).execute()
    with user.rest() as rest:
        answer = rest.post(
            "/rpc/invite_member",
            json={"p_organization_id": made.data["id"], "p_email": "guest@example.com"},
        )
    assert answer.status_code == 402
    assert "plan.max_team_members" in answer.json()["details"]
