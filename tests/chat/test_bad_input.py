"""Bad input: a 4xx with a code, nothing held, nothing charged, nothing sent to the model."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import openai
import pytest

from local.stack import Stack
from tests.chat.conftest import MODEL, Memory, Payer, body

DEEP = '{"model":"m","messages":' + "[" * 10_000 + "]" * 10_000 + "}"
RAW = [
    (b"", "invalid_json"),
    (b"{", "invalid_json"),
    (b"[]", "invalid_json"),
    (b"null", "invalid_json"),
    (b"\xff\xfe{}", "invalid_json"),
    (b'{"model": "m", "messages": "\xc3\x28"}', "invalid_json"),
    (b'{"model": "a\x00b"}', "invalid_json"),
    (DEEP.encode(), "invalid_json"),
    (json.dumps(body("NUL \0 inside")).encode(), "invalid_text"),
    (json.dumps(body("x", model="a\0b")).encode(), "invalid_text"),
    (json.dumps(body("x", user="a\0b")).encode(), "invalid_text"),
    (json.dumps(body("half a pair \ud800")).encode(), "invalid_text"),
    (json.dumps(body("x", temperature=float("nan"))).encode(), "invalid_json"),
    (b'{"model": "m", "n": 1e999, "messages": []}', "invalid_json"),
    (b'{"model": "m", "model": "n", "messages": []}', "invalid_json"),
]
FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"model": None}, "invalid_request", "model"),
    ({"model": 7}, "invalid_request", "model"),
    ({"model": ""}, "invalid_request", "model"),
    ({"model": "x" * 201}, "invalid_request", "model"),
    ({"messages": []}, "invalid_request", "messages"),
    ({"messages": "hello"}, "invalid_request", "messages"),
    ({"messages": [{"role": "user", "content": "x"}] * 10_001}, "invalid_request", "messages"),
    ({"messages": [{"content": "x"}]}, "invalid_request", "messages[0].role"),
    ({"messages": [{"role": "root", "content": "x"}]}, "invalid_request", "messages[0].role"),
    ({"messages": [{"role": "user", "content": 7}]}, "invalid_request", "messages[0].content"),
    ({"messages": [{"role": "user", "content": [7]}]}, "invalid_request", "messages[0].content"),
    ({"max_tokens": -1}, "invalid_request", "max_tokens"),
    ({"max_tokens": 0}, "invalid_request", "max_tokens"),
    ({"max_tokens": 1.5}, "invalid_request", "max_tokens"),
    ({"max_tokens": True}, "invalid_request", "max_tokens"),
    ({"max_tokens": "100"}, "invalid_request", "max_tokens"),
    ({"max_tokens": 2**31}, "invalid_request", "max_tokens"),
    ({"max_tokens": 10**30}, "invalid_request", "max_tokens"),
    ({"max_tokens": 999_999}, "invalid_argument", "max_tokens"),
    ({"max_completion_tokens": -5}, "invalid_request", "max_completion_tokens"),
    ({"n": 0}, "invalid_request", "n"),
    ({"n": 9}, "invalid_request", "n"),
    ({"n": -1}, "invalid_request", "n"),
    ({"stream": "yes"}, "invalid_request", "stream"),
    ({"stream_options": 7}, "invalid_request", "stream_options"),
    ({"logprobs": True, "top_logprobs": 21}, "invalid_request", "top_logprobs"),
    ({"logprobs": True, "top_logprobs": -1}, "invalid_request", "top_logprobs"),
    ({"store": True}, "unsupported_parameter", "store"),
    ({"background": True}, "unsupported_parameter", "background"),
    ({"modalities": ["text", "audio"]}, "unsupported_parameter", "modalities"),
    ({"audio": {"voice": "alloy"}}, "unsupported_parameter", "audio"),
    ({"service_tier": "priority"}, "unsupported_parameter", "service_tier"),
    ({"best_of": 4}, "unsupported_parameter", "best_of"),
    ({"best_of": True}, "unsupported_parameter", "best_of"),
    ({"priority": -10}, "unsupported_parameter", "priority"),
    ({"chat_template": "{{ 1 }}"}, "unsupported_parameter", "chat_template"),
    ({"plugins": [{"id": "web"}]}, "unsupported_parameter", "plugins"),
    ({"provider": {"order": ["dear"]}}, "unsupported_parameter", "provider"),
    ({"preset": "mine"}, "unsupported_parameter", "preset"),
    ({"deferred": True}, "unsupported_parameter", "deferred"),
    ({"search_parameters": {"mode": "on"}}, "unsupported_parameter", "search_parameters"),
    ({"cache_control": {"type": "ephemeral"}}, "unsupported_parameter", "cache_control"),
    ({"tools": [{"type": "openrouter:web_search"}]}, "unsupported_parameter", "tools"),
    ({"tools": [{"type": "web_search_20250305"}]}, "unsupported_parameter", "tools"),
    ({"tools": ["web_search"]}, "unsupported_parameter", "tools"),
    ({"logits_processors": ["os.system"]}, "unsupported_parameter", "logits_processors"),
    (
        {"chat_template_kwargs": {"tokenize": True}},
        "unsupported_parameter",
        "chat_template_kwargs.tokenize",
    ),
    (
        {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}},
        "unsupported_parameter",
        "chat_template_kwargs.chat_template",
    ),
]


@pytest.mark.parametrize(("raw", "code"), RAW)
def test_a_body_that_cannot_be_read_is_refused(idle_payer: Payer, raw: bytes, code: str) -> None:
    answer = idle_payer.http.post(
        "/chat/completions", content=raw, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code
    idle_payer.require_free(count=0)


@pytest.mark.parametrize(("options", "code", "param"), FIELDS)
@pytest.mark.parametrize("path", ["/chat/completions", "/quote"])
def test_a_wrong_member_is_named(
    idle_payer: Payer, path: str, options: dict[str, Any], code: str, param: str
) -> None:
    answer = idle_payer.http.post(path, json=body("x") | options)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert error["type"] == "invalid_request_error"
    idle_payer.require_free(count=0)


@pytest.mark.parametrize(
    "options",
    [
        {"store": False},
        {"background": None},
        {"modalities": ["text"]},
        {"service_tier": "auto"},
        {"best_of": 1},
    ],
)
def test_unsupported_members_that_ask_for_nothing_are_taken(
    payer: Payer, options: dict[str, Any]
) -> None:
    assert payer.ask("x", **options).status_code == 200


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "file", "file": {"file_id": "f"}},
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url"},
    ],
)
def test_content_that_is_not_text_is_refused(idle_payer: Payer, part: dict[str, Any]) -> None:
    request = body("x") | {"messages": [{"role": "user", "content": [part]}]}
    answer = idle_payer.http.post("/chat/completions", json=request)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "unsupported_content")
    assert error["param"] == "messages[0].content"
    idle_payer.require_free(count=0)


def test_a_model_that_does_not_see_refuses_images_without_a_charge(payer: Payer) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    text = {"type": "text", "text": "What is this?"}
    request = body("x") | {"messages": [{"role": "user", "content": [text, image]}]}
    answer = payer.http.post("/chat/completions", json=request)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unsupported_content"
    payer.require_free(count=1, code="unsupported_content")
    # A quote does not call affordable what would be refused.
    quote = payer.http.post("/quote", json=request)
    assert (quote.status_code, quote.json()["error"]["code"]) == (400, "unsupported_content")


def test_text_parts_are_taken(payer: Payer) -> None:
    request = body("x")
    request["messages"][0]["content"] = [{"type": "text", "text": "hello"}]
    assert payer.http.post("/chat/completions", json=request).status_code == 200


def test_hints_to_a_cache_are_taken_and_not_sent_on(
    payer: Payer, upstream: Memory, mark: str
) -> None:
    request = body("x")
    part = {"type": "text", "text": mark, "prompt_cache_breakpoint": {"mode": "explicit"}}
    request["messages"][0]["content"] = [part]
    assert payer.http.post("/chat/completions", json=request).status_code == 200
    [sent] = upstream.bodies(mark)
    assert sent["messages"][0]["content"] == [{"type": "text", "text": mark}]


def test_an_unknown_model_is_not_found(idle_payer: Payer) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        idle_payer.client().chat.completions.create(
            model="no-such-model", messages=[{"role": "user", "content": "x"}]
        )
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    idle_payer.require_free(count=0)


def ten_megabytes() -> Iterator[bytes]:
    yield b'{"model": "m", "messages": ['
    for _ in range(10):
        yield b" " * 1024 * 1024
    yield b"]}"


@pytest.mark.parametrize("announced", [True, False])
def test_ten_megabytes_are_too_large(idle_payer: Payer, announced: bool) -> None:
    content: Any = b"".join(ten_megabytes()) if announced else ten_megabytes()
    answer = idle_payer.http.post("/chat/completions", content=content)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"
    idle_payer.require_free(count=0)


def test_a_suspended_account_is_refused(payer: Payer) -> None:
    payer.connection.execute(
        "update public.profiles set is_active = false where id = %s", [payer.id]
    )
    with pytest.raises(openai.PermissionDeniedError) as caught:
        payer.client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "x"}]
        )
    assert caught.value.code == "account_suspended"
    payer.require_free(count=0)


def test_somebody_elses_organization_does_not_pay(idle_payer: Payer) -> None:
    for name in (str(uuid.uuid4()), "acme", "x" * 5000):
        client = idle_payer.client().with_options(organization=name)
        with pytest.raises((openai.PermissionDeniedError, openai.BadRequestError)):
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])
    idle_payer.require_free(count=0)


def test_an_organization_pays_for_its_member(payer: Payer) -> None:
    slug = f"acme-{uuid.uuid4().hex[:8]}"
    with payer.connection.transaction():
        payer.connection.execute(
            "select set_config('request.jwt.claims', %s, true)",
            [json.dumps({"sub": payer.id, "role": "authenticated"})],
        )
        payer.connection.execute("set local role authenticated")
        payer.connection.execute("select public.create_organization(%s, %s)", ["Acme", slug])
    payer.connection.execute(
        "select backend.credit_grant(p_organization_id => o.id, p_amount => 5,"
        " p_source => 'bonus', p_idempotency_key => 'start', p_reason => 'test', p_actor => 'test')"
        " from public.organizations as o where o.slug = %s",
        [slug],
    )
    answer = (
        payer.client()
        .with_options(organization=slug)
        .chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])
    )
    assert answer.usage is not None
    assert 4.9 < answer.usage.credits_remaining < 5  # type: ignore[attr-defined]
    assert payer.balance == 100


def claims(payer: Payer, **changes: Any) -> dict[str, Any]:
    now = int(time.time())
    return {
        "sub": payer.id,
        "role": "authenticated",
        "aud": "authenticated",
        "iat": now,
        "exp": now + 600,
    } | changes


def test_a_token_that_is_not_ours_is_unauthorized(idle_payer: Payer, stack: Stack) -> None:
    secret = stack.keys.jwt_secret
    good = jwt.encode(claims(idle_payer), secret, "HS256")
    bad = {
        "other project": jwt.encode(
            claims(idle_payer), "another-secret-of-32-characters-and", "HS256"
        ),
        "alg none": jwt.encode(claims(idle_payer), None, "none"),
        "expired": jwt.encode(claims(idle_payer, exp=int(time.time()) - 3600), secret, "HS256"),
        "other audience": jwt.encode(claims(idle_payer, aud="anon"), secret, "HS256"),
        "service role": jwt.encode(claims(idle_payer, role="service_role"), secret, "HS256"),
        "cut": good[:-4],
        "no token": "x",
        "secret key": stack.keys.secret_key,
    }
    for name, token in bad.items():
        with pytest.raises(openai.AuthenticationError) as caught:
            openai.OpenAI(base_url=idle_payer.base_url, api_key=token, max_retries=0).models.list()
        assert caught.value.code in ("invalid_token", "expired_token"), name
        answer = httpx.post(
            f"{idle_payer.base_url}/chat/completions",
            json=body("x"),
            headers={"authorization": f"Bearer {token}"},
            trust_env=False,
        )
        assert answer.status_code == 401, name
        assert token not in answer.text
    answer = httpx.post(f"{idle_payer.base_url}/chat/completions", json=body("x"), trust_env=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "missing_credentials")
    idle_payer.require_free(count=0)
