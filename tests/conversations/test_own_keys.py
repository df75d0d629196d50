"""Own keys in conversations: who pays for an answer, and what an own server is never told."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from local.stack import Stack
from tests.chat.conftest import settings_of
from tests.chat.second_provider import add_model
from tests.support.people import NewPerson, Person, new_person, refused
from tests.support.provider_keys import bring_key, vault_of

__all__ = ["new_person"]

pytestmark = pytest.mark.anyio

Books = psycopg.Connection[dict[str, Any]]


@pytest.fixture
def books(db: Callable[[], psycopg.Connection]) -> Books:
    connection: Any = db()
    connection.row_factory = dict_row
    return connection


@pytest.fixture
def model(books: Books) -> str:
    """A model that takes own keys, and no sampling parameters."""
    slug = f"keyed-{uuid.uuid4().hex[:8]}"
    books.execute("insert into public.model_providers (slug, name) values (%s, 'Keyed')", [slug])
    name = f"{slug}/model"
    add_model(books, name, slug, byok_allowed=True, capabilities={"sampling": False})
    return name


def row(books: Books, query: str, *values: Any) -> dict[str, Any]:
    found = books.execute(query, values).fetchone()
    assert found is not None
    return found


def start(books: Books, person: Person, conversation: str, **more: Any) -> dict[str, Any]:
    started: dict[str, Any] = row(
        books,
        "select backend.message_start(p_request_id => %s, p_conversation_id => %s,"
        " p_user_id => %s, p_content => 'hi', p_models => %s, p_credential => %s) as it",
        uuid.uuid4(),
        conversation,
        person.id,
        more["models"],
        more.get("credential", "auto"),
    )["it"]
    return started


def begin(books: Books, person: Person, values: str = "{}") -> str:
    made = row(
        books,
        "select backend.conversation_create(%s::jsonb, %s) as it",
        values,
        person.id,
    )
    return str(made["it"]["id"])


async def test_an_answer_on_an_own_key_costs_nothing_and_is_kept(
    stack: Stack, books: Books, new_person: NewPerson, model: str
) -> None:
    person = new_person()
    key_id = await bring_key(
        books, vault_of(settings_of(stack)), model.partition("/")[0], "sk-own", user=person.id
    )
    conversation = begin(books, person)
    started = start(books, person, conversation, models=[model])
    [candidate] = started["candidates"]
    assert candidate["credentials"] == ["own"]
    assert [key["id"] for key in candidate["own_keys"]] == [key_id]
    assert started["held"] == 0
    finished = row(
        books,
        'select backend.message_finish(%s, 100, 50, p_answer => \'{"content": "hello"}\','
        " p_model => %s, p_credential => 'own', p_provider_key_id => %s, p_key_uses => %s::jsonb)"
        " as it",
        started["hold_id"],
        model,
        key_id,
        f'[{{"id": "{key_id}", "secret_version": 1, "model": "{model}", "outcome": "completed"}}]',
    )["it"]
    assert finished["credits_charged"] == 0
    assert finished["message"]["content"] == "hello"
    usage = row(books, "select * from public.usage_logs where id = %s", started["hold_id"])
    assert (usage["credential"], str(usage["provider_key_id"])) == ("own", key_id)
    assert usage["cost_estimate"] > 0
    use = row(books, "select * from public.provider_key_uses where request_id = %s", usage["id"])
    assert (use["outcome"], use["action"]) == ("completed", "chat")


async def test_a_balance_of_nothing_shortens_no_answer_of_an_own_key(
    stack: Stack, books: Books, new_person: NewPerson, model: str
) -> None:
    person = new_person()
    await bring_key(
        books, vault_of(settings_of(stack)), model.partition("/")[0], "sk-own", user=person.id
    )
    books.execute(
        "update public.credit_accounts set monthly_credit_budget = 0 where user_id = %s",
        [person.id],
    )
    started = start(books, person, begin(books, person), models=[model])
    assert started["candidates"][0]["max_tokens"] == 1024
    with refused("budget_exceeded", 402):
        start(books, person, begin(books, person), models=[model], credential="platform")


async def test_an_agents_temperature_is_left_out_where_the_model_has_none(
    books: Books, new_person: NewPerson, model: str
) -> None:
    person = new_person()
    agent = row(
        books,
        'select backend.agent_create(\'{"name": "A"}\', %s) as it',
        person.id,
    )["it"]
    conversation = begin(books, person, f'{{"agent_id": "{agent["id"]}"}}')
    assert start(books, person, conversation, models=[model])["parameters"] == {}
    conversation = begin(books, person, f'{{"agent_id": "{agent["id"]}"}}')
    other = start(books, person, conversation, models=["Qwen2.5-32B-Instruct-AWQ"])
    assert float(other["parameters"]["temperature"]) == 0.7


async def test_an_own_server_is_not_told_what_somebody_elses_agent_is_told(
    stack: Stack, books: Books, new_person: NewPerson
) -> None:
    author, person = new_person(), new_person()
    books.execute(
        "update public.profiles set plan_id = (select id from public.plans where slug = 'pro')"
        " where id = %s",
        [author.id],
    )
    agent = row(
        books,
        'select backend.agent_create(\'{"name": "A", "system_prompt": "a secret",'
        ' "is_public": true}\', %s) as it',
        author.id,
    )["it"]
    own = "openai-compatible/llama"
    for who in (author, person):
        await bring_key(
            books,
            vault_of(settings_of(stack)),
            "openai-compatible",
            "sk-own",
            user=who.id,
            base_url="https://llama.example.app/v1",
            models=["llama"],
        )
    values = f'{{"agent_id": "{agent["id"]}"}}'
    with refused("own_server_not_allowed", 400):
        start(books, person, begin(books, person, values), models=[own])
    with refused("own_server_not_allowed", 400):
        models = ["Qwen2.5-32B-Instruct-AWQ", own]
        start(books, person, begin(books, person, values), models=models)
    # Its author may, and anybody without an agent.
    assert start(books, author, begin(books, author, values), models=[own])["held"] == 0
    assert start(books, person, begin(books, person), models=[own])["held"] == 0


async def test_a_lost_process_leaves_a_record_of_the_key_it_had(
    stack: Stack, books: Books, new_person: NewPerson, model: str
) -> None:
    person = new_person()
    key_id = await bring_key(
        books, vault_of(settings_of(stack)), model.partition("/")[0], "sk-own", user=person.id
    )
    started = start(books, person, begin(books, person), models=[model])
    books.execute(
        "update private.credit_holds set deadline = created_at + interval '1 ms' where id = %s",
        [started["hold_id"]],
    )
    books.execute("select backend.credit_reap(5000)")
    use = row(
        books,
        "select * from public.provider_key_uses where request_id = %s",
        started["hold_id"],
    )
    assert (use["outcome"], str(use["provider_key_id"])) == ("unknown", key_id)
