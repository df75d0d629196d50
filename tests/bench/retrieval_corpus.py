"""What retrieval is measured on: documentation of known Python packages, and questions to it.

The packages' source distributions come from the package registry that pip is configured for, at
pinned versions. Their pages are read as a crawl reads them. Questions are made from what people
wrote, never from what is searched with:

- a heading asks for the chunks under it;
- the first sentence of a docstring, without the names it documents, asks for the chunks of the
  pages that name that function or class. Pages of these packages do not hold docstrings.

What is tuned is tuned on TUNING, and never looks at MEASURED.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from functions.libraries.chunking import Chunk
from functions.libraries.errors import ParseError
from functions.libraries.reading import PageReader
from functions.libraries.sources.archives import files_of_archive
from functions.libraries.sources.files import Skipped, is_documentation

TUNING = ("aiohttp==3.14.5", "click==8.5.1", "jinja2==3.1.6")
MEASURED = ("attrs==26.1.0", "flask==3.1.3", "pytest==9.2.0", "werkzeug==3.1.9")

MOST_QUESTIONS = 300
"""Of a kind and a package, spread evenly over what there is."""

MOST_RELEVANT = 4
"""Chunks that answer; what more have in common is no question."""

_CHANGES = re.compile(r"(?i)chang|history|release|announce|news|licen|contribut|backwards")
_WORD = re.compile(r"[A-Za-z]{2,}")
_NAME = re.compile(r"[A-Za-z]\w*_\w+|[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]*)+")
_ROLE = re.compile(r":[\w:+-]+:`~?([^`<]*)(?:<[^`]*>)?`")


@dataclass(frozen=True)
class Piece:
    """A chunk of the corpus."""

    package: str
    path: str
    chunk: Chunk

    @property
    def key(self) -> tuple[str, int]:
        return f"{self.package}/{self.path}", self.chunk.index


@dataclass(frozen=True)
class Question:
    """A question, and the keys of the pieces that answer it."""

    kind: str
    text: str
    relevant: frozenset[tuple[str, int]]


def pieces_of(packages: tuple[str, ...], folder: Path) -> list[Piece]:
    """Every chunk of the documentation of these packages."""
    found = []
    with PageReader() as reader:
        for package in packages:
            name = package.partition("==")[0]
            content = archive(package, folder).read_bytes()
            for file in files_of_archive(content, is_documentation, Skipped()):
                if _CHANGES.search(file.path):
                    continue
                try:
                    page = reader.read(file.content, name=file.path)
                except ParseError:
                    continue
                # One text on one page is one chunk.
                texts = {
                    (chunk.title, chunk.headings, chunk.content): chunk
                    for chunk in page.chunks[::-1]
                }
                found += [Piece(name, file.path, chunk) for chunk in [*texts.values()][::-1]]
    return found


def questions_of(packages: tuple[str, ...], folder: Path, pieces: list[Piece]) -> list[Question]:
    """Of headings and of docstrings, each text once."""
    found: dict[str, Question] = {}
    for package in packages:
        name = package.partition("==")[0]
        own = [piece for piece in pieces if piece.package == name]
        for questions in (
            list(_of_headings(own)),
            list(_of_docstrings(archive(package, folder), own)),
        ):
            step = max(1, -(-len(questions) // MOST_QUESTIONS))
            for question in questions[::step]:
                found.setdefault(question.text, question)
    return list(found.values())


def archive(package: str, folder: Path) -> Path:
    """The source distribution of a package, downloaded once."""
    name, _, version = package.partition("==")
    path = folder / f"{name}-{version}.tar.gz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run(
            [*command, "--no-binary=:all:", f"--dest={folder}", package], check=True, timeout=300
        )
    return path


def _of_headings(pieces: list[Piece]) -> Iterator[Question]:
    places: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for piece in pieces:
        lines = re.findall(r"^#{1,6} (.+)$", piece.chunk.content, re.MULTILINE)
        for heading in {*piece.chunk.headings[-1:], *lines}:
            places[heading.strip()].add(piece.key)
    for heading, keys in places.items():
        is_name = _NAME.search(heading) or re.search(r"[(){}=<>`/]|\.\w", heading)
        if len(_WORD.findall(heading)) >= 2 and not is_name and len(keys) <= MOST_RELEVANT:
            yield Question("heading", heading, frozenset(keys))


def _of_docstrings(path: Path, pieces: list[Piece]) -> Iterator[Question]:
    named: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for piece in pieces:
        for name in set(_NAME.findall("\n".join([*piece.chunk.headings, piece.chunk.content]))):
            named[name].add(piece.key)
    for name, sentence in _sentences(path):
        keys = named.get(name, set())
        if 1 <= len(keys) <= MOST_RELEVANT:
            text = re.sub(rf"\b{re.escape(name)}\b", "", sentence).strip()
            if len(_WORD.findall(text)) >= 5:
                yield Question("docstring", text, frozenset(keys))


def _sentences(path: Path) -> Iterator[tuple[str, str]]:
    """Names of public functions and classes with the first sentence of their docstring."""
    seen = set()
    with tarfile.open(path) as opened:
        for member in opened:
            if not member.name.endswith(".py") or re.search(
                r"/(tests?|testing|examples)/", member.name
            ):
                continue
            file = opened.extractfile(member)
            if file is None:
                continue
            try:
                tree = ast.parse(file.read())
            except (SyntaxError, ValueError):
                continue
            for node in ast.walk(tree):
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    continue
                told = ast.get_docstring(node)
                if not told or node.name in seen or not _NAME.fullmatch(node.name):
                    continue
                seen.add(node.name)
                first = _ROLE.sub(r"\1", " ".join(told.split("\n\n")[0].split()))
                yield node.name, re.split(r"(?<=[.!?])\s", first)[0].replace("``", "").strip()
