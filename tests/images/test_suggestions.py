"""Prompts that are suggested: from where, to whom, how sure, and what becomes of them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pytest
from postgrest import APIError

from functions.core.database import Database
from functions.images.suggestions import MAX_PROMPT, prompts_in
from local.stack import Stack
from supabase import Client, ClientOptions, create_client
from tests.chat.conftest import MODEL, Memory, settings_of, wait_for
from tests.images.conftest import ENDED, NewPainter, Painter
from tests.images.gallery import hang, people, refresh

NewClient = Callable[[Painter], Client]


@pytest.fixture
def sdk(stack: Stack) -> NewClient:
    """The Supabase SDK, signed in as somebody."""

    def make(painter: Painter) -> Client:
        options = ClientOptions(headers={"Authorization": f"Bearer {painter.payer.token}"})
        return create_client(stack.supabase_url, stack.keys.publishable_key, options)

    return make


def suggested(client: Client, prompt: str | None = None, **arguments: Any) -> list[dict[str, Any]]:
    named = arguments | ({} if prompt is None else {"p_prompt": prompt})
    found: list[dict[str, Any]] = client.rpc("suggest_prompts", named).execute().data
    return found


def of(source: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in found if one["source_type"] == source]


def texts(found: list[dict[str, Any]]) -> list[str]:
    return [one["suggested_prompt"] for one in found]


def stored(painter: Painter) -> list[dict[str, Any]]:
    return painter.payer.connection.execute(
        "select * from public.prompt_suggestions where user_id = %s order by id", [painter.id]
    ).fetchall()


def put(painter: Painter, prompt: str = "a lighthouse in oil", **columns: Any) -> str:
    """A suggestion as functions keep it; its id."""
    values = {
        "user_id": painter.id,
        "base_prompt": "a lighthouse",
        "suggested_prompt": prompt,
        "source_type": "ai",
        "confidence_score": 0.5,
    } | columns
    names = psycopg.sql.SQL(", ").join(map(psycopg.sql.Identifier, values))
    marks = psycopg.sql.SQL(", ").join(map(psycopg.sql.Placeholder, values))
    row = painter.payer.connection.execute(
        psycopg.sql.SQL(
            "insert into public.prompt_suggestions ({}) values ({}) returning id"
        ).format(names, marks),
        values,
    ).fetchone()
    assert row is not None
    return str(row["id"])


def looked_at(painter: Painter, generation: dict[str, Any], **summary: Any) -> str:
    """Its image, marked, with what was found in it; the image's id."""
    [image] = generation["images"]
    painter.rest.post("/user_favorites", json={"image_id": image["id"]}).raise_for_status()
    find(painter, image["id"], **summary)
    return str(image["id"])


def find(painter: Painter, image_id: str, **summary: Any) -> None:
    """Put this in place of what the worker found in the image, once it has."""
    connection = painter.payer.connection
    sight = (
        "select vision_embedding is not null as is_over from public.generated_images where id = %s"
    )
    wait_for(lambda: connection.execute(sight, [image_id]).fetchone()["is_over"])
    nothing = dict.fromkeys(("vision_description", "vision_labels", "style_tags"))
    columns = ", ".join(f"{name} = %({name})s" for name in nothing)
    connection.execute(
        f"update public.generated_images set {columns} where id = %(id)s",  # noqa: S608
        nothing | summary | {"id": image_id},
    )


# History -----------------------------------------------------------------------------------------


def test_history_is_what_one_has_drawn_that_is_like_the_prompt(
    painter: Painter, new_painter: NewPainter, sdk: NewClient
) -> None:
    for prompt in ("a red lighthouse in fog", "the lighthouse at night", "a bowl of cherries"):
        painter.made(prompt)
    failed = painter.start("a red lighthouse simulate: error=lora_refused").json()["id"]
    assert painter.ended(failed)["status"] == "failed"
    new_painter().made("a red lighthouse of somebody else")

    found = suggested(sdk(painter), " red lighthouse ")
    assert [(one["suggested_prompt"], one["source_type"]) for one in found] == [
        ("a red lighthouse in fog", "history"),
        ("the lighthouse at night", "history"),
    ]
    # Two of three words in common, then one of three; times a half, for nobody has tried it.
    assert [one["confidence_score"] for one in found] == [0.3333, 0.1667]
    assert {one["base_prompt"] for one in found} == {"red lighthouse"}
    assert {(one["user_id"], one["used_count"]) for one in found} == {(painter.id, 0)}
    # They are rows of one's own, and what is typed already is not suggested.
    rows = sdk(painter).table("prompt_suggestions").select("id").execute().data
    assert {row["id"] for row in rows} == {one["id"] for one in found}
    assert texts(suggested(sdk(painter), "The Lighthouse at night")) == ["a red lighthouse in fog"]
    assert suggested(sdk(painter), "submarine") == []


def test_without_a_prompt_it_is_what_was_drawn_and_marked_most(
    painter: Painter, sdk: NewClient
) -> None:
    painter.made("a castle")
    marked = painter.made("a lighthouse", num_outputs=2)
    painter.made("an orchard")
    painter.made("an orchard")
    for image in marked["images"]:
        painter.rest.post("/user_favorites", json={"image_id": image["id"]}).raise_for_status()
    client = sdk(painter)
    assert texts(of("history", suggested(client))) == ["a lighthouse", "an orchard", "a castle"]
    assert texts(of("history", suggested(client, p_limit=50)))[:1] == ["a lighthouse"]
    assert len(suggested(client, p_limit=1)) == 1
    assert len(suggested(client, p_limit=-5)) == 1


def test_what_is_deleted_is_suggested_no_more(painter: Painter, sdk: NewClient) -> None:
    twice = [painter.made("a castle")["id"] for _ in range(2)]
    generation = painter.made("a harbour")
    looked_at(painter, generation, vision_description="ships in a harbour", style_tags=["ink"])
    client = sdk(painter)
    suggested(client)
    kept = {row["suggested_prompt"] for row in stored(painter)}
    assert kept >= {"a castle", "a harbour", "ships in a harbour, ink"}

    client.table("image_generations").delete().eq("id", twice[0]).execute()
    assert "a castle" in {row["suggested_prompt"] for row in stored(painter)}
    client.table("image_generations").delete().eq("id", twice[1]).execute()
    client.table("image_generations").delete().eq("id", generation["id"]).execute()
    client.table("generated_images").delete().eq("user_id", painter.id).execute()
    assert {row["source_type"] for row in stored(painter)} <= {"community"}


def test_with_a_person_go_their_suggestions(painter: Painter, sdk: NewClient) -> None:
    connection = painter.payer.connection
    painter.made("a castle", suggestion_id=put(painter))
    painter.made("a castle")
    assert len(suggested(sdk(painter))) >= 2
    connection.execute("delete from public.profiles where id = %s", [painter.id])
    assert stored(painter) == []


# Vision ------------------------------------------------------------------------------------------


def test_vision_is_what_was_found_in_images_one_has_marked(
    painter: Painter, sdk: NewClient
) -> None:
    image_id = looked_at(
        painter,
        painter.made("one"),
        vision_description="a lighthouse above the sea",
        vision_labels=["lighthouse", "sea"],
        style_tags=["oil painting", "impasto"],
    )
    looked_at(painter, painter.made("two"), vision_labels=["cherries", "bowl"])
    [unmarked] = painter.made("three")["images"]
    find(painter, unmarked["id"], vision_labels=["lighthouse"], style_tags=["unmarked"])
    client = sdk(painter)
    [found] = of("vision", suggested(client, "a lighthouse"))
    assert found["suggested_prompt"] == "a lighthouse, oil painting, impasto"
    assert found["metadata"] == {"image_id": image_id}
    # One word of three: lighthouse, of lighthouse, above, sea.
    assert found["confidence_score"] == 0.1667
    assert texts(of("vision", suggested(client))) == [
        "cherries, bowl",
        "a lighthouse above the sea, oil painting, impasto",
    ]


# Community ---------------------------------------------------------------------------------------


def test_the_community_is_never_one_person(painter: Painter, sdk: NewClient) -> None:
    connection = painter.payer.connection
    common, rare, shy, loud = (f"{word}{uuid.uuid4().hex[:8]}" for word in ("co", "ra", "sh", "lo"))
    users = people(connection, 6)
    for user in users:
        hang(connection, user, is_public=True, vision_labels=[common], style_tags=["everybodys"])
        # Private images, however many, are nobody's business.
        hang(connection, user, vision_labels=[shy], style_tags=["secret"])
    for _ in range(8):
        hang(connection, users[0], is_public=True, vision_labels=[common], style_tags=["signature"])
    for user in users[:4] * 2:
        hang(connection, user, is_public=True, vision_labels=[rare], style_tags=["of four"])
    for user in users:
        hang(
            connection,
            user,
            is_public=True,
            vision_labels=[loud],
            style_tags=["bare"],
            nsfw_score=0.9,
        )
    refresh(connection)
    client = sdk(painter)
    try:
        [found] = suggested(client, f"a {common}")
        assert found["suggested_prompt"] == f"a {common}, everybodys"
        assert (found["source_type"], found["metadata"]) == ("community", {"subject": common})
        assert found["user_id"] == painter.id
        for subject in (rare, shy):
            assert suggested(client, f"a {subject}") == []
        # What is mostly not safe for work is for whoever has asked for it.
        assert suggested(client, f"a {loud}") == []
        relaxed = client.table("profiles").update({"ai_safety_level": "relaxed"})
        relaxed.eq("id", painter.id).execute()
        assert texts(suggested(client, f"a {loud}")) == [f"a {loud}, bare"]
        without = texts(of("community", suggested(client, p_limit=50)))
        assert f"{common}, everybodys" in without
        assert not any(word in text for text in without for word in (rare, shy, "signature"))
    finally:
        connection.execute("delete from auth.users where id = any(%s::uuid[])", [users])
        refresh(connection)


# Switched off, others' ---------------------------------------------------------------------------


def test_switched_off_nothing_of_ones_own_is_looked_at_or_kept(
    painter: Painter, sdk: NewClient
) -> None:
    generation = painter.made("a lighthouse in fog")
    looked_at(painter, generation, vision_labels=["lighthouse"], style_tags=["ink"])
    put(painter)
    client = sdk(painter)
    assert {one["source_type"] for one in suggested(client, "a lighthouse")} == {
        "history",
        "vision",
        "ai",
    }
    before = stored(painter)
    off = client.table("profiles").update({"prompt_suggestions_enabled": False})
    off.eq("id", painter.id).execute()

    connection = painter.payer.connection
    subject = f"lighthouse{uuid.uuid4().hex[:8]}"
    users = people(connection, 6)
    for user in users:
        hang(connection, user, is_public=True, vision_labels=[subject], style_tags=["everybodys"])
    refresh(connection)
    try:
        [found] = suggested(client, f"a {subject}")
        assert (found["id"], found["suggested_prompt"]) == (None, f"a {subject}, everybodys")
        assert (found["source_type"], found["confidence_score"]) == ("community", 0.5)
        assert suggested(client, "lighthouse fog") == []
    finally:
        connection.execute("delete from auth.users where id = any(%s::uuid[])", [users])
        refresh(connection)
    assert stored(painter) == before
    answer = painter.http.post("/images/suggestions", json={"prompt": "a lighthouse"})
    assert (answer.status_code, answer.json()["code"]) == (403, "suggestions_disabled")
    painter.require_nothing_held()
    assert painter.payer.balance == 99


def test_a_stranger_neither_sees_nor_uses_nor_deletes_it(
    painter: Painter, new_painter: NewPainter, sdk: NewClient
) -> None:
    mine = put(painter)
    stranger = new_painter()
    client = sdk(stranger)
    assert client.table("prompt_suggestions").select("*").execute().data == []
    assert client.table("prompt_suggestions").delete().eq("id", mine).execute().data == []
    assert suggested(client, "a lighthouse") == []
    for body in ({"suggested_prompt": "mine"}, {"used_count": 0}):
        with pytest.raises(APIError):
            sdk(painter).table("prompt_suggestions").update(body).eq("id", mine).execute()

    answers = [
        [
            stranger.insert({"suggestion_id": suggestion}),
            stranger.start(suggestion_id=suggestion),
        ]
        for suggestion in (mine, str(uuid.uuid4()))
    ]
    for theirs, unknown in zip(*answers, strict=True):
        assert theirs.status_code == unknown.status_code == 404
        ours, none = theirs.json(), unknown.json()
        for body in (ours, none):
            body.pop("request_id", None)
        assert ours == none
        assert "suggestion_not_found" in theirs.text
    stranger.require_nothing_held()
    assert stranger.payer.usage() == []
    [row] = stored(painter)
    assert (row["used_count"], row["last_used_at"]) == (0, None)

    assert sdk(painter).table("prompt_suggestions").delete().eq("id", mine).execute().data
    assert stored(painter) == []


def test_an_organizations_key_uses_nobodys(painter: Painter) -> None:
    connection = painter.payer.connection
    slug = f"team-{uuid.uuid4().hex[:8]}"
    organization = painter.rpc("create_organization", p_name="A team", p_slug=slug).json()["id"]
    connection.execute(
        "update public.organizations set plan_id = (select id from public.plans"
        " where slug = 'business') where id = %s",
        [organization],
    )
    made = painter.rpc(
        "create_api_key",
        p_name="drawing",
        p_values={"scopes": ["images", "chat"]},
        p_organization_id=organization,
    ).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    answer = painter.http.post(
        "/images/suggestions", json={"prompt": "a lighthouse"}, headers=headers
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "person_required")
    answer = painter.start(suggestion_id=put(painter), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "suggestion_not_found")


# Use ---------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_uses_are_counted_at_once_and_what_became_of_them_at_the_end(
    stack: Stack, new_painter: NewPainter
) -> None:
    painter = new_painter("enterprise")
    suggestion, other = put(painter), put(painter, "another")
    fates = ["completed"] * 8 + ["failed"] * 6 + ["cancelled"] * 6
    prompts = {
        "completed": "a lighthouse",
        "failed": "a lighthouse simulate: error=lora_refused",
        "cancelled": "a lighthouse simulate: steps=1000 step_ms=50",
    }
    database = await Database.open(settings_of(stack))

    async def one(fate: str) -> str:
        values = {"model_id": "flux-schnell", "width": 256, "height": 256}
        started = await database.rpc(
            "image_start",
            p_values=values | {"prompt": prompts[fate], "suggestion_id": suggestion},
            p_user_id=painter.id,
        )
        generation_id = started["generation"]["id"]
        assert started["generation"]["suggestion_id"] == suggestion
        if fate == "cancelled":
            await database.rpc("image_cancel", p_id=generation_id, p_user_id=painter.id)
        return str(generation_id)

    try:
        ids = await asyncio.gather(*(one(fate) for fate in fates))
        [row] = [row for row in stored(painter) if str(row["id"]) == suggestion]
        assert row["used_count"] == 20
        assert row["last_used_at"] is not None

        def quiet() -> bool:
            return all(painter.row(one)["status"] in ENDED for one in ids)

        assert await asyncio.to_thread(wait_for, quiet, 90)
        assert [painter.row(one)["status"] for one in ids] == fates
        # An end that is told twice is counted once.
        for generation_id in ids:
            await database.rpc(
                "image_fail", p_id=generation_id, p_error_code="late", p_error_message="late"
            )
    finally:
        await database.aclose()
    rows = {str(row["id"]): row for row in stored(painter)}
    row = rows[suggestion]
    assert (row["used_count"], row["completed_count"], row["failed_count"]) == (20, 8, 6)
    assert row["success_rate"] == pytest.approx(8 / 14)
    assert rows[other]["used_count"] == 0
    painter.require_nothing_held()


def test_success_makes_surer_and_failure_less_so(painter: Painter, sdk: NewClient) -> None:
    put(painter, "good", used_count=8, completed_count=8, last_used_at="2026-01-01T00:00:00Z")
    put(painter, "bad", used_count=8, failed_count=8, last_used_at="2026-01-01T00:00:00Z")
    put(painter, "new")
    found = suggested(sdk(painter), "a lighthouse")
    assert [(one["suggested_prompt"], one["confidence_score"]) for one in found] == [
        ("good", 0.9),
        ("new", 0.5),
        ("bad", 0.1),
    ]
    assert [one["success_rate"] for one in found] == [1, 0, 0]
    assert {row["suggested_prompt"]: row["confidence_score"] for row in stored(painter)} == {
        "good": 0.9,
        "new": 0.5,
        "bad": 0.1,
    }


def test_it_may_be_deleted_while_images_are_made_of_it(
    new_painter: NewPainter, sdk: NewClient
) -> None:
    painter = new_painter("enterprise")
    client = sdk(painter)
    for _ in range(3):
        suggestion = put(painter)
        rows = [{"suggestion_id": suggestion, "width": 256, "height": 256} for _ in range(6)]
        ids = [row["id"] for row in painter.insert(*rows).json()]
        # As the first of them end.
        wait_for(lambda ids=ids: any(painter.row(one)["status"] != "pending" for one in ids))
        deleted = client.table("prompt_suggestions").delete().eq("id", suggestion).execute().data
        assert [row["id"] for row in deleted] == [suggestion]
        for generation_id in ids:
            row = painter.ended(generation_id, 30)
            assert (row["status"], row["suggestion_id"]) == ("completed", None)
    assert stored(painter) == []
    painter.require_nothing_held()


def test_its_deletion_waits_for_an_end_and_no_end_for_its_deletion(
    stack: Stack, painter: Painter
) -> None:
    suggestion = put(painter)
    generation_id = painter.start(
        "simulate: steps=1000 step_ms=50", suggestion_id=suggestion
    ).json()["id"]
    with psycopg.connect(stack.admin_dsn) as ending, ThreadPoolExecutor(1) as pool:
        ending.execute("select private.lock_generation(%s)", [generation_id])
        deleting = pool.submit(
            painter.rest.delete, "/prompt_suggestions", params={"id": f"eq.{suggestion}"}
        )

        def waits() -> bool:
            row = painter.payer.connection.execute(
                "select count(*) as it from pg_stat_activity where wait_event_type = 'Lock'"
                " and query ilike '%%prompt_suggestions%%' and %s = any(pg_blocking_pids(pid))",
                [ending.info.backend_pid],
            ).fetchone()
            return row is not None and row["it"] > 0 and not deleting.done()

        wait_for(waits)
        ending.execute("select backend.image_fail(%s, 'x', 'y')", [generation_id])
        ending.commit()
        assert deleting.result(20).status_code == 204
    row = painter.row(generation_id)
    assert (row["status"], row["suggestion_id"]) == ("failed", None)
    assert stored(painter) == []


# How many ----------------------------------------------------------------------------------------


def test_nothing_is_kept_twice(painter: Painter, sdk: NewClient) -> None:
    painter.made("a red lighthouse")
    painter.made("a white lighthouse")
    clients = [sdk(painter) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda client: suggested(client, "a lighthouse"), clients))
    ids = {tuple(sorted(one["id"] for one in found)) for found in answers}
    assert len(ids) == 1
    assert len(stored(painter)) == 2
    # Another prompt, the same suggestions; and the same words by a model are another source.
    again = suggested(clients[0], "red lighthouse")
    assert {one["id"] for one in again} == set(*ids)
    put(painter, "a red lighthouse")
    with pytest.raises(psycopg.errors.UniqueViolation):
        put(painter, "a red lighthouse")
    assert texts(suggested(clients[0], "a lighthouse")).count("a red lighthouse") == 1


def test_the_oldest_that_were_never_used_go_first(painter: Painter, sdk: NewClient) -> None:
    connection = painter.payer.connection
    painter.made("a lighthouse")
    used = put(painter, "used", base_prompt="x", used_count=1, last_used_at="2020-01-01T00:00:00Z")
    connection.execute(
        "insert into public.prompt_suggestions"
        " (user_id, base_prompt, suggested_prompt, source_type, confidence_score, created_at)"
        " select %s, 'x', 'number ' || n, 'ai', 0.5, now() - n * interval '1 hour'"
        " from generate_series(1, 210) as n",
        [painter.id],
    )
    [found] = suggested(sdk(painter), "lighthouse fog")
    assert found["suggested_prompt"] == "a lighthouse"
    rows = stored(painter)
    assert len(rows) == 200
    left = {row["suggested_prompt"] for row in rows}
    assert left == {"used", "a lighthouse"} | {f"number {n}" for n in range(1, 199)}
    assert used in {str(row["id"]) for row in rows}


def test_prompts_that_are_too_long_are_refused_or_passed_over(
    painter: Painter, sdk: NewClient
) -> None:
    client = sdk(painter)
    with pytest.raises(APIError) as refused:
        suggested(client, "x" * 4001)
    assert "invalid_argument" in str(refused.value.details)
    answer = painter.http.post("/images/suggestions", json={"prompt": "x" * 4001})
    assert answer.status_code == 422
    blank = painter.http.post("/images/suggestions", json={"prompt": " \n"})
    assert (blank.status_code, blank.json()["code"]) == (400, "invalid_argument")
    made = painter.start("lighthouse " + "x" * 4000, model_id="qwen-image", num_outputs=1)
    assert made.status_code == 202, made.text
    assert painter.ended(made.json()["id"])["status"] == "completed"
    assert suggested(client, "lighthouse") == []


# By a chat model ---------------------------------------------------------------------------------


def test_a_chat_model_makes_a_prompt_better_and_is_paid(
    painter: Painter, sdk: NewClient, upstream: Memory, mark: str
) -> None:
    prompt = f"a lighthouse {mark}"
    painter.made(prompt)
    client = sdk(painter)
    [history] = of("history", suggested(client))
    before = painter.payer.balance

    answer = painter.http.post("/images/suggestions", json={"prompt": f" {prompt}\n"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert 1 <= len(body["suggestions"]) <= 3
    for one in body["suggestions"]:
        assert (one["source_type"], one["base_prompt"]) == ("ai", prompt)
        assert (one["confidence_score"], one["metadata"]) == (0.5, {"model": MODEL})
        assert one["suggested_prompt"].startswith("simulated ")
        assert "embedding" not in one
    # The same words mean the same: what was drawn with them is next to them.
    assert body["similar"][0]["id"] == history["id"]
    assert abs(body["similar"][0]["distance"]) < 0.001

    asked, embedded = upstream.bodies(mark)
    assert asked["messages"][1] == {"role": "user", "content": prompt}
    assert embedded["dimensions"] == 1536
    assert embedded["input"] == [prompt, *texts(body["suggestions"]), prompt]
    assert all(row["embedding"] is not None for row in stored(painter))

    image, completion, embedding = painter.payer.charges()
    assert completion > 0
    assert embedding > 0
    told = Decimal(str(body["usage"]["credits_charged"]))
    assert told == completion + embedding == before - painter.payer.balance
    actions = [row["action"] for row in painter.payer.settled_usage(3)]
    assert actions == ["image", "chat", "embedding"]
    painter.require_nothing_held()

    # From now on it is suggested to whoever asked, for nothing.
    found = suggested(client, prompt)
    assert set(texts(of("ai", found))) == set(texts(body["suggestions"]))
    assert len(painter.payer.charges()) == 3
    assert image == 1


def test_the_same_key_is_answered_again_and_charged_once(painter: Painter) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    answers = [
        painter.http.post("/images/suggestions", json={"prompt": "a castle"}, headers=headers)
        for _ in range(2)
    ]
    first, second = (
        [(one["id"], one["suggested_prompt"]) for one in answer.json()["suggestions"]]
        for answer in answers
    )
    assert first == second
    assert len(painter.payer.charges()) == 2  # one completion, one embedding
    assert len(stored(painter)) == len(first)
    assert all(row["embedding"] is not None for row in stored(painter))


@pytest.mark.anyio
async def test_what_was_paid_is_kept_though_nobody_waits_any_more(
    painter: Painter, functions_url: str
) -> None:
    headers = {"Authorization": f"Bearer {painter.payer.token}"}
    # The model takes so long, and so do the vectors: they are what is left when the first is paid.
    body = {"prompt": "a castle simulate: first_ms=1500"}
    async with httpx.AsyncClient(base_url=functions_url, headers=headers, trust_env=False) as http:
        asking = asyncio.create_task(http.post("/images/suggestions", json=body))
        assert len(await asyncio.to_thread(wait_for, painter.payer.charges)) == 1
        assert stored(painter) == []
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    rows = await asyncio.to_thread(wait_for, lambda: stored(painter))
    assert all(row["embedding"] is not None for row in rows)
    assert len(painter.payer.charges()) == 2
    painter.require_nothing_held()


def test_what_holds_no_prompts_is_an_error_and_keeps_nothing(painter: Painter) -> None:
    answer = painter.http.post(
        "/images/suggestions", json={"prompt": "a castle simulate: fault=prose"}
    )
    assert (answer.status_code, answer.json()["code"]) == (502, "no_suggestions")
    # It was work, and whoever could have it for nothing would write their prompts so.
    assert len(painter.payer.charges()) == 1
    assert stored(painter) == []
    painter.require_nothing_held()


def test_what_the_model_does_not_answer_costs_nothing(painter: Painter) -> None:
    answer = painter.http.post(
        "/images/suggestions", json={"prompt": "a castle simulate: status=400"}
    )
    assert answer.status_code == 400, answer.text
    assert painter.payer.charges() == []
    assert stored(painter) == []
    painter.require_nothing_held()


def test_without_vectors_there_are_suggestions_all_the_same(
    painter: Painter, sdk: NewClient
) -> None:
    prompt = "a castle simulate: fault=no_vectors"
    answer = painter.http.post("/images/suggestions", json={"prompt": prompt})
    assert answer.status_code == 200, answer.text
    assert answer.json()["similar"] == []
    assert [row["embedding"] for row in stored(painter)] == [None] * len(stored(painter))
    assert len(painter.payer.charges()) == 1
    # The next ask makes up for it.
    more = painter.http.post("/images/suggestions", json={"prompt": "a castle by the sea"}).json()
    assert all(row["embedding"] is not None for row in stored(painter))
    assert texts(of("ai", suggested(sdk(painter), "a castle by the sea")))
    assert {one["id"] for one in more["suggestions"] + more["similar"]} == {
        str(row["id"]) for row in stored(painter)
    }


def test_who_cannot_pay_gets_none(painter: Painter) -> None:
    painter.payer.connection.execute(
        "select backend.credit_hold(%s, null, 100, 'everything', 'chat')", [painter.id]
    )
    answer = painter.http.post("/images/suggestions", json={"prompt": "a castle"})
    assert (answer.status_code, answer.json()["code"]) == (402, "insufficient_credits")
    assert stored(painter) == []


@pytest.mark.parametrize(
    ("scopes", "status"), [("images,chat", 200), ("images", 403), ("chat", 403)]
)
def test_a_key_needs_both_scopes(painter: Painter, scopes: str, status: int) -> None:
    made = painter.rpc(
        "create_api_key", p_name="a program", p_values={"scopes": scopes.split(",")}
    ).json()
    answer = painter.http.post(
        "/images/suggestions",
        json={"prompt": "a castle"},
        headers={"Authorization": f"Bearer {made['key']}"},
    )
    assert answer.status_code == status, answer.text
    if status == 403:
        assert answer.json()["code"] == "insufficient_scope"
        assert painter.payer.charges() == []
    assert bool(stored(painter)) == (status == 200)


def test_vectors_find_ones_own_alone(painter: Painter, new_painter: NewPainter) -> None:
    stranger = new_painter()
    for one in (painter, stranger):
        answer = one.http.post("/images/suggestions", json={"prompt": "a castle"})
        assert answer.status_code == 200, answer.text
    theirs = {str(row["id"]) for row in stored(stranger)}
    again = painter.http.post("/images/suggestions", json={"prompt": "a castle"}).json()
    seen = {one["id"] for one in again["suggestions"] + again["similar"]}
    assert seen
    assert not seen & theirs


@pytest.mark.parametrize(
    ("content", "prompts"),
    [
        ('{"prompts": ["a", "b", "c"]}', ["a", "b", "c"]),
        ('```json\n{"prompts": ["a"]}\n```', ["a"]),
        ('Here you are: {"prompts": ["a", "A", "Base", "b"]} Enjoy!', ["a", "b"]),
        ('{"prompts": ["a", "b", "c", "d"]}', ["a", "b", "c"]),
        ('{"prompts": [" a\\n\\tb\\u202e\\u0007 ", "", " ", 7, null, {"x": 1}, ["y"]]}', ["a b"]),
        ('{"prompts": ["\\u0000", "\\ud800", "c"]}', ["c"]),
        ('{"prompts": "a"}', []),
        ('{"prompts": {"a": "b"}}', []),
        ('{"suggestions": ["a"]}', []),
        ('["a"]', []),
        ("a castle", []),
        ("}{", []),
        ("", []),
        (None, []),
        ([{"type": "text", "text": "a"}], []),
    ],
)
def test_what_a_model_says_is_read_with_mistrust(content: Any, prompts: list[str]) -> None:
    assert prompts_in(content, "base") == prompts


def test_what_a_model_says_is_bounded() -> None:
    long = "x" * (MAX_PROMPT + 1)
    assert prompts_in(f'{{"prompts": ["{long}", "{long[1:]}"]}}', "base") == [long[1:]]
    assert prompts_in('{"prompts": ' + "[" * 100_000 + "]" * 100_000 + "}", "base") == []
    assert prompts_in('{"prompts": [' + "9" * 10_000 + "]}", "base") == []
