"""A second simulator that does not fail on request, and models of it in the catalog."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.types.json import Jsonb

from local.paths import ROOT
from local.processes import LOOPBACK, Child, answers, free_port
from local.stack import Stack
from tests.chat.conftest import Memory


@dataclass
class Second:
    """Another provider: where it is, what it remembers, and two models that it serves."""

    slug: str
    url: str
    memory: Memory
    model: str
    """Twice as dear as the first, with a window of 64 Ki."""
    seeing: str
    """The same with vision."""

    @property
    def providers(self) -> dict[str, Any]:
        """QUERNEL_PROVIDERS."""
        return {self.slug: {"url": self.url, "api_key": "sk-second-0123456789abcdef"}}


@contextmanager
def second_provider(stack: Stack, folder: Path) -> Iterator[Second]:
    """Runs it; afterwards its models are on offer to nobody."""
    slug, port = f"second-{uuid.uuid4().hex[:8]}", free_port()
    child = Child(
        "simulator",
        [sys.executable, "-m", "local.simulator", f"--port={port}", "--steady"],
        log=folder / "second.log",
        cwd=ROOT,
        env=stack.functions_environment(),
    )
    url = f"http://{LOOPBACK}:{port}"
    try:
        child.wait_until(lambda: answers(url), seconds=30)
        with (
            httpx.Client(base_url=url, trust_env=False) as http,
            psycopg.connect(stack.admin_dsn, autocommit=True) as connection,
        ):
            connection.execute(
                "insert into public.model_providers (slug, name) values (%s, 'Second')", [slug]
            )
            second = Second(slug, f"{url}/v1", Memory(http), f"{slug}-text", f"{slug}-seeing")
            for model in (second.model, second.seeing):
                add_model(connection, model, slug, capabilities={"vision": model == second.seeing})
            yield second
            connection.execute(
                "update public.models set is_active = false where id = any (%s)",
                [[second.model, second.seeing]],
            )
    finally:
        child.stop()


def add_model(connection: psycopg.Connection, model: str, provider: str, **changes: Any) -> None:
    """A chat model in the catalog."""
    row = {
        "id": model,
        "provider": provider,
        "name": model,
        "kind": "chat",
        "upstream_model": f"upstream/{model}",
        "context_length": 65536,
        "max_output_tokens": 8192,
        "default_output_tokens": 1024,
        "prompt_price": 120,
        "cached_prompt_price": 60,
        "completion_price": 360,
    }
    connection.execute(
        "select backend.model_upsert(p_model => %s, p_actor => 'tests')", [Jsonb(row | changes)]
    )
