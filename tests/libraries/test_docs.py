"""docs/libraries.md says what the code does."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from functions.libraries.chunking import SIZES, Chunk
from functions.libraries.parsing.limits import DEFAULT
from local.paths import ROOT

PAGE = (ROOT / "docs" / "libraries.md").read_text()
SOURCES = sorted((ROOT / "functions" / "libraries").rglob("*.py"))


def strings_of(path: Path, *names: str) -> set[str]:
    """First arguments of the calls of these names."""
    return {
        node.args[0].value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (getattr(node.func, "id", None) in names or getattr(node.func, "attr", None) in names)
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }


def listed(heading: str) -> set[str]:
    """Words in backquotes at the begin of the rows under a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([a-z0-9_]+)` \|", section, re.MULTILINE))


def test_every_code_of_a_refusal_is_listed_and_no_other() -> None:
    raised = set().union(*(strings_of(path, "ParseError", "Failure") for path in SOURCES))
    assert {"too_slow", "encrypted", "yaml_bomb"} <= raised
    assert listed("Refusals") == raised


def test_every_reason_why_a_source_is_not_read_is_listed_and_no_other() -> None:
    raised = set().union(*(strings_of(path, "SourceError") for path in SOURCES))
    assert {"source_gone", "unknown_package"} <= raised
    assert listed("Sources that are not read") == raised


def test_every_warning_is_listed_and_no_other() -> None:
    warned = set().union(*(strings_of(path, "warn") for path in SOURCES))
    assert "table_cut" in warned
    assert listed("What is left out") == warned


def test_every_reason_of_a_flag_is_listed_and_no_other() -> None:
    reasons = set().union(*(strings_of(path, "_rule", "Flag") for path in SOURCES))
    assert "tag_characters" in reasons
    assert listed("Screening") == reasons


def test_every_member_of_a_chunk_is_listed() -> None:
    assert listed("Chunks") == {field.name for field in fields(Chunk)}


def test_the_figures_are_those_of_the_code() -> None:
    for field in fields(SIZES):
        assert re.search(rf"`{field.name}` \| {getattr(SIZES, field.name):,} ", PAGE), field.name
    for field in fields(DEFAULT):
        value = getattr(DEFAULT, field.name)
        shown = f"{value // 1024**2} MiB" if field.name.endswith("_bytes") else f"{value:,}"
        assert re.search(rf"`{field.name}` \| {shown} ", PAGE), field.name


def test_the_core_is_imported_without_the_parsers() -> None:
    libraries = ["docutils", "markdown_it", "selectolax", "pypdf", "yaml"]
    code = (
        "import sys, functions.app, functions.libraries.reading, functions.libraries.parsing\n"
        f"print([name for name in {libraries} if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert out.stdout.decode().strip() == "[]"
