"""Every operation of the OpenAPI document, asked with whatever its schema allows, and some more.

No answer is a fault of the server, none has a shape that the document does not promise, and what
was sent is bounded: some requests for each operation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from functions.app import create_app
from functions.core.settings import Settings
from local.stack import Stack
from tests.conftest import SignUps

EXAMPLES = int(os.environ.get("QUERNEL_FUZZING_EXAMPLES", "6"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def document() -> dict[str, Any]:
    """As the app publishes it, whatever it is configured with."""
    app = create_app(
        Settings(
            environment="test",
            supabase_url="http://127.0.0.1:1",
            supabase_publishable_key="sb_publishable_test",
            supabase_secret_key="sb_secret_test",
        )
    )
    return app.openapi()


schema = schemathesis.openapi.from_dict(document())


@pytest.fixture(scope="module")
def people(stack: Stack) -> Iterator[dict[str, str]]:
    """Headers of somebody who may do something."""
    with SignUps(stack) as sign_ups:
        yield {"Authorization": f"Bearer {sign_ups.new_user().token}"}


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_no_answer_is_a_fault_or_a_surprise(
    case: Case, people: dict[str, str], functions_url: str
) -> None:
    response = case.call(base_url=functions_url, headers=people, timeout=30)
    case.validate_response(response, checks=CHECKS)


IMAGE = {"model_id": "sdxl", "prompt": "a lighthouse"}


@pytest.mark.parametrize("number", [10**30, -(10**30), 2**32, 12345.678, 1e300], ids=str)
@pytest.mark.parametrize(
    "asked",
    [
        *(
            ("/images/generations", IMAGE, name)
            for name in ("width", "steps", "num_outputs", "output_quality", "seed")
        ),
        *(("/images/generations", IMAGE, name) for name in ("guidance_scale", "prompt_strength")),
        ("/v1/images/generations", {"model": "sdxl", "prompt": "a lighthouse"}, "n"),
        ("/agents", {"name": "A", "model": "quernel/chat"}, "max_tokens"),
        ("/agents", {"name": "A", "model": "quernel/chat"}, "temperature"),
    ],
    ids=[
        "width", "steps", "outputs", "quality", "seed", "guidance", "strength", "n", "tokens",
        "temperature",
    ],
)  # fmt: skip
def test_a_number_that_no_column_holds_is_refused(
    people: dict[str, str],
    functions_url: str,
    asked: tuple[str, dict[str, Any], str],
    number: float,
) -> None:
    path, body, name = asked
    answer = httpx.post(
        f"{functions_url}{path}",
        json=body | {name: number},
        headers=people,
        trust_env=False,
        timeout=30,
    )
    assert answer.is_client_error, answer.text
