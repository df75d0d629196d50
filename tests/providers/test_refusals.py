"""What providers mean by their refusals, from bodies as they are documented or were seen."""

from __future__ import annotations

from typing import Any

import pytest

from functions.providers.refusals import Meaning, message_of, understand

GOOGLE = "type.googleapis.com/google.rpc."


def openai(message: str, code: str | None = None, kind: str = "invalid_request_error") -> Any:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def anthropic(kind: str, message: str) -> Any:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


def google(code: int, status: str, message: str, *details: Any) -> Any:
    error = {"code": code, "message": message, "status": status, "details": list(details)}
    return {"error": error}


def xai(code: str, error: str) -> Any:
    return {"code": code, "error": error}


def openrouter(code: int, message: str, **metadata: Any) -> Any:
    return {"error": {"code": code, "message": message, "metadata": metadata}}


CASES: dict[str, tuple[int, Any, Meaning]] = {
    # OpenAI
    "openai key": (
        401,
        openai("Incorrect API key provided: sk-1.", "invalid_api_key"),
        Meaning.KEY,
    ),
    "openai quota": (
        429,
        openai("You exceeded your current quota.", "insufficient_quota", "insufficient_quota"),
        Meaning.QUOTA,
    ),
    "openai billing": (
        400,
        openai("Billing hard limit has been reached", "billing_hard_limit_reached"),
        Meaning.QUOTA,
    ),
    "openai rate": (
        429,
        openai(
            "Rate limit reached for gpt-6.1-sol on tokens per min (TPM): Limit 30000, Used 29000.",
            "rate_limit_exceeded",
            "tokens",
        ),
        Meaning.RATE,
    ),
    "openai safety": (
        400,
        openai("Your request was rejected by our safety system.", "content_policy_violation"),
        Meaning.SAFETY,
    ),
    "openai flagged": (
        400,
        openai("Invalid prompt: your prompt was flagged as potentially violating.", "x"),
        Meaning.SAFETY,
    ),
    "openai context": (
        400,
        openai("This model's maximum context length is 272000 tokens.", "context_length_exceeded"),
        Meaning.CONTEXT,
    ),
    "openai option": (
        400,
        openai("Unsupported value: 'temperature' does not support 0.2.", "unsupported_value"),
        Meaning.OPTION,
    ),
    "openai model": (
        404,
        openai("The model `x` does not exist or you do not have access to it.", "model_not_found"),
        Meaning.ACCESS,
    ),
    "openai model of the project": (
        403,
        openai("Project `proj_1` does not have access to model `x`", "model_not_found"),
        Meaning.ACCESS,
    ),
    "openai country": (
        403,
        openai(
            "Country, region, or territory not supported",
            "unsupported_country_region_territory",
            "request_forbidden",
        ),
        Meaning.ACCESS,
    ),
    "openai outage": (500, openai("The server had an error.", kind="server_error"), Meaning.OUTAGE),
    "openai overloaded": (503, openai("Overloaded.", kind="server_error"), Meaning.OUTAGE),
    # Anthropic
    "anthropic key": (401, anthropic("authentication_error", "invalid x-api-key"), Meaning.KEY),
    "anthropic permission": (403, anthropic("permission_error", "Not allowed."), Meaning.KEY),
    "anthropic balance": (
        400,
        anthropic("invalid_request_error", "Your credit balance is too low to access the API."),
        Meaning.QUOTA,
    ),
    "anthropic billing": (402, anthropic("billing_error", "Pay."), Meaning.QUOTA),
    "anthropic rate": (429, anthropic("rate_limit_error", "Too many."), Meaning.RATE),
    "anthropic overloaded": (529, anthropic("overloaded_error", "Overloaded"), Meaning.OUTAGE),
    "anthropic outage": (500, anthropic("api_error", "Internal server error"), Meaning.OUTAGE),
    "anthropic slow": (504, anthropic("timeout_error", "Slow"), Meaning.SLOW),
    "anthropic safety": (
        400,
        anthropic("invalid_request_error", "Output blocked by content filtering policy"),
        Meaning.SAFETY,
    ),
    "anthropic context": (
        400,
        anthropic("invalid_request_error", "prompt is too long: 200001 tokens > 200000 maximum"),
        Meaning.CONTEXT,
    ),
    "anthropic size": (413, anthropic("request_too_large", "Too large"), Meaning.CONTEXT),
    "anthropic model": (404, anthropic("not_found_error", "model: claude-0"), Meaning.ACCESS),
    "anthropic option": (
        400,
        anthropic("invalid_request_error", "max_tokens: Input should be greater than 0"),
        Meaning.OPTION,
    ),
    # Google
    "google key": (
        400,
        google(
            400,
            "INVALID_ARGUMENT",
            "API key not valid. Please pass a valid API key.",
            {"@type": f"{GOOGLE}ErrorInfo", "reason": "API_KEY_INVALID"},
        ),
        Meaning.KEY,
    ),
    "google key in a list": (
        400,
        [google(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.")],
        Meaning.KEY,
    ),
    "google key expired": (
        400,
        google(400, "INVALID_ARGUMENT", "API key expired. Please renew the API key."),
        Meaning.KEY,
    ),
    "google permission": (
        403,
        google(403, "PERMISSION_DENIED", "The caller does not have permission"),
        Meaning.KEY,
    ),
    "google place": (
        400,
        google(400, "FAILED_PRECONDITION", "User location is not supported for the API use."),
        Meaning.ACCESS,
    ),
    "google quota": (
        429,
        google(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota, please check."),
        Meaning.QUOTA,
    ),
    "google rate": (
        429,
        google(
            429,
            "RESOURCE_EXHAUSTED",
            "You exceeded your current quota, please check.",
            {"@type": f"{GOOGLE}RetryInfo", "retryDelay": "17.5s"},
        ),
        Meaning.RATE,
    ),
    "google model": (
        404,
        google(404, "NOT_FOUND", "models/x is not found for API version v1beta"),
        Meaning.ACCESS,
    ),
    "google context": (
        400,
        google(400, "INVALID_ARGUMENT", "The input token count (2) exceeds the maximum (1)."),
        Meaning.CONTEXT,
    ),
    "google option": (
        400,
        google(400, "INVALID_ARGUMENT", "Invalid JSON payload received. Unknown name 'x'."),
        Meaning.OPTION,
    ),
    "google outage": (
        503,
        google(503, "UNAVAILABLE", "The model is overloaded."),
        Meaning.OUTAGE,
    ),
    "google deadline": (504, google(504, "DEADLINE_EXCEEDED", "Slow."), Meaning.SLOW),
    # xAI
    "xai key": (
        400,
        xai("Client specified an invalid argument", "Incorrect API key provided: ab***cd."),
        Meaning.KEY,
    ),
    "xai credits": (
        403,
        xai(
            "The caller does not have permission to execute the specified operation",
            "Your newly created team doesn't have any credits yet.",
        ),
        Meaning.QUOTA,
    ),
    "xai spent": (
        429,
        xai(
            "Some resource has been exhausted",
            "Your team has used all available credits or reached its monthly spending limit.",
        ),
        Meaning.QUOTA,
    ),
    "xai rate": (429, xai("Too many requests", "Slow down."), Meaning.RATE),
    "xai safety": (
        403,
        xai("The caller does not have permission", "Content violates usage guidelines."),
        Meaning.SAFETY,
    ),
    "xai model": (
        404,
        xai(
            "Some requested entity was not found",
            "The model x does not exist or your team 7c1 does not have access to it.",
        ),
        Meaning.ACCESS,
    ),
    # Mistral
    "mistral key": (401, {"detail": "Unauthorized"}, Meaning.KEY),
    "mistral pay": (402, {"detail": "Payment required"}, Meaning.QUOTA),
    "mistral rate": (
        429,
        {"object": "error", "message": "Rate limit exceeded", "type": "rate_limited", "code": "1"},
        Meaning.RATE,
    ),
    "mistral option": (
        422,
        {
            "object": "error",
            "message": {"detail": [{"type": "extra_forbidden", "msg": "Extra inputs"}]},
            "type": "invalid_request_error",
        },
        Meaning.OPTION,
    ),
    # OpenRouter
    "openrouter key": (401, openrouter(401, "User not found."), Meaning.KEY),
    "openrouter credits": (
        402,
        openrouter(402, "This request requires more credits, or fewer max_tokens."),
        Meaning.QUOTA,
    ),
    "openrouter moderation": (
        403,
        openrouter(403, "Your chosen model requires moderation", reasons=["violence"]),
        Meaning.SAFETY,
    ),
    "openrouter guardrail": (403, openrouter(403, "Blocked by a guardrail"), Meaning.SAFETY),
    "openrouter model": (404, openrouter(404, "No endpoints found for x/y."), Meaning.ACCESS),
    "openrouter outage": (502, openrouter(502, "Provider returned error"), Meaning.OUTAGE),
    "openrouter slow": (408, openrouter(408, "Request timed out"), Meaning.SLOW),
    # vLLM and others of customers' own
    "vllm model": (
        404,
        {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError"},
        Meaning.ACCESS,
    ),
    "a wrong path": (404, {"detail": "Not Found"}, Meaning.OUTAGE),
    "nothing": (404, None, Meaning.OUTAGE),
    "a page": (500, None, Meaning.OUTAGE),
    "a bare 400": (400, None, Meaning.OPTION),
    "a bare 401": (401, None, Meaning.KEY),
    "a bare 402": (402, None, Meaning.QUOTA),
    "a bare 429": (429, None, Meaning.RATE),
    "a redirect": (302, None, Meaning.OUTAGE),
    "a teapot": (418, {}, Meaning.OUTAGE),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_refusal_means(name: str) -> None:
    status, body, meaning = CASES[name]
    assert understand(status, body, {}).meaning is meaning


def test_every_meaning_is_met() -> None:
    assert {meaning for _, _, meaning in CASES.values()} == set(Meaning)


@pytest.mark.parametrize(
    ("status", "headers", "body", "seconds"),
    [
        (429, {"retry-after": "7"}, None, 7),
        (429, {}, None, None),
        (429, {}, CASES["google rate"][1], 17.5),
        (429, {"retry-after": "3"}, CASES["google rate"][1], 3),
        (429, {"retry-after": "86400"}, None, 3600),
        (429, {"retry-after": "0"}, None, 1),
        (503, {"retry-after": "9"}, None, 9),
        (529, {"retry-after": "9"}, CASES["anthropic overloaded"][1], 9),
        (400, {"retry-after": "9"}, None, None),
        (401, {"retry-after": "9"}, None, None),
    ],
)
def test_how_long_to_wait(
    status: int, headers: dict[str, str], body: Any, seconds: float | None
) -> None:
    assert understand(status, body, headers).retry_after == seconds


def test_a_budget_in_flight_is_a_limit_and_no_lack_of_money() -> None:
    body = openrouter(402, "In-flight budget reached.", limit_source="openrouter_in_flight_budget")
    refusal = understand(402, body, {"retry-after": "4"})
    assert (refusal.meaning, refusal.retry_after) == (Meaning.RATE, 4)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (openai("a"), "a"),
        ([openai("a")], "a"),
        ({"message": "a"}, "a"),
        ({"error": "a"}, "a"),
        ({"detail": "a"}, "a"),
        ({"detail": [{"msg": "a"}, {"msg": "b"}]}, "a b"),
        ({"message": {"detail": [{"msg": "a"}]}}, "a"),
        ({"title": "a", "detail": "b"}, "b"),
        ({}, ""),
        ([], ""),
        (None, ""),
        (7, ""),
        ({"error": {"message": 7}}, ""),
    ],
)
def test_what_was_said(body: Any, message: str) -> None:
    assert message_of(body) == message


def test_a_body_that_never_ends_is_not_followed() -> None:
    deep: Any = {"code": "invalid_api_key"}
    for _ in range(50):
        deep = {"error": deep}
    assert understand(400, deep, {}).meaning is Meaning.OPTION
