"""Somebody asks to be erased, thinks better of it or not, and then nothing is left of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest

from functions.core.errors import QuernelError
from functions.core.storage import Storage, StorageError
from functions.privacy.tasks import erase_person
from functions.tasks.context import TaskContext, TaskRejectedError
from functions.tasks.registry import TASK_KINDS
from local.stack import Stack
from tests.billing.shop import Shop
from tests.billing.test_checkout import make_organization
from tests.chat.conftest import wait_for
from tests.checks.queries import findings
from tests.conftest import PASSWORD, NewUser
from tests.privacy.conftest import Leaver, NewLeaver
from tests.privacy.scan import mentions
from tests.support.people import Person, Team, join

Db = Callable[[], psycopg.Connection]

pytestmark = [
    pytest.mark.anyio,
    # Stripe's library hands httpx its body in a way that httpx no longer likes.
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]

NewTeam = Callable[[], Team]


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def ask(shop: Shop, token: str | None, method: str = "POST") -> httpx.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return shop.http.request(method, "/me/erasure", headers=headers)


async def erased(leaver: Leaver, payload: dict[str, str], worker: TaskContext) -> dict[str, Any]:
    """Run the task until it has nothing more to wait for, as the sweep has it run again."""
    for _ in range(200):
        result = await erase_person(payload, worker)
        if result.get("state") != "executing":
            return result
        # The stack's worker deletes files meanwhile, those of later at once.
        leaver.shop.rows(
            "update private.tasks set run_after = now() where status = 'queued'"
            " and strpos(payload::text, %s) > 0",
            leaver.user.id,
        )
        wait_for(
            lambda: (
                not leaver.shop.rows(
                    "select id from private.tasks where status in ('queued', 'running')"
                    " and strpos(payload::text, %s) > 0",
                    leaver.user.id,
                )
            ),
            30,
        )
    raise AssertionError("it never ends")


# Who is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_nobody_without_a_token(shop: Shop, method: str) -> None:
    assert ask(shop, None, method).status_code == 401


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_no_api_key_opens_it(new_leaver: NewLeaver, method: str) -> None:
    leaver = new_leaver()
    assert ask(leaver.shop, leaver.key(), method).status_code in (401, 403)
    assert refused(leaver.ask("GET")) == (404, "erasure_not_found")


async def test_the_only_owner_of_a_team_hands_it_over_first(shop: Shop, new_user: NewUser) -> None:
    owner, member = new_user(), new_user()
    slug = make_organization(shop, owner, member=member)
    answer = ask(shop, owner.token)
    assert refused(answer) == (409, "organization_needs_an_owner")
    assert [one["slug"] for one in answer.json()["organizations"]] == [slug]
    assert refused(ask(shop, owner.token, "GET")) == (404, "erasure_not_found")
    shop.rows("update public.organization_members set role = 'owner' where user_id = %s", member.id)
    assert ask(shop, owner.token).status_code == 202


async def test_a_task_that_names_nothing(worker: TaskContext) -> None:
    assert TASK_KINDS["person_erase"].handler is erase_person
    with pytest.raises(TaskRejectedError):
        await erase_person({}, worker)
    nobody = {"erasure_id": "00000000-0000-4000-8000-000000000001"}
    assert await erase_person(nobody, worker) == {"result": "over"}


async def test_somebody_who_is_suspended_may_ask(shop: Shop, new_user: NewUser) -> None:
    user = new_user()
    shop.rows("update public.profiles set is_active = false where id = %s", user.id)
    assert ask(shop, user.token).status_code == 202
    assert ask(shop, user.token, "DELETE").json()["state"] == "cancelled"


# The grace period -------------------------------------------------------------------------------


async def test_it_can_be_cancelled_and_everything_stays(
    new_leaver: NewLeaver, worker: TaskContext, db: Db
) -> None:
    leaver = new_leaver()
    before = {table: len(rows) for table, rows in mentions(db(), leaver.words).items()}
    erasure = leaver.request()
    assert leaver.request() == erasure
    assert leaver.ask("GET").json()["state"] == "requested"
    assert await erase_person({"erasure_id": erasure}, worker) == {"result": "over"}
    cancelled = leaver.ask("DELETE").json()
    assert (cancelled["id"], cancelled["state"]) == (erasure, "cancelled")
    leaver.shop.rows("update private.erasures set due_at = now() where id = %s", erasure)
    assert await erase_person({"erasure_id": erasure}, worker) == {"result": "over"}
    assert refused(leaver.ask("DELETE")) == (404, "erasure_not_found")
    after = {table: len(rows) for table, rows in mentions(db(), leaver.words).items()}
    assert after.pop("private.erasures") == 1
    assert after.items() >= {k: v for k, v in before.items() if k != "private.tasks"}.items()
    assert leaver.ask("GET", "/documents").json()["documents"] != []


async def test_it_is_due_after_the_days_of_the_setting(new_leaver: NewLeaver) -> None:
    leaver = new_leaver()
    erasure = leaver.request()
    row = leaver.shop.row(
        "select due_at - requested_at = make_interval(days => private.setting("
        "'erasure_grace_days')::integer) as is_so from private.erasures where id = %s",
        erasure,
    )
    assert row["is_so"]


# The execution ----------------------------------------------------------------------------------


async def test_nothing_is_left(
    new_leaver: NewLeaver, worker: TaskContext, db: Db, stack: Stack
) -> None:
    leaver, other = new_leaver(), new_leaver()
    key, customer = leaver.key(), leaver.customer_id
    assert leaver.subscriber is not None
    invoice = leaver.subscriber.invoice["id"]
    others = {table: len(rows) for table, rows in mentions(db(), other.words).items()}
    assert len(mentions(db(), leaver.words)) > 12
    payload = leaver.fall_due(leaver.request())
    assert await erased(leaver, payload, worker) == {"state": "done"}

    assert mentions(db(), leaver.words) == {}
    assert objects_of(stack, leaver.user.id) == {"documents": [], "images": []}
    assert findings(db(), [leaver.account_id]) == []
    # The statutory invoice stays, and leads to nobody here.
    kept = leaver.shop.row("select * from public.invoices where stripe_invoice_id = %s", invoice)
    assert (kept["user_id"], kept["status"], kept["hosted_invoice_url"]) == (None, "paid", None)
    # At Stripe they are no customer any more, and pay for nothing.
    assert not leaver.shop.stripe.world.has(customer)
    assert leaver.subscriber.state["status"] == "canceled"
    # Nothing of theirs opens anything.
    assert leaver.ask("GET", "/documents").status_code in (401, 403)
    assert ask(leaver.shop, key).status_code in (401, 403)
    assert sign_in(stack, leaver).status_code == 400
    # And nobody else has lost anything.
    left = {table: len(rows) for table, rows in mentions(db(), other.words).items()}
    assert left.items() >= {k: v for k, v in others.items() if k != "private.tasks"}.items()
    assert set(objects_of(stack, other.user.id)["documents"]) != set()


async def test_done_twice_is_done_once(new_leaver: NewLeaver, worker: TaskContext) -> None:
    leaver = new_leaver()
    erasure = leaver.request()
    payload = leaver.fall_due(erasure)
    await erased(leaver, payload, worker)
    row = leaver.shop.row("select * from private.erasures where id = %s", erasure)
    assert await erase_person(payload, worker) == {"result": "over"}
    assert leaver.shop.row("select * from private.erasures where id = %s", erasure) == row
    assert (row["state"], row["user_id"], row["emails"]) == ("done", None, [])
    assert row["pseudonym"] is not None
    assert row["erased"]["public.conversations"] == 1


async def test_events_that_come_later_change_nothing(
    new_leaver: NewLeaver, worker: TaskContext, db: Db
) -> None:
    leaver = new_leaver()
    assert leaver.subscriber is not None
    world, customer = leaver.shop.stripe.world, leaver.customer_id
    was = world.get(customer)
    await erased(leaver, leaver.fall_due(leaver.request()), worker)
    for kind, about in (
        ("customer.deleted", was),
        ("customer.subscription.deleted", leaver.subscriber.state),
        ("invoice.updated", leaver.subscriber.invoice),
    ):
        assert leaver.shop.result(leaver.shop.event(kind, about)) in ("applied", "ignored")
    kept = leaver.shop.row(
        "select user_id, hosted_invoice_url from public.invoices where stripe_invoice_id = %s",
        leaver.subscriber.invoice["id"],
    )
    assert list(kept.values()) == [None, None]
    assert mentions(db(), leaver.words) == {}
    assert findings(db(), [leaver.account_id]) == []


# What goes wrong on the way ---------------------------------------------------------------------


async def test_while_stripe_is_away_it_goes_on_later(
    new_leaver: NewLeaver, worker: TaskContext, db: Db
) -> None:
    leaver = new_leaver()
    erasure = leaver.request()
    payload = leaver.fall_due(erasure)
    leaver.shop.stripe.failures[:] = [503] * 3  # the SDK repeats twice
    with pytest.raises(QuernelError, match="payment_provider_unavailable"):
        await erase_person(payload, worker)
    assert leaver.state(erasure) == "executing"
    assert refused(leaver.ask("DELETE")) == (409, "erasure_started")
    # They are suspended, and the account is there: Stripe comes first.
    row = leaver.shop.row("select is_active from public.profiles where id = %s", leaver.user.id)
    assert row["is_active"] is False
    assert await erased(leaver, payload, worker) == {"state": "done"}
    assert mentions(db(), leaver.words) == {}


async def test_a_customer_that_is_gone_at_stripe_already(
    new_leaver: NewLeaver, worker: TaskContext
) -> None:
    leaver = new_leaver()
    leaver.shop.stripe.world.delete_customer(leaver.customer_id)  # and the event is on its way
    payload = leaver.fall_due(leaver.request())
    assert await erased(leaver, payload, worker) == {"state": "done"}


async def test_while_storage_is_away_it_goes_on_later(
    new_leaver: NewLeaver, worker: TaskContext, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaver = new_leaver()
    erasure = leaver.request()
    payload = leaver.fall_due(erasure)

    async def fail(*_: object) -> None:
        raise StorageError

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "delete", fail)
        with pytest.raises(StorageError):
            await erase_person(payload, worker)
    assert leaver.state(erasure) == "executing"
    assert await erased(leaver, payload, worker) == {"state": "done"}
    assert mentions(db(), leaver.words) == {}


async def test_killed_after_any_step_it_goes_on(
    new_leaver: NewLeaver, worker: TaskContext, db: Db
) -> None:
    leaver = new_leaver()
    erasure = leaver.request()
    payload = leaver.fall_due(erasure)
    rpc = leaver.shop.service.rpc
    rpc("erasure_begin", p_id=erasure)
    assert rpc("erasure_step", p_id=erasure, p_limit=1)["count"] == 1
    leaver.shop.rows("delete from auth.users where id = %s", leaver.user.id)
    assert await erased(leaver, payload, worker) == {"state": "done"}
    assert mentions(db(), leaver.words) == {}


async def test_without_a_secret_key_an_operator_is_asked(
    new_leaver: NewLeaver, worker: TaskContext
) -> None:
    leaver = new_leaver()
    payload = leaver.fall_due(leaver.request())
    settings = worker.settings.model_copy(update={"stripe_secret_key": None})
    without = TaskContext(settings, worker.database, worker.task_id, 1)
    with pytest.raises(TaskRejectedError, match="payments are not configured"):
        await erase_person(payload, without)


# The sweep --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("functions_url")
async def test_the_sweep_has_the_worker_do_it(shop: Shop, new_person: Callable[[], Person]) -> None:
    person = new_person()
    erasure = shop.service.rpc("erasure_request", p_user_id=person.id)["id"]
    shop.rows("update private.erasures set due_at = now() where id = %s", erasure)
    shop.service.rpc("erasures_due")
    shop.service.rpc("erasures_due")
    tasks = shop.rows(
        "select id from private.tasks where kind = 'person_erase' and key = %s", erasure
    )
    assert len(tasks) == 1
    wait_for(
        lambda: shop.rows(
            "select id from private.erasures where id = %s and state = 'done'", erasure
        ),
        30,
    )
    assert shop.rows("select id from auth.users where id = %s", person.id) == []


@pytest.mark.usefixtures("functions_url")
async def test_an_organization_without_other_members_goes_too(
    shop: Shop, new_person: Callable[[], Person], new_team: NewTeam
) -> None:
    person, team = new_person(), new_team()
    join(team.owner, team.id, person, "member")
    firm = person.call("create_organization", p_name="Alone", p_slug=f"alone-{person.id[:8]}")
    erasure = shop.service.rpc("erasure_request", p_user_id=person.id, p_grace_days=0)["id"]
    wait_for(
        lambda: shop.rows(
            "select id from private.erasures where id = %s and state = 'done'", erasure
        ),
        30,
    )
    assert shop.rows("select id from public.organizations where id = %s", firm["id"]) == []
    assert len(shop.rows("select id from public.organizations where id = %s", team.id)) == 1


async def test_what_an_operator_asks_for_is_written_down(
    shop: Shop, new_person: Callable[[], Person]
) -> None:
    person = new_person()
    operator = {"p_user_id": person.id, "p_actor": "ops", "p_reason": "by letter"}
    shop.service.rpc("erasure_request", **operator)
    shop.service.rpc("erasure_cancel", **operator)
    rows = shop.rows(
        "select actor, action, reason from private.operator_actions where subject ="
        " (select 'user:' || pseudonym from private.person_pseudonyms where user_id = %s)"
        " order by id",
        person.id,
    )
    assert [tuple(row.values()) for row in rows] == [
        ("ops", "erasure_request", "by letter"),
        ("ops", "erasure_cancel", "by letter"),
    ]


def objects_of(stack: Stack, owner: str) -> dict[str, list[str]]:
    """What Storage lists in the folders of somebody."""
    headers = {"apikey": stack.keys.secret_key, "Authorization": f"Bearer {stack.keys.secret_key}"}
    found = {}
    for bucket in ("documents", "images"):
        answer = httpx.post(
            f"{stack.supabase_url}/storage/v1/object/list/{bucket}",
            json={"prefix": f"{owner}/", "limit": 100},
            headers=headers,
            trust_env=False,
        )
        assert answer.is_success, answer.text
        found[bucket] = [entry["name"] for entry in answer.json()]
    return found


def sign_in(stack: Stack, leaver: Leaver) -> httpx.Response:
    return httpx.post(
        f"{stack.supabase_url}/auth/v1/token?grant_type=password",
        json={"email": leaver.user.email, "password": PASSWORD},
        headers={"apikey": stack.keys.publishable_key},
        trust_env=False,
    )
