"""No secret of the running stack is in a log, in an answer, or in the repository."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local.stack import Stack
from tests.security.conftest import Cast, secret_values

ROOT = Path(__file__).parents[2]
# What the project makes for itself, and what is not the project's.
IGNORED = {
    ".git",
    ".hypothesis",
    ".mypy_cache",
    ".pytest_cache",
    ".quernel",
    ".ruff_cache",
    ".temp",
    ".venv",
    ".venv-gpu",
    "__pycache__",
    "build",
    "dist",
    "node_modules",
}
TESTS_OWN = {"a user's password"}  # an example, which the tests themselves must contain

# Shapes of what is somebody's secret, and not an example of one.
SHAPES = {
    "a live Stripe key": re.compile(rb"\b[sr]k_live_[A-Za-z0-9]{10,}"),
    "a signing secret": re.compile(rb"\bwhsec_(?!0{8})[A-Za-z0-9]{24,}"),
    "a Supabase secret key": re.compile(rb"\bsb_secret_(?!0123)[A-Za-z0-9_-]{22,}"),
    "a service token": re.compile(rb"\beyJ[A-Za-z0-9_-]{20,}\.eyJ[A-Za-z0-9_-]{40,}\.[\w-]{20,}"),
    "a private key": re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[A-Za-z0-9+/]{40}"),
    "an AWS key": re.compile(rb"\bAKIA[0-9A-Z]{16}\b"),
}


def files_of_the_project() -> Iterator[Path]:
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in IGNORED and "egg-info" not in name]
        yield from (Path(folder, name) for name in files if name != ".env")


def logs(stack: Stack) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in stack.logs.glob("*.log")}


def test_the_repository_holds_no_secret_of_the_running_stack(stack: Stack) -> None:
    secrets = {
        name: value.encode()
        for name, value in secret_values(stack.keys).items()
        if name not in TESTS_OWN
    }
    for path in files_of_the_project():
        content = path.read_bytes()
        for name, value in secrets.items():
            assert value not in content, f"{path.relative_to(ROOT)} contains {name}"


def test_the_repository_holds_nothing_in_the_shape_of_a_secret() -> None:
    for path in files_of_the_project():
        content = path.read_bytes()
        for name, shape in SHAPES.items():
            assert not shape.search(content), f"{path.relative_to(ROOT)} contains {name}"


def test_no_log_of_the_run_contains_a_secret(cast: Cast, stack: Stack, functions_url: str) -> None:
    secrets = secret_values(stack.keys) | {
        "an access token": cast.owner.token,
        "a refresh token": cast.owner.refresh_token,
        "an invitation's token": cast.invitation_token,
        "an address": cast.owner.email,
    }
    mark = f"mark-{time.time_ns()}"
    # Everywhere a careless program writes what it was sent.
    for secret in secrets.values():
        for credential in (secret, f"Bearer {secret}"):
            for url in (functions_url, f"{stack.supabase_url}/rest/v1"):
                cast.http.get(
                    f"{url}/v1/models",
                    params={"apikey": secret},
                    headers={
                        "Authorization": credential,
                        "apikey": secret,
                        "Stripe-Signature": secret,
                        "X-Request-Id": mark,
                        "Idempotency-Key": secret,
                    },
                )
        cast.http.post(
            f"{functions_url}/v1/chat/completions",
            content=f'{{"model": "{secret}", "messages": [',
            headers=cast.owner.headers,
        )
        cast.http.post(
            f"{functions_url}/v1/quote",
            json={"model": secret, "messages": [{"role": secret, "content": secret}]},
            headers=cast.owner.headers,
        )
        cast.rpc("owner", "accept_invitation", p_token=secret)
        cast.rpc("owner", "create_organization", p_name=secret, p_slug=secret)
        cast.rest("owner", "PATCH", "profiles", json={"theme": secret})
    _wait_for(stack, mark)
    for name, content in logs(stack).items():
        for kind, secret in secrets.items():
            assert secret.encode() not in content, f"{name} contains {kind}"


def test_an_answer_with_a_secret_would_have_been_noticed(stack: Stack) -> None:
    # The watch of conftest.py, on an answer that tells one.
    telling = httpx.MockTransport(lambda _: httpx.Response(200, text=stack.keys.jwt_secret))
    with httpx.Client(transport=telling) as client, pytest.raises(AssertionError, match="told jwt"):
        client.get("http://gateway.invalid/rest/v1/profiles")


def _wait_for(stack: Stack, mark: str) -> None:
    """Until the functions app has written down the last requests."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if any(mark.encode() in content for content in logs(stack).values()):
            return
        time.sleep(0.05)
    pytest.fail("the request was not logged")
