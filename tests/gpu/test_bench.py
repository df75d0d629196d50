"""The benchmark runs: every architecture, by plain diffusers and by us."""

from __future__ import annotations

import pytest

from tests.gpu.bench import HAS_CARD, SUBJECTS, measure


@pytest.mark.parametrize("name", list(SUBJECTS))
def test_each_architecture_is_measured_alone_and_in_a_batch(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if HAS_CARD:
        return  # of full size there: `make bench-gpu`
    measure(name, rounds=1)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[2] for row in rows] == ["1", "4"]
    assert all(row[0] == name and float(row[5]) > 0 for row in rows)
