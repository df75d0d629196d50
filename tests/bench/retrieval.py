"""Retrieval: how well documentation answers, and how fast and how exactly among 100,000 chunks."""

from __future__ import annotations

from pathlib import Path

from local.paths import state_dir
from local.stack import Stack
from tests.bench.retrieval_quality import measure_quality
from tests.bench.retrieval_size import measure_size


def bench_retrieval(state: Path) -> None:
    """Print the tables. The packages that are measured on are downloaded once, and kept."""
    with Stack(state=state / "retrieval", services=False, rebuild=True) as stack:
        pieces, questions = measure_quality(stack, state_dir() / "packages")
        measure_size(stack, pieces, questions)
