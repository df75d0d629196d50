"""Errors: one code, two shapes, and nothing private in either."""

from __future__ import annotations

import json
from decimal import Decimal
from uuid import UUID

import pytest

from functions.core.errors import (
    InvalidRequestError,
    NotFoundError,
    QuernelError,
    UnauthenticatedError,
    UnavailableError,
    from_status,
    internal_error,
    render,
    speaks_openai,
)

BROKE = QuernelError(
    "insufficient_credits",
    402,
    "There are not enough credits.",
    {"required": Decimal("12.500000"), "available": Decimal(3), "limit_source": "balance"},
)


def test_under_v1_errors_have_openais_shape() -> None:
    response = render(BROKE, "/v1/chat/completions")
    assert response.status_code == 402
    assert response.headers["content-type"] == "application/json"
    assert json.loads(bytes(response.body)) == {
        "error": {
            "message": "There are not enough credits.",
            "type": "insufficient_quota",
            "param": None,
            "code": "insufficient_credits",
            "required": 12.5,
            "available": 3,
            "limit_source": "balance",
        }
    }


def test_elsewhere_errors_are_problem_documents() -> None:
    response = render(BROKE, "/billing/checkout")
    assert response.status_code == 402
    assert response.headers["content-type"] == "application/problem+json"
    assert json.loads(bytes(response.body)) == {
        "type": "urn:quernel:error:insufficient_credits",
        "title": "Insufficient credits",
        "status": 402,
        "detail": "There are not enough credits.",
        "code": "insufficient_credits",
        "required": 12.5,
        "available": 3,
        "limit_source": "balance",
    }


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequestError("invalid_json", "No."), "invalid_request_error"),
        (UnauthenticatedError("invalid_token", "No."), "authentication_error"),
        (QuernelError("not_a_member", 403, "No."), "permission_error"),
        (NotFoundError("model_not_found", "No."), "invalid_request_error"),
        (QuernelError("idempotency_conflict", 409, "No."), "conflict_error"),
        (QuernelError("rate_limited", 429, "No."), "rate_limit_error"),
        (internal_error(), "server_error"),
        (UnavailableError("database_unavailable", "No."), "server_error"),
    ],
)
def test_openai_type_follows_the_status(error: QuernelError, kind: str) -> None:
    assert json.loads(bytes(render(error, "/v1/models").body))["error"]["type"] == kind


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/models"])
def test_these_paths_speak_openai(path: str) -> None:
    assert speaks_openai(path)


@pytest.mark.parametrize("path", ["/", "/v10/models", "/billing/v1/x", "/health"])
def test_these_paths_do_not_speak_openai(path: str) -> None:
    assert not speaks_openai(path)


def test_facts_cannot_replace_what_the_error_is() -> None:
    facts = {"code": "x", "status": 200, "message": "x", "type": "x", "title": "x", "detail": "x"}
    error = QuernelError("account_suspended", 403, "Suspended.", facts)
    assert json.loads(bytes(render(error, "/v1/x").body))["error"]["code"] == "account_suspended"
    problem = json.loads(bytes(render(error, "/x").body))
    assert (problem["status"], problem["detail"]) == (403, "Suspended.")


@pytest.mark.parametrize(("seconds", "header"), [(0.2, "1"), (30, "30"), (Decimal("2.5"), "3")])
def test_retry_after_is_rounded_up_to_whole_seconds(seconds: float | Decimal, header: str) -> None:
    error = QuernelError("rate_limited", 429, "Slow down.", {"retry_after": seconds})
    assert render(error, "/v1/models").headers["retry-after"] == header


def test_param_has_its_own_place() -> None:
    error = NotFoundError("model_not_found", "No such model.", {"param": "model"})
    assert json.loads(bytes(render(error, "/v1/x").body))["error"]["param"] == "model"
    assert json.loads(bytes(render(error, "/x").body))["param"] == "model"


def test_challenge_names_the_error_only_when_there_was_a_credential() -> None:
    missing = render(UnauthenticatedError("missing_credentials", "Send one."), "/v1/models")
    assert missing.headers["www-authenticate"] == 'Bearer realm="quernel"'
    invalid = render(UnauthenticatedError("expired_token", "Expired."), "/v1/models")
    assert 'error="invalid_token"' in invalid.headers["www-authenticate"]


def test_facts_may_hold_ids() -> None:
    error = NotFoundError("hold_not_found", "No such hold.", {"hold_id": UUID(int=7)})
    assert json.loads(bytes(render(error, "/x").body))["hold_id"] == str(UUID(int=7))


@pytest.mark.parametrize(
    ("status", "code"), [(404, "not_found"), (405, "method_not_allowed"), (418, "i_m_a_teapot")]
)
def test_bare_statuses_get_a_code(status: int, code: str) -> None:
    assert from_status(status).code == code
