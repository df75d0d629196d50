"""What stands before a page and is about it: YAML between lines of ---, or TOML between +++."""

from __future__ import annotations

import re
import tomllib

from functions.libraries.errors import ParseError
from functions.libraries.parsing import safe_yaml
from functions.libraries.parsing.limits import Limits

_MAX_CHARACTERS = 50_000
_YAML = re.compile(r"\A---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_TOML = re.compile(r"\A\+\+\+[ \t]*\n(.*?)^\+\+\+[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)


def split(text: str, limits: Limits) -> tuple[dict[str, object], str]:
    """Metadata, and the text with as many empty lines in place of it, so that lines keep numbers.

    What does not parse is dropped: it is no text of the page either way.
    """
    found = _YAML.match(text) or _TOML.match(text)
    if found is None or len(found.group(1)) > _MAX_CHARACTERS:
        return {}, text
    lines = text[: found.end()].count("\n")
    rest = "\n" * lines + text[found.end() :]
    try:
        if text.startswith("+++"):
            return dict(tomllib.loads(found.group(1))), rest
        values = safe_yaml.load(found.group(1), limits)
    except (ParseError, tomllib.TOMLDecodeError, RecursionError):
        return {}, rest
    return (
        ({str(name): value for name, value in values.items()}, rest)
        if isinstance(values, dict)
        else ({}, text)
    )
