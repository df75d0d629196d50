"""Idempotency-Key: the same request is answered again, and charged once."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from functions.chat.counting import Usage
from functions.chat.idempotency import (
    MAX_STORED_BYTES,
    StoredAnswer,
    fingerprint,
    not_stored,
    read_key,
)
from functions.chat.metering import Meter
from functions.core.errors import QuernelError
from local.stack import Stack
from tests.chat.conftest import (
    MODEL,
    Memory,
    Payer,
    ask_of,
    body,
    chat_service,
    settings_of,
    wait_for,
)


@pytest.fixture
def key() -> dict[str, str]:
    return {"Idempotency-Key": f"key {uuid.uuid4()}"}


def without_credits(text: str) -> list[Any]:
    """The answer or the chunks; credits differ between a first answer and its replay."""
    frames = [line.removeprefix("data: ") for line in text.splitlines() if line]
    values = [json.loads(frame) if frame != "[DONE]" else frame for frame in frames]
    for value in values:
        if isinstance(value, dict) and value.get("usage"):
            for name in ("credits_charged", "credits_remaining"):
                value["usage"].pop(name, None)
    return values


@pytest.mark.parametrize(
    "options",
    [{}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}, {"n": 2}],
)
def test_a_replay_gives_the_stored_answer(
    payer: Payer, upstream: Memory, mark: str, key: dict[str, str], options: dict[str, Any]
) -> None:
    first = payer.ask(mark, headers=key, **options)
    again = payer.ask(mark, headers=key, **options)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["content-type"] == first.headers["content-type"]
    assert without_credits(again.text) == without_credits(first.text)
    assert len(payer.charges()) == 1
    assert len(upstream.bodies(mark)) == 1


def test_the_official_client_reads_a_replayed_stream(payer: Payer, key: dict[str, str]) -> None:
    def text() -> str:
        stream = payer.client().chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hello"}],
            stream=True,
            extra_headers=key,
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert text() == text()
    assert len(payer.charges()) == 1


def test_the_order_of_members_does_not_matter(payer: Payer, key: dict[str, str]) -> None:
    request = body("hello", temperature=0.5)
    swapped = dict(reversed(request.items()))
    payer.http.post("/chat/completions", json=request, headers=key)
    again = payer.http.post("/chat/completions", json=swapped, headers=key)
    assert again.headers["idempotent-replayed"] == "true"


def test_another_body_with_the_same_key_is_refused(payer: Payer, key: dict[str, str]) -> None:
    payer.ask("hello", headers=key)
    with pytest.raises(openai.ConflictError) as caught:
        payer.client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "other"}], extra_headers=key
        )
    assert caught.value.code == "idempotency_conflict"
    assert len(payer.charges()) == 1


def test_keys_of_two_people_are_two_keys(new_payer: Any, key: dict[str, str]) -> None:
    one, other = new_payer(), new_payer()
    assert one.ask("hello", headers=key).status_code == 200
    answer = other.ask("something else", headers=key)
    assert answer.status_code == 200
    assert "idempotent-replayed" not in answer.headers


@pytest.mark.parametrize("stream", [False, True])
def test_a_key_whose_first_request_still_runs_is_refused(
    payer: Payer, key: dict[str, str], stream: bool
) -> None:
    with ThreadPoolExecutor(1) as pool:
        text = "hello simulate: first_ms=1500"
        first = pool.submit(payer.ask, text, headers=key, stream=stream)
        wait_for(payer.holds)
        second = payer.ask(text, headers=key, stream=stream)
        assert second.status_code == 409
        assert second.json()["error"]["code"] == "idempotency_in_progress"
        assert int(second.headers["retry-after"]) >= 1
        assert first.result().status_code == 200
    assert len(payer.charges()) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_after_an_uncharged_failure_the_key_runs_again(
    payer: Payer, upstream: Memory, mark: str, key: dict[str, str], stream: bool
) -> None:
    for _ in range(2):
        answer = payer.ask(f"{mark} simulate: status=500", headers=key, stream=stream)
        assert answer.status_code == 502
    assert len(upstream.bodies(mark)) == 2
    payer.require_free(count=2)


def test_after_the_client_left_before_the_first_token_the_key_runs_again(
    payer: Payer, key: dict[str, str]
) -> None:
    text = "hello simulate: first_ms=1500"
    with pytest.raises(httpx.ReadTimeout):
        payer.http.post("/chat/completions", json=body(text), headers=key, timeout=0.3)
    payer.settled_usage()
    assert payer.ask(text, headers=key).status_code == 200
    assert len(payer.charges()) == 1


def test_a_stream_that_was_left_and_charged_is_not_run_again(
    payer: Payer, upstream: Memory, mark: str, key: dict[str, str]
) -> None:
    request = body(f"{mark} simulate: tokens=200 token_ms=20", stream=True)
    with payer.http.stream("POST", "/chat/completions", json=request, headers=key) as answer:
        lines = answer.iter_lines()
        for _ in range(8):
            next(lines)
    payer.settled_usage()
    again = payer.http.post("/chat/completions", json=request, headers=key)
    assert again.status_code == 409
    assert again.json()["error"]["code"] == "answer_not_stored"
    assert again.json()["error"]["reason"] == "cancelled"
    assert len(payer.charges()) == 1
    assert len(upstream.bodies(mark)) == 1


def test_twenty_parallel_requests_with_one_key_are_charged_once(
    payer: Payer, upstream: Memory, mark: str, key: dict[str, str]
) -> None:
    with ThreadPoolExecutor(20) as pool:
        text = f"{mark} simulate: first_ms=300"
        answers = list(pool.map(lambda _: payer.ask(text, headers=key), range(20)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert {answer.json()["error"]["code"] for answer in answers if answer.status_code == 409} <= {
        "idempotency_in_progress"
    }
    fresh = [
        answer
        for answer in answers
        if answer.status_code == 200 and "idempotent-replayed" not in answer.headers
    ]
    assert len(fresh) == 1
    assert len(payer.charges()) == 1
    assert len(upstream.bodies(mark)) == 1


def test_a_key_that_ran_again_after_the_reaper_is_charged_once(
    payer: Payer, upstream: Memory, mark: str, key: dict[str, str]
) -> None:
    # The first answer is slow, the reaper takes it for lost, and both come to an end.
    with ThreadPoolExecutor(1) as pool:
        text = f"{mark} simulate: first_ms=2000"
        first = pool.submit(payer.ask, text, headers=key)
        [hold] = wait_for(payer.holds)
        wait_for(lambda: upstream.bodies(mark))
        with payer.connection.transaction():
            payer.connection.execute(
                "update private.credit_holds set deadline = created_at + interval '1 microsecond'"
                " where id = %s",
                [hold["id"]],
            )
            payer.connection.execute("select backend.credit_reap(5000)")
        second = payer.ask(text, headers=key)
        assert (first.result().status_code, second.status_code) == (200, 200)
    assert len(upstream.bodies(mark)) == 2
    rows = payer.settled_usage(2)
    assert [(row["status"], row["error_code"]) for row in rows] == [
        ("failed", "superseded"),
        ("completed", None),
    ]
    assert payer.charges() == [rows[1]["credits"]]
    assert payer.ask(text, headers=key).headers["idempotent-replayed"] == "true"
    assert payer.balance == 100 - rows[1]["credits"]


@pytest.mark.anyio
async def test_a_charged_request_whose_answer_was_not_handed_in_is_not_run_again(
    stack: Stack, payer: Payer, key: dict[str, str]
) -> None:
    ask = replace(ask_of(payer, "hello"), idempotency_key=key["Idempotency-Key"])
    async with chat_service(settings_of(stack)) as service:
        meter = await service.hold(ask)
        assert isinstance(meter, Meter)
        async with meter:
            meter.finish(Usage(5, 7, 0, "upstream"), "completed", None)
            await meter.closed()
    again = payer.ask("hello", headers=key)
    assert again.status_code == 409
    assert again.json()["error"]["code"] == "answer_not_stored"
    assert len(payer.charges()) == 1
    assert len(payer.holds()) == 1


def test_a_key_is_forgotten_after_its_time(payer: Payer, key: dict[str, str]) -> None:
    payer.ask("hello", headers=key)
    payer.connection.execute(
        "update private.idempotent_requests set expires_at = now() where user_id = %s", [payer.id]
    )
    # Whether or not it was purged, another request may have it.
    other = payer.ask("something else", headers=key)
    assert (other.status_code, "idempotent-replayed" in other.headers) == (200, False)
    assert payer.ask("something else", headers=key).headers["idempotent-replayed"] == "true"
    assert len(payer.charges()) == 2


def test_what_was_stored_under_a_forgotten_key_is_purged(payer: Payer, key: dict[str, str]) -> None:
    kept = {"Idempotency-Key": f"{key['Idempotency-Key']} kept"}
    for headers in (key, kept):
        payer.ask("hello", headers=headers)
    payer.connection.execute(
        "update private.idempotent_requests set expires_at = now() where idempotency_key = %s",
        [key["Idempotency-Key"]],
    )
    payer.connection.execute("select backend.chat_purge(100000)")
    left = payer.connection.execute(
        "select idempotency_key from private.idempotent_requests where user_id = %s", [payer.id]
    )
    assert left.fetchall() == [{"idempotency_key": kept["Idempotency-Key"]}]


@pytest.mark.anyio
@pytest.mark.parametrize("gone", ["model", "provider"])
async def test_a_replay_outlives_its_model(
    stack: Stack, payer: Payer, key: dict[str, str], gone: str
) -> None:
    name = f"retired-{uuid.uuid4().hex[:12]}"
    payer.connection.execute(
        "insert into public.model_providers (slug, name) values (%s, 'Test')", [name]
    )
    payer.connection.execute(
        "select backend.model_upsert(jsonb_build_object("
        " 'id', %(name)s::text, 'provider', %(name)s::text, 'name', 'Test', 'kind', 'chat',"
        " 'context_length', 9000, 'max_output_tokens', 500, 'default_output_tokens', 100,"
        " 'prompt_price', 10, 'cached_prompt_price', 5, 'completion_price', 20), 'tests')",
        {"name": name},
    )
    ask = replace(ask_of(payer, "hello", model=name), idempotency_key=key["Idempotency-Key"])
    places = {name: {"url": f"{stack.simulator_url}/v1"}}
    async with chat_service(settings_of(stack, providers=places)) as service:
        first, _ = await service.complete(ask)
    payer.connection.execute(
        "update public.models set is_active = false where id = %s"
        if gone == "model"
        else "update public.model_providers set is_active = false where slug = %s",
        [name],
    )
    again = payer.ask("hello", model=name, headers=key)
    assert again.headers["idempotent-replayed"] == "true"
    assert without_credits(again.text) == without_credits(first)
    assert payer.ask("hello", model=name).json()["error"]["code"] == "model_not_found"
    assert len(payer.charges()) == 1


def test_another_body_that_names_an_unknown_model_is_a_conflict(
    payer: Payer, key: dict[str, str]
) -> None:
    payer.ask("hello", headers=key)
    other = payer.ask("hello", model="no-such-model", headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")


def test_an_organization_is_the_same_payer_by_slug_and_by_id(
    payer: Payer, key: dict[str, str]
) -> None:
    slug = f"team-{uuid.uuid4().hex[:12]}"
    row = payer.connection.execute(
        "with team as ("
        " insert into public.organizations (name, slug, created_by) values ('Team', %s, %s)"
        " returning id"
        "), owner as ("
        " insert into public.organization_members (organization_id, user_id, role)"
        " select id, %s, 'owner' from team"
        ") select id::text from team",
        [slug, payer.id, payer.id],
    ).fetchone()
    assert row is not None
    payer.connection.execute(
        "select backend.credit_grant(p_organization_id => %s, p_amount => 10,"
        " p_source => 'bonus', p_idempotency_key => 'first', p_actor => 'tests')",
        [row["id"]],
    )
    by_slug, by_id = (key | {"OpenAI-Organization": name} for name in (slug, row["id"]))
    first = payer.ask("hello", headers=by_slug)
    assert first.status_code == 200
    again = payer.ask("hello", headers=by_id)
    assert again.headers["idempotent-replayed"] == "true"
    # The person's own account is another payer, so the same key is another key.
    assert "idempotent-replayed" not in payer.ask("hello", headers=key).headers
    assert len(payer.charges()) == 1


@pytest.mark.parametrize("value", ["", "x" * 256, "tab\there", "ümlaut"])
def test_a_key_that_is_not_short_printable_ascii_is_refused(idle_payer: Payer, value: str) -> None:
    answer = idle_payer.http.post(
        "/chat/completions",
        json=body("hello"),
        headers=[(b"Idempotency-Key", value.encode("latin-1"))],
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_idempotency_key"
    idle_payer.require_free(count=0)


@pytest.mark.parametrize("value", ["x", "x" * 255, "a b", "!~"])
def test_keys_of_1_to_255_printable_characters_are_taken(value: str) -> None:
    assert read_key(value) == value
    assert read_key(None) is None


def test_a_fingerprint_is_of_the_meaning() -> None:
    one = fingerprint({"a": 1, "b": [1, 2]})
    assert one == fingerprint({"b": [1, 2], "a": 1})
    assert one != fingerprint({"a": 1, "b": [2, 1]})


def test_an_answer_over_the_limit_is_not_stored() -> None:
    small = StoredAnswer(["x"], {"a": "\0"}, {"total_tokens": 1})
    assert StoredAnswer.unpack(small.pack()) == small
    large = StoredAnswer(["x" * MAX_STORED_BYTES], {}, {})
    assert large.pack() == not_stored("too_large")
    with pytest.raises(QuernelError) as caught:
        StoredAnswer.unpack(large.pack())
    assert (caught.value.status, caught.value.code) == (409, "answer_not_stored")
