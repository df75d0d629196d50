"""Every operation of the OpenAPI document, asked with whatever its schema allows, and some more.

No answer is a fault of the server, none has a shape that the document does not promise, and what
was sent is bounded: some requests for each operation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

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
