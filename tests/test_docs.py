"""Docs and code say the same, and nothing names a registry or a machine."""

from __future__ import annotations

import re
import subprocess

import pytest

from local.paths import ROOT

GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
MIGRATIONS = "\n".join(
    path.read_text() for path in sorted((ROOT / "supabase" / "migrations").glob("*.sql"))
)


def tracked_files() -> list[str]:
    """Files git knows, or would know after `git add`."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_every_table_is_in_the_glossary() -> None:
    tables = re.findall(r"^create table (public|private)\.(\w+)", MIGRATIONS, re.MULTILINE)
    assert len(tables) > 20
    missing = [
        name
        for schema, name in tables
        if f"`{name}`" not in GLOSSARY and f"`{schema}.{name}`" not in GLOSSARY
    ]
    assert missing == []


def test_every_status_word_is_in_the_glossary() -> None:
    lists = re.findall(
        r"^\s*(?:check \()?\s*(?:constraint \w+ check \()?\s*(?:\w+_)?status in \(([^)]*)\)",
        MIGRATIONS,
        re.MULTILINE,
    )
    words = {word for text in lists for word in re.findall(r"'(\w+)'", text)}
    assert {"settled", "queued", "started", "needs_fetch", "past_due", "paid"} <= words
    assert [word for word in sorted(words) if f"`{word}`" not in GLOSSARY] == []


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", README + CONTRIBUTING, re.MULTILINE))
    assert {"demo", "test", "check", "dev", "bench"} <= named
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert named - targets == set()


def test_ci_runs_the_commands_of_the_readme() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    assert "make check" in ci
    assert "make test" in ci


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs"])
def test_every_link_between_documents_leads_somewhere(document: str) -> None:
    path = ROOT / document
    files = [path] if path.is_file() else sorted(path.rglob("*.md"))
    broken = [
        f"{file.relative_to(ROOT)} -> {target}"
        for file in files
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", file.read_text())
        if not (file.parent / target).exists()
    ]
    assert broken == []


def test_no_file_names_a_package_registry() -> None:
    # Assembled, so that this file does not name one either.
    hosts = ["pypi" + ".org", "files.python" + "hosted", "registry.npm" + "js", "npm" + "js.com"]
    found = [
        name
        for name in tracked_files()
        if any(host in (ROOT / name).read_text(errors="ignore") for host in hosts)
    ]
    assert found == []


def test_no_file_names_a_path_of_this_machine() -> None:
    found = [
        name for name in tracked_files() if f"{ROOT}/" in (ROOT / name).read_text(errors="ignore")
    ]
    assert found == []
