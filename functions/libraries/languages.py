"""Names of programming languages, and a guess where none is given."""

from __future__ import annotations

import re

from functions.libraries.words import words

_ALIASES = {
    "bash": "bash sh shell zsh shell-script shellscript",
    "console": "console shell-session shellsession sh-session bash-session terminal prompt doscon",
    "c": "c h",
    "cpp": "cpp c++ cxx hpp cc",
    "csharp": "csharp c# cs",
    "css": "css",
    "diff": "diff patch udiff",
    "dockerfile": "dockerfile docker",
    "elixir": "elixir ex exs",
    "go": "go golang",
    "graphql": "graphql gql",
    "html": "html htm xhtml",
    "http": "http https",
    "ini": "ini cfg conf dosini properties",
    "java": "java",
    "javascript": "javascript js node mjs cjs ecmascript",
    "json": "json jsonc json5 jsonl",
    "jsx": "jsx",
    "kotlin": "kotlin kt kts",
    "make": "make makefile mk",
    "markdown": "markdown md",
    "php": "php",
    "powershell": "powershell ps1 pwsh posh",
    "pycon": "pycon python-console doctest ipython ipython3 ipythonconsole",
    "python": "python py python3 py3 python2 default-python",
    "ruby": "ruby rb",
    "rust": "rust rs",
    "sql": "sql psql postgres postgresql plpgsql mysql sqlite",
    "swift": "swift",
    "toml": "toml",
    "tsx": "tsx",
    "typescript": "typescript ts mts cts",
    "xml": "xml",
    "yaml": "yaml yml",
}
_KNOWN = {alias: name for name, aliases in _ALIASES.items() for alias in aliases.split()}
_NONE = words("text txt plain plaintext none default nohighlight raw output guess auto")
_NAME = re.compile(r"[a-z][a-z0-9+#._-]{0,29}\Z")
_CONSOLE = re.compile(
    r"(?:\$|>|PS [A-Z]:\\[^>\n]{0,80}>|[\w.-]{1,40}@[\w.-]{1,40}[:~][^\n$]{0,40}\$) \S"
)


def known(name: str | None) -> str | None:
    """The one name of a language, however it is called; None where that names none."""
    if not name:
        return None
    word = name.strip().lower()
    if word in _KNOWN:
        return _KNOWN[word]
    return word if _NAME.match(word) and word not in _NONE else None


def guessed(code: str) -> str | None:
    """Of sessions and data, which say by their first characters what they are."""
    start = code.lstrip()[:200]
    if start.startswith(">>> "):
        return "pycon"
    if _CONSOLE.match(start):
        return "console"
    if start.startswith(("#!/bin/sh", "#!/bin/bash", "#!/usr/bin/env bash", "#!/usr/bin/env sh")):
        return "bash"
    if start.startswith("#!/usr/bin/env python"):
        return "python"
    return "xml" if start.startswith("<?xml") else None
