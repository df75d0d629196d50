"""Files that were damaged, by accident or on purpose, are read or refused, and nothing else."""

from __future__ import annotations

import json
import random
import re
from dataclasses import asdict

import pytest

from functions.core.json import dumps_storable
from functions.libraries.chunking import chunk
from functions.libraries.errors import ParseError
from functions.libraries.parsing import parse
from functions.libraries.parsing.limits import Limits
from tests.libraries import (
    test_asciidoc,
    test_docx,
    test_html,
    test_markdown,
    test_notebook,
    test_openapi,
    test_pdf,
    test_rst,
)
from tests.libraries.pages import code_of, docx, shown

WHOLE = {
    "a.adoc": test_asciidoc.PAGE.encode(),
    "a.docx": test_docx.BODY.encode(),  # zipped once it is damaged
    "a.html": test_html.SPHINX.encode(),
    "a.ipynb": json.dumps(test_notebook.NOTEBOOK).encode(),
    "a.json": json.dumps(test_openapi.PETS).encode(),
    "a.md": test_markdown.PAGE.encode(),
    "a.mdx": b"import A from 'a'\n\n<Tabs>\n<Tab title='x'>\n" + test_markdown.PAGE.encode(),
    "a.pdf": test_pdf.MANUAL,
    "a.rst": test_rst.PAGE.encode(),
    "a.txt": b"Some text.\n\n    code\n\n- item\n",
}
PIECES = [
    *b"` ``` ~~~ ::: <div> </div> <!-- --> { } |=== ---- ==== *a &a \x00 \xff [ | <li>".split(),
    *b"<pre> <table> `{ }` {/* */} import export ../.. &#0; <a href= /* \\ ]]> %PDF endobj".split(),
    *(
        b'"',
        b"$ref",
        b"\n\n",
        b"    ",
        b"\t",
        b"!!! note\n    ",
        b".. x::\n",
        b"1. ",
        b"* ",
        b"t::\n",
    ),
]


def damaged(whole: bytes, chance: random.Random) -> bytes:
    """Pieces taken out, put in, doubled, and bytes changed."""
    content = bytearray(whole)
    for _ in range(chance.randint(1, 12)):
        at = chance.randrange(len(content) + 1)
        kind = chance.random()
        if kind < 0.3:
            del content[at : at + chance.randint(1, 40)]
        elif kind < 0.8:
            content[at:at] = chance.choice(PIECES) * chance.choice([1, 1, 2, 5])
        elif kind < 0.9:
            other = chance.randrange(len(content) + 1)
            content[at:at] = content[other : other + chance.randint(1, 200)]
        elif content:
            content[at % len(content)] = chance.randrange(256)
    return bytes(content)


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_a_damaged_file_is_read_or_refused(name: str) -> None:
    chance = random.Random(name)  # noqa: S311 - the same files every time
    read = 0
    for _ in range(120):
        try:
            content = damaged(WHOLE[name], chance)
            document = parse(docx(content) if name == "a.docx" else content, name=name)
        except ParseError:
            continue
        read += 1
        for each in chunk(document, source_url="https://x.test/a"):
            assert each.content.strip()
            each.embedded_text.encode()
    assert read > 0 or name == "a.docx"  # XML with one fault is refused as a whole


def test_nothing_passes_that_cannot_be_stored() -> None:
    odd = r"\ud800x\u0000y\u200b"
    api = (
        r'{"openapi": "3.0.0", "info": {"title": "T", "version": "V"}, "paths": {"/X": {"get": '
        r'{"operationId": "X", "summary": "X", "responses": {"200": {"description": "X"}}}}},'
        r' "components": {"schemas": {"X": {"description": "X", "example": "X"}}}}'
    )
    for name, text in (
        ("X.json", api),
        ("X.ipynb", '{"cells": [{"cell_type": "code", "source": "X"}]}'),
    ):
        body = re.sub("[XTV]", lambda _: odd, text) if name == "X.json" else text.replace("X", odd)
        document = parse(body.encode(), name=name.replace("X", "\ud800\x00"))
        assert document.blocks != ()
        dumps_storable([asdict(each) for each in chunk(document)])
        dumps_storable([document.title, dict(document.metadata)])


def test_blocks_over_the_limit_are_left_out() -> None:
    document = parse(b"a\n\n" * 50, name="a.md", limits=Limits(blocks=10))
    assert len(document.blocks) == 10
    assert document.warnings == ("blocks_left_out",)


def test_a_block_over_the_limit_is_cut() -> None:
    document = parse(b"word " * 100, name="a.txt", limits=Limits(block_characters=50))
    assert len(shown(document)) <= 50
    assert document.warnings == ("text_left_out",)


def test_a_table_over_the_limit_is_cut() -> None:
    row = "|" + " a |" * 9
    table = "\n".join([row, "|" + "---|" * 9, *[row] * 20])
    document = parse(table.encode(), name="a.md", limits=Limits(table_rows=5, table_columns=3))
    (block,) = document.blocks
    assert block.text.count("\n") == 5
    assert block.text.split("\n")[0] == "| a | a | a |"
    assert document.warnings == ("table_cut",)


def test_lists_nested_without_end_end() -> None:
    text = "\n".join("  " * depth + "- x" for depth in range(500))
    assert "- x" in shown(parse(text.encode(), name="a.md"))


def test_quotes_nested_without_end_end() -> None:
    assert parse(b"> " * 5_000 + b"deep", name="a.md").kind == "markdown"


def test_a_file_over_fifty_megabytes_is_refused() -> None:
    assert code_of(b"%PDF-" + b"\0" * (50 * 1024 * 1024), name="a.pdf") == "too_large"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("name", "piece"),
    [
        pytest.param("a.md", b"*a ", id="md-emphasis"),
        pytest.param("a.md", b"<a ", id="md-tags"),
        pytest.param("a.md", b"|a", id="md-bars"),
        pytest.param("a.md", b"!!! x\n    ", id="md-admonitions"),
        pytest.param("a.mdx", b"<A b='", id="mdx-attributes"),
        pytest.param("a.mdx", b"{/*", id="mdx-comments"),
        pytest.param("a.mdx", b"import {", id="mdx-imports"),
        pytest.param("a.md", b"# a" + b" " * 30_000 + b"{#\n", id="md-spaces-in-headings"),
        pytest.param("a.md", b"!!!" + b" " * 30_000 + b"x(\n", id="md-spaces-in-admonitions"),
        pytest.param("a.md", b"```" + b" " * 30_000 + b"`\n", id="md-spaces-in-fences"),
        pytest.param("a.md", b"x" + b" " * 30_000 + b"{.\n", id="md-spaces-before-attributes"),
        pytest.param("a.html", b"<style>" + b"a" * 30_000 + b"</style>", id="html-style-sheets"),
        pytest.param("a.html", b"<b><p>", id="html-implied"),
        pytest.param("a.html", b"<a b=' ", id="html-quotes"),
        pytest.param("a.html", b"<!--", id="html-comments"),
        pytest.param("a.html", b"<style>.a{", id="html-styles"),
        pytest.param("a.html", b"&#", id="html-entities"),
        pytest.param("a.adoc", b"{a}[[", id="adoc-attributes"),
        pytest.param("a.adoc", b"link:x[", id="adoc-links"),
        pytest.param("a.adoc", b"* a\n** b\n", id="adoc-lists"),
        pytest.param("a.adoc", b"|===\n|a\n", id="adoc-tables"),
        pytest.param("a.adoc", b"((", id="adoc-index"),
        pytest.param("a.rst", b"*a\n", id="rst-emphasis"),
        pytest.param("a.rst", b":a:`b", id="rst-roles"),
        pytest.param("a.txt", b"a \n", id="text"),
    ],
)
def test_what_repeats_without_end_does_not_take_forever(name: str, piece: bytes) -> None:
    content = piece * (60_000 // len(piece))
    if name.endswith(".rst"):
        content = content[:12_000]  # docutils itself is slow: more is the page reader's to end
    try:
        assert parse(content, name=name).kind
    except ParseError as error:
        assert error.code in {"too_deep", "too_many_attributes"}  # noqa: PT017 - either is right
