"""Failures that other products had with money, each as a test here.

The names say what must not happen; the comment says whose history it is.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.chat.conftest import Memory, NewPayer, Payer, body, wait_for


def set_budget(payer: Payer, amount: str) -> None:
    payer.connection.execute(
        "update public.credit_accounts set monthly_credit_budget = %s where user_id = %s",
        [Decimal(amount), payer.id],
    )


def leave(payer: Payer, text: str, lines: int) -> None:
    """Hang up after this many lines of a stream."""
    request = body(text, stream=True)
    with payer.http.stream("POST", "/chat/completions", json=request) as answer:
        for _ in zip(range(lines), answer.iter_lines(), strict=False):
            pass


def test_two_paths_do_not_charge_one_aborted_stream_twice(payer: Payer) -> None:
    # LibreChat PR 15889: the abort handler and the end of the stream both charged.
    # Hanging up at every point of a fast stream meets the moment at which it ends by itself.
    attempts = range(1, 61, 3)
    for lines in attempts:
        leave(payer, "hello simulate: tokens=24", lines)
    rows = payer.settled_usage(len(attempts))
    charged = [row["credits"] for row in rows if row["credits"] > 0]
    assert sorted(payer.charges()) == sorted(charged)
    assert {row["status"] for row in rows} <= {"completed", "cancelled", "failed"}
    assert all(row["credits"] > 0 for row in rows if row["status"] != "failed")
    assert {hold["status"] for hold in payer.holds()} <= {"settled", "released"}
    assert payer.balance == 100 - sum(charged)
    assert payer.account()["held"] == 0


def test_aborted_stream_is_not_logged_at_zero(payer: Payer) -> None:
    # LiteLLM PR 37558: what was streamed before the client left was neither logged nor charged.
    leave(payer, "hello simulate: tokens=200 token_ms=10", lines=12)
    [row] = payer.settled_usage()
    assert row["status"] == "cancelled"
    assert row["prompt_tokens"] > 0
    assert row["completion_tokens"] >= 4
    assert row["credits"] > 0
    assert row["latency_ms"] > 0
    assert payer.charges() == [row["credits"]]


def test_request_without_max_tokens_is_not_refused_for_the_full_window(
    payer: Payer, upstream: Memory, mark: str
) -> None:
    # qwen-code 73: the check before the call wanted credits for the whole context window.
    set_budget(payer, "0.1")
    answer = payer.ask(mark)
    assert answer.status_code == 200
    [sent] = upstream.bodies(mark)
    assert 16 <= sent["max_tokens"] < 2048
    assert payer.charges()[0] <= Decimal("0.1")


def test_a_prompt_is_not_refused_for_the_bytes_it_has(new_payer: NewPayer) -> None:
    # qwen-code 73: the same with the plan's tokens, of which this prompt has about 2,500.
    payer = new_payer(plan="free")  # 10,000 tokens a month
    prompt = "word " * 1_998
    quote = payer.http.post("/quote", json=body(prompt, max_tokens=50)).json()
    assert (quote["affordable"], quote["prompt_tokens"] > 10_000) == (True, True)
    assert payer.ask(prompt, max_tokens=50).status_code == 200
    [row] = payer.settled_usage()
    used = row["prompt_tokens"] + row["completion_tokens"]
    assert payer.account()["period_tokens"] == used < 3_000


def test_five_parallel_long_prompts_do_not_pass_a_budget_for_one(payer: Payer) -> None:
    # LiteLLM PR 40002: each was checked against a budget that the others had not spent yet.
    text = "long words " * 2_000
    cost = payer.http.post("/quote", json=body(text, max_tokens=500)).json()["credits_max"]
    set_budget(payer, str(Decimal(str(cost)) * Decimal("1.5")))
    slow = f"{text} simulate: first_ms=1000"
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: payer.ask(slow, max_tokens=500), range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 402, 402, 402, 402]
    for answer in answers:
        if answer.status_code == 402:
            error = answer.json()["error"]
            assert error["code"] == "budget_exceeded"
            assert {"limit_source", "required", "available", "remedy"} <= error.keys()
    assert len(payer.charges()) == 1
    assert len(payer.usage()) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_negative_usage_from_upstream_does_not_credit(payer: Payer, stream: bool) -> None:
    # LibreChat 2359: a negative count turned the charge into a gift of 83 million.
    payer.ask("hello simulate: fault=negative_usage", stream=stream)
    [row] = payer.settled_usage()
    assert row["prompt_tokens"] > 0
    assert row["completion_tokens"] > 0
    assert row["usage_source"] == "counted"
    assert payer.charges() == [row["credits"]]
    assert 99 < payer.balance < 100


def test_a_failed_request_does_not_pin_its_reservation(payer: Payer) -> None:
    # LiteLLM PR 27509, eliza PR 11493: reservations that nobody returned blocked the account.
    set_budget(payer, "0.5")
    for fault in ("status=500", "fault=empty", "fault=reset", "fault=malformed"):
        payer.ask(f"hello simulate: {fault}", stream=True, max_tokens=2_000)
    with pytest.raises(httpx.ReadTimeout):
        payer.http.post(
            "/chat/completions",
            json=body("x simulate: first_ms=5000", max_tokens=2_000),
            timeout=0.3,
        )
    wait_for(lambda: payer.account()["held"] == 0)
    assert payer.ask("hello", max_tokens=2_000).status_code == 200
    assert len(payer.charges()) == 1


def test_concurrent_streams_are_limited_by_the_plan_and_then_free_again(new_payer: object) -> None:
    payer = new_payer(plan="free")  # type: ignore[operator]
    text = "hello simulate: first_ms=800"
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: payer.ask(text, max_tokens=50), range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "too_many_concurrent_requests"
    assert int(refused.headers["retry-after"]) >= 1
    assert payer.ask("hello", max_tokens=50).status_code == 200
    assert len(payer.charges()) == 3


METADATA = "http://169.254.169.254/latest/meta-data/"
INLINE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
SAID = {"type": "text", "text": "x"}
MEDIA = [
    SAID | {"uuid": "1", "image_url": METADATA},
    SAID | {"uuid": "1", "image_url": {"url": METADATA}},
    SAID | {"uuid": "1", "image_embeds": "AAAA"},
    SAID | {"uuid": "1", "audio_url": METADATA},
    SAID | {"uuid": "1", "video_url": METADATA},
    SAID | {"uuid": "1", "input_audio": {"data": "", "format": "wav"}},
    SAID | {"image_pil": "x"},
    SAID | {"uuid": "1"},
    SAID | {"text": {"image_url": METADATA}},
    {"type": "refusal", "refusal": "no", "image_url": METADATA},
    INLINE | {"uuid": "1", "video_url": METADATA},
    INLINE | {"image_url": INLINE["image_url"] | {"uuid": "1"}},
    INLINE | {"image_url": METADATA},
    INLINE | {"image_url": INLINE["image_url"]["url"]},  # type: ignore[index]
    {"type": "text", "image_url": METADATA},
]


@pytest.mark.parametrize("part", MEDIA)
@pytest.mark.parametrize("role", ["user", "system", "tool"])
def test_no_part_of_a_message_makes_the_model_server_fetch_an_address(
    idle_payer: Payer, upstream: Memory, mark: str, part: dict[str, Any], role: str
) -> None:
    # GHSA-3f6c-7fw2-ppm4: vLLM fetched media URLs, wherever they pointed. Beside a uuid it takes
    # media from members that the type of the part does not name.
    answer = idle_payer.http.post(
        "/chat/completions",
        json=body("x")
        | {"messages": [{"role": role, "content": [{"type": "text", "text": mark}, part]}]},
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "unsupported_content")
    assert error["param"] == "messages[0].content"
    assert upstream.bodies(mark) == []
    idle_payer.require_free(count=0)
