"""YAML that somebody else wrote: no objects, no tags, no aliases that unfold without end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from functions.core.json import Json
from functions.libraries.errors import ParseError
from functions.libraries.parsing.limits import Limits

if TYPE_CHECKING:
    from yaml import SafeLoader as _Safe
else:  # written in C where the wheel has it
    _Safe = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Safe):
    """Numbers, booleans and null as JSON has them; a date stays the text that it is."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith(":timestamp")]
    for first, pairs in _Safe.yaml_implicit_resolvers.items()
}


def load(text: str, limits: Limits) -> Json:
    """The one document of `text`. Raises ParseError."""
    try:
        _measure(text, limits)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - derives from the safe loader
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        raise ParseError("broken_file", "The YAML does not parse.") from None


def _measure(text: str, limits: Limits) -> None:
    """Count nodes as if every alias were written out, before anything is built of them."""
    sizes: dict[str, int] = {}
    # Of every collection that is open: its anchor, and how many nodes there were before it.
    open_: list[tuple[str | None, int]] = []
    nodes = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:  # none, or one that is still open: it holds itself
                raise ParseError("yaml_bomb", "An alias of the YAML unfolds without end.")
            nodes += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            nodes += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            nodes += 1
            sizes.pop(event.anchor or "", None)
            open_.append((event.anchor, nodes))
            if len(open_) > limits.depth:
                raise ParseError("too_deep", "The YAML is nested too deeply.")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor:
                sizes[anchor] = nodes - before + 1
        if nodes > limits.nodes:
            raise ParseError("yaml_bomb", "The YAML unfolds to too much.")
