"""Files of a source: what is read of them, and what they may be named."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from functions.libraries.words import words

MAX_PATH = 400  # characters
MAX_DEPTH = 24  # folders

_SUFFIXES = words(".md .mdx .markdown .rst .txt .html .htm .adoc .asciidoc .ipynb .json .yaml .yml")
_SPECIFICATION = re.compile(r"(?:openapi|swagger)[\w.-]*\.(?:json|ya?ml)\Z", re.IGNORECASE)
_NO_DOCUMENTATION = words(
    ".git .github .gitlab .hg .svn .tox .venv .idea .vscode __pycache__ node_modules "
    "site-packages dist build target vendor third_party tests test testing fixtures __tests__ "
    "__snapshots__ locale locales i18n"
)
_NO_PAGES = words(
    "license license.md license.txt license.rst licence copying notice authors authors.md "
    "authors.rst contributors.md code_of_conduct.md security.md package.json package-lock.json "
    "tsconfig.json requirements.txt constraints.txt robots.txt cmakelists.txt top_level.txt "
    "sources.txt pkg-info entry_points.txt requires.txt dependency_links.txt mkdocs.yml "
    ".readthedocs.yaml .pre-commit-config.yaml"
)


@dataclass(frozen=True)
class SourceFile:
    """A file that is there whole. `path` is relative, with slashes."""

    path: str
    content: bytes = field(repr=False)
    url: str = ""
    """Where a person reads it, if anywhere."""


@dataclass
class Skipped:
    """What was not read, and why: shown with the version."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, reason: str, count: int = 1) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + count


def safe_path(name: str) -> str | None:
    """A name of an archive as a relative path; None for one that leads elsewhere or is no name."""
    if not name or len(name) > MAX_PATH or "\\" in name or name.startswith("/"):
        return None
    if any(unicodedata.category(character)[0] == "C" for character in name):
        return None
    parts = [part for part in PurePosixPath(name).parts if part != "."]
    if not parts or ".." in parts or len(parts) > MAX_DEPTH or ":" in parts[0]:
        return None
    return "/".join(parts)


def is_documentation(path: str) -> bool:
    """Whether a file of a repository or a package is worth reading, by its path alone."""
    place = PurePosixPath(path.lower())
    if any(folder in _NO_DOCUMENTATION for folder in place.parts[:-1]):
        return False
    if place.name in _NO_PAGES or place.suffix not in _SUFFIXES:
        return False
    if place.suffix in (".json", ".yaml", ".yml"):
        return _SPECIFICATION.search(place.name) is not None
    # A text file is a page among others of its kind, and else a list of something.
    return place.suffix != ".txt" or "doc" in "/".join(place.parts[:-1])
