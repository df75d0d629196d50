"""reStructuredText as Sphinx writes it, for docutils, which knows neither its roles nor directives.

Nothing here reads a file, imports a module or leaves raw HTML in. An unknown directive gives what
it holds; an unknown role its text.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive, directives, states

from functions.libraries.parsing.roles import shown
from functions.libraries.words import words

# Those of docutils that are harmless and mean what they say.
_OWN = words(
    "admonition attention caution class compound container csv-table danger epigraph error figure "
    "highlights hint important line-block list-table math note parsed-literal pull-quote replace "
    "rubric sidebar table tip topic unicode warning"
)
_CODE = words(
    "code code-block sourcecode code-cell prompt ipython jupyter-execute doctest testcode "
    "parsed-code highlight-block"
)
_SKIPPED = words(
    "include literalinclude raw image toctree contents meta index sectnum header footer title "
    "default-role role date target-notes module currentmodule py:module py:currentmodule "
    "automodule autoclass autofunction automethod autodata autoattribute autoexception "
    "autodecorator autosummary autoproperty autoprogram argparse graphviz digraph graph "
    "inheritance-diagram plot mermaid testsetup testcleanup bibliography todolist sphinx_gallery "
    "tabularcolumns highlightlang codeauthor sectionauthor nosearch automodsumm automodapi "
    "eval-rst youtube video iframe gallery doxygenclass doxygenfunction doxygenfile"
)
_VERSIONS = {
    "versionadded": "Added in version",
    "versionchanged": "Changed in version",
    "deprecated": "Deprecated since version",
    "version-deprecated": "Deprecated since version",
    "versionremoved": "Removed in version",
}
_OBJECTS = words(
    "function class method classmethod staticmethod attribute property data exception decorator "
    "decoratormethod type typealias var macro struct union enum enumerator member option envvar "
    "confval cmdoption program describe object setting fixture hook directive role rst:directive "
    "rst:role productionlist namespace concept alias"
)
_DOMAINS = re.compile(r"(?:py|c|cpp|js|rst|std|http|rust|rb|php|go):([a-z]+)\Z")
_METHODS = words("get post put patch delete head options")  # of sphinxcontrib-httpdomain

# Extensions for one project name their directives so, and what they hold is shown as it is.
_CODE_NAME = re.compile(r"(?:\A|[:_-])(?:code|example|examples|exec|run|snippet|source|repl)\Z")

OBJECT, CODE, DEFAULT_LANGUAGE = "quernel_object", "quernel_code", "quernel_language"
_lock = threading.Lock()


class _AnyOption(dict[str, Any]):
    """Takes every option as the text that it has."""

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, _: str) -> Any:  # noqa: ANN401 - what docutils calls a conversion
        return lambda text: text

    def __contains__(self, _: object) -> bool:
        return True


class _Lenient(Directive):
    optional_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec: ClassVar[Any] = _AnyOption()

    @property
    def argument(self) -> str:
        return str(self.arguments[0]).strip() if self.arguments else ""

    def inside(self, node: nodes.Element) -> nodes.Element:
        """`node`, with what the directive holds put into it."""
        node.line = self.lineno
        self.state.nested_parse(self.content, self.content_offset, node)
        return node


class _Skipped(_Lenient):
    def run(self) -> list[nodes.Node]:
        return []


class _Highlight(_Lenient):
    """Says which language blocks without one have from here on."""

    def run(self) -> list[nodes.Node]:
        node = nodes.comment()
        node[DEFAULT_LANGUAGE] = self.argument
        return [node]


class _Code(_Lenient):
    def run(self) -> list[nodes.Node]:
        text = "\n".join(self.content)
        language = self.argument if self.name in _CODE else "python"
        if self.name in {"prompt", "ipython", "doctest", "testcode", "jupyter-execute"}:
            language = {"prompt": language.split(" ")[0], "doctest": "pycon"}.get(
                self.name, "python"
            )
        node = nodes.literal_block(text, text)
        node[CODE] = language
        node.line = self.lineno
        return [node]


class _Version(_Lenient):
    def run(self) -> list[nodes.Node]:
        words = self.argument.split(None, 1)
        number = words[0] if words else ""
        lead = f"{_VERSIONS[self.name]} {number}".strip()
        text = f"{lead}: {words[1]}" if len(words) > 1 else f"{lead}."
        inline, _ = self.state.inline_text(text, self.lineno)
        paragraph = nodes.paragraph(text, "", *inline)
        paragraph.line = self.lineno
        return [paragraph, *self.inside(nodes.container()).children]


class _Object(_Lenient):
    """A function, a class, an option: a section of its own, named by its signature."""

    def run(self) -> list[nodes.Node]:
        node = nodes.container()
        lines = self.argument.replace("\\\n", "").split("\n")
        kind = self.name.rpartition(":")[2]
        signature = "; ".join(line.strip() for line in lines if line.strip())
        if kind in _METHODS:
            signature = f"{kind.upper()} {signature}"
        elif kind in {"class", "exception", "decorator", "classmethod", "staticmethod"}:
            signature = f"{kind} {signature}"
        node[OBJECT] = signature
        return [self.inside(node)]


class _Unknown(_Lenient):
    """What it holds, under its argument where that reads as a title."""

    def run(self) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        if self.argument and self.name not in {"only", "ifconfig", "tabs", "tab-set", "grid"}:
            text = self.argument.split("\n")[0]
            found.append(nodes.paragraph(text, text))
        return [*found, *self.inside(nodes.container()).children]


def _directive(name: str, language: Any, document: Any) -> tuple[Any, list[Any]]:  # noqa: ANN401
    """In place of docutils' own: never one that is not known to be harmless."""
    name = name.lower()
    domain = _DOMAINS.match(name)
    kind: Any = _Unknown
    if name in _OWN:
        return _docutils_directive(name, language, document)
    if name in _CODE or _CODE_NAME.search(name):
        kind = _Code
    elif name == "highlight":
        kind = _Highlight
    elif name in _VERSIONS:
        kind = _Version
    elif name in _SKIPPED:
        kind = _Skipped
    elif name in _OBJECTS or (domain and domain.group(1) in _OBJECTS | _METHODS):
        kind = _Object
    return kind, []


_docutils_directive = directives.directive


@contextmanager
def sphinx_directives() -> Iterator[None]:
    """Docutils looks directives up in a module; while this is open, among those above.

    One thread at a time: it is the module's function that is replaced.
    """
    with _lock:
        directives.directive = _directive  # type: ignore[assignment]
        try:
            yield
        finally:
            directives.directive = _docutils_directive


def sphinx_inliner() -> states.Inliner:
    """Reads text with roles, none of which is looked up."""
    inliner = states.Inliner()  # no class of our own: docutils reads the members of this one
    inliner.interpreted = _interpreted  # type: ignore[method-assign]
    return inliner


def _interpreted(
    rawsource: str,
    text: str,
    role: str,
    lineno: int,  # noqa: ARG001 - docutils'
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    text, is_code = shown(role, text.replace("\x00", ""))
    return [(nodes.literal if is_code else nodes.inline)(rawsource, text)], []
