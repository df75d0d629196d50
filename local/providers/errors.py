"""What each provider answers where it does not do what it is asked: by its own documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

TREATMENTS = ("rejected", "out of quota", "limited", "refused", "bad option", "outage")
"""A bad key, nothing to pay with, too often, against its rules, a wrong option, its own fault."""

Error = tuple[int, Mapping[str, str], Any]
"""Status, headers and JSON."""


def refusal(provider: str, treatment: str, key: str) -> web.Response:
    """The answer to a request whose key is treated so."""
    status, headers, body = _ERRORS[provider](treatment, key)
    return web.json_response(body, status=status, headers=dict(headers))


def _openai(treatment: str, key: str) -> Error:
    def error(kind: str, code: str | None, message: str) -> dict[str, Any]:
        return {"error": {"message": message, "type": kind, "param": None, "code": code}}

    return {
        "rejected": (
            401,
            {},
            error(
                "invalid_request_error", "invalid_api_key", f"Incorrect API key provided: {key}."
            ),
        ),
        "out of quota": (
            429,
            {},
            error("insufficient_quota", "insufficient_quota", "You exceeded your current quota."),
        ),
        "limited": (
            429,
            {"retry-after": "7"},
            error("requests", "rate_limit_exceeded", "Rate limit reached for requests."),
        ),
        "refused": (
            400,
            {},
            error(
                "image_generation_user_error",
                "moderation_blocked",
                "Your request was rejected by the safety system.",
            ),
        ),
        "bad option": (
            400,
            {},
            error("invalid_request_error", "unsupported_value", "Unsupported value: 'x'."),
        ),
        "outage": (503, {}, error("server_error", None, "The server is overloaded.")),
    }[treatment]


def _anthropic(treatment: str, _: str) -> Error:
    def error(kind: str, message: str) -> dict[str, Any]:
        return {"type": "error", "error": {"type": kind, "message": message}}

    return {
        "rejected": (401, {}, error("authentication_error", "invalid x-api-key")),
        "out of quota": (
            400,
            {},
            error(
                "invalid_request_error",
                "Your credit balance is too low to access the Anthropic API.",
            ),
        ),
        "limited": (
            429,
            {"retry-after": "7"},
            error("rate_limit_error", "This request would exceed your rate limit."),
        ),
        "refused": (
            400,
            {},
            error("invalid_request_error", "Output blocked by content filtering policy"),
        ),
        "bad option": (400, {}, error("invalid_request_error", "temperature: must be at most 1")),
        "outage": (529, {}, error("overloaded_error", "Overloaded")),
    }[treatment]


def _google(treatment: str, _: str) -> Error:
    def error(code: int, status: str, message: str, *details: Any) -> dict[str, Any]:
        made = {"code": code, "message": message, "status": status, "details": list(details)}
        return {"error": made}

    info = "type.googleapis.com/google.rpc."
    quota = "You exceeded your current quota, please check your plan and billing details."
    return {
        "rejected": (
            400,
            {},
            error(
                400,
                "INVALID_ARGUMENT",
                "API key not valid. Please pass a valid API key.",
                {"@type": f"{info}ErrorInfo", "reason": "API_KEY_INVALID"},
            ),
        ),
        "out of quota": (
            429,
            {},
            error(429, "RESOURCE_EXHAUSTED", quota, {"@type": f"{info}QuotaFailure"}),
        ),
        "limited": (
            429,
            {},
            error(
                429,
                "RESOURCE_EXHAUSTED",
                quota,
                {"@type": f"{info}RetryInfo", "retryDelay": "7s"},
            ),
        ),
        "refused": (
            400,
            {},
            error(
                400, "INVALID_ARGUMENT", "The prompt violates the content policy: prohibited use."
            ),
        ),
        "bad option": (400, {}, error(400, "INVALID_ARGUMENT", "Invalid value at 'aspect'.")),
        "outage": (503, {}, error(503, "UNAVAILABLE", "The model is overloaded.")),
    }[treatment]


def _xai(treatment: str, key: str) -> Error:
    return {
        "rejected": (
            400,
            {},
            {
                "code": "Client specified an invalid argument",
                "error": f"Incorrect API key provided: {key[:2]}***.",
            },
        ),
        "out of quota": (
            403,
            {},
            {
                "code": "The caller does not have permission to execute the specified operation",
                "error": "Your newly created team doesn't have any credits yet.",
            },
        ),
        "limited": (
            429,
            {"retry-after": "7"},
            {"code": "Too many requests", "error": "Slow down."},
        ),
        "refused": (
            403,
            {},
            {
                "code": "The caller does not have permission to execute the specified operation",
                "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_CSAM",
            },
        ),
        "bad option": (
            400,
            {},
            {
                "code": "Client specified an invalid argument",
                "error": "Argument not supported: size",
            },
        ),
        "outage": (
            503,
            {},
            {"code": "The service is currently unavailable", "error": "Overloaded."},
        ),
    }[treatment]


def _mistral(treatment: str, _: str) -> Error:
    def error(kind: str, code: str, message: str) -> dict[str, Any]:
        return {"object": "error", "message": message, "type": kind, "param": None, "code": code}

    extra = {
        "type": "extra_forbidden",
        "loc": ["body", "x"],
        "msg": "Extra inputs are not permitted",
    }
    return {
        "rejected": (401, {}, {"detail": "Unauthorized"}),
        "out of quota": (402, {}, {"detail": "Payment required"}),
        "limited": (
            429,
            {"retry-after": "7"},
            error("rate_limited", "1300", "Rate limit exceeded"),
        ),
        "refused": (
            400,
            {},
            error("invalid_request_error", "1500", "The input was flagged by moderation."),
        ),
        "bad option": (422, {}, {"object": "error", "message": {"detail": [extra]}}),
        "outage": (503, {}, error("service_unavailable", "3000", "Service unavailable.")),
    }[treatment]


def _openrouter(treatment: str, _: str) -> Error:
    def error(code: int, message: str) -> dict[str, Any]:
        return {"error": {"code": code, "message": message}}

    return {
        "rejected": (401, {}, error(401, "User not found.")),
        "out of quota": (402, {}, error(402, "This request requires more credits.")),
        "limited": (429, {"retry-after": "7"}, error(429, "Rate limit exceeded")),
        "refused": (403, {}, error(403, "Your input was flagged.")),
        "bad option": (400, {}, error(400, "x is not a valid option")),
        "outage": (502, {}, error(502, "Provider returned error")),
    }[treatment]


def _replicate(treatment: str, _: str) -> Error:
    def error(status: int, title: str, detail: str) -> dict[str, Any]:
        return {"title": title, "detail": detail, "status": status}

    return {
        "rejected": (
            401,
            {},
            error(401, "Unauthenticated", "You did not pass a valid authentication token"),
        ),
        "out of quota": (
            402,
            {},
            error(402, "Insufficient credit", "You have insufficient credit to run this model."),
        ),
        "limited": (429, {"retry-after": "7"}, error(429, "Throttled", "Request was throttled.")),
        "refused": (
            422,
            {},
            error(422, "Input rejected", "The input was flagged as sensitive by moderation."),
        ),
        "bad option": (
            422,
            {},
            error(422, "Input validation failed", "- input.aspect_ratio: must be one of"),
        ),
        "outage": (502, {}, error(502, "Bad gateway", "Bad gateway")),
    }[treatment]


def _stability(treatment: str, _: str) -> Error:
    def error(name: str, message: str) -> dict[str, Any]:
        return {"id": "4212a4b66fbe1cedca4bf2133d35dca5", "name": name, "errors": [message]}

    return {
        "rejected": (401, {}, error("unauthorized", "missing or invalid authorization header")),
        "out of quota": (402, {}, error("payment_required", "You lack sufficient credits.")),
        "limited": (429, {"retry-after": "7"}, error("rate_limit_exceeded", "Too many requests.")),
        "refused": (
            403,
            {},
            error(
                "content_moderation",
                "Your request was flagged by our content moderation system.",
            ),
        ),
        "bad option": (400, {}, error("bad_request", "aspect_ratio: must be one of")),
        "outage": (500, {}, error("internal_error", "An unexpected error occurred.")),
    }[treatment]


_ERRORS: Mapping[str, Callable[[str, str], Error]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "google": _google,
    "google-vertex": _google,
    "xai": _xai,
    "mistral": _mistral,
    "openrouter": _openrouter,
    "replicate": _replicate,
    "stability": _stability,
}
