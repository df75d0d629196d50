"""The README's example runs as it is printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from local.paths import ROOT
from local.stack import Stack


@pytest.mark.usefixtures("functions_url")
def test_the_example_of_the_readme_chats_and_says_what_it_cost(
    stack: Stack, tmp_path: Path
) -> None:
    (example,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    (tmp_path / "hello.py").write_text(example)
    (tmp_path / ".quernel").symlink_to(stack.state)
    told = subprocess.run(
        [sys.executable, "hello.py"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={},
    )
    assert told.returncode == 0, told.stderr
    assert "[simulated]" in told.stdout
    assert re.search(r"\d credits; \d+(\.\d+)? left", told.stdout), told.stdout
