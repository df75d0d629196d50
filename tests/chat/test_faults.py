"""An upstream that fails costs nothing, and says so in the words of the OpenAI client."""

from __future__ import annotations

import openai
import pytest

from tests.chat.conftest import MODEL, Memory, Payer

STATUSES = [
    ("simulate: status=429 retry_after=7", 503, "upstream_rate_limited"),
    ("simulate: status=500", 502, "upstream_error"),
    ("simulate: status=503", 502, "upstream_error"),
    ("simulate: status=401", 503, "upstream_not_configured"),
    ("simulate: status=404", 502, "upstream_error"),
    ("simulate: status=302", 502, "upstream_error"),
    ("simulate: status=408", 504, "upstream_timeout"),
    ("simulate: status=422", 400, "upstream_rejected"),
    ("simulate: status=413", 400, "context_length_exceeded"),
    ("simulate: fault=context", 400, "context_length_exceeded"),
    ("simulate: fault=empty", 502, "upstream_empty_answer"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("text", "status", "code"), STATUSES)
def test_a_failing_upstream_is_free(
    payer: Payer, text: str, status: int, code: str, stream: bool
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        payer.client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": text}], stream=stream
        )
    assert (caught.value.status_code, caught.value.code) == (status, code)
    payer.require_free(count=1, code=code)


def test_a_busy_upstream_says_when_to_come_back(payer: Payer) -> None:
    answer = payer.ask("simulate: status=429 retry_after=7")
    assert answer.headers["retry-after"] == "7"
    assert answer.json()["error"]["retry_after"] == 7


def test_the_client_tries_again_on_its_own(payer: Payer, upstream: Memory, mark: str) -> None:
    client = payer.client().with_options(max_retries=1)
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": f"{mark} simulate: status=500"}]
        )
    assert len(upstream.bodies(mark)) == 2
    payer.require_free(count=2, code="upstream_error")


@pytest.mark.parametrize("fault", ["malformed", "reset"])
def test_a_broken_answer_in_one_piece_is_free(payer: Payer, fault: str) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        payer.client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": f"simulate: fault={fault}"}]
        )
    assert caught.value.code == "upstream_error"
    payer.require_free(count=1, code="upstream_error")


@pytest.mark.parametrize("fault", ["malformed", "reset", "error", "cut"])
def test_a_stream_that_breaks_ends_with_an_error_and_is_free(payer: Payer, fault: str) -> None:
    text, error = "", None
    stream = payer.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": f"simulate: fault={fault} after=4"}],
        stream=True,
    )
    try:
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    except openai.APIError as caught:
        error = caught
    assert "[simulated] "[:9] in text
    assert error is not None
    assert error.code == "upstream_error"
    payer.require_free(count=1, code="upstream_error")


@pytest.mark.parametrize("fault", ["malformed", "reset", "error"])
def test_a_stream_that_breaks_before_its_first_token_is_an_http_error(
    payer: Payer, fault: str
) -> None:
    answer = payer.ask(f"simulate: fault={fault} after=0", stream=True)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_error"
    payer.require_free(count=1, code="upstream_error")


def test_an_answer_without_usage_is_counted(payer: Payer) -> None:
    answer = payer.ask("hello simulate: fault=no_usage tokens=12").json()
    text = answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] == -(-len(text.encode()) // 4)
    [row] = payer.usage()
    assert (row["usage_source"], row["credits"]) == ("counted", payer.charges()[0])


def test_a_stream_without_usage_is_counted_by_its_chunks(payer: Payer) -> None:
    stream = payer.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "hello simulate: fault=no_usage tokens=12"}],
        stream=True,
    )
    last = list(stream)[-1]
    assert last.usage is not None
    assert last.usage.completion_tokens >= 12
    assert last.usage.prompt_tokens > 0
    [row] = payer.usage()
    assert row["usage_source"] == "counted"
    assert row["completion_tokens"] == last.usage.completion_tokens


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["huge_usage", "text_usage"])
def test_wrong_usage_is_replaced_by_a_count_within_the_hold(
    payer: Payer, fault: str, stream: bool
) -> None:
    payer.ask(f"hello simulate: fault={fault}", stream=stream, max_tokens=50)
    [row] = payer.settled_usage()
    assert row["usage_source"] == "counted"
    assert 0 < row["completion_tokens"] <= 50
    assert 0 < row["credits"] <= row["credits_held"]
    assert payer.balance == 100 - row["credits"]
