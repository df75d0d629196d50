"""The format of a file follows from its bytes, its name, its media type, or its first lines."""

from __future__ import annotations

import pytest

from functions.libraries.parsing.formats import Format, detect
from tests.libraries.pages import code_of, docx, paragraph, pdf


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("docs/a.md", Format.MARKDOWN),
        ("docs/a.MDX", Format.MARKDOWN),
        ("docs/llms.txt", Format.MARKDOWN),
        ("llms-full.txt", Format.MARKDOWN),
        ("a.rst", Format.RST),
        ("a.html", Format.HTML),
        ("a.adoc", Format.ASCIIDOC),
        ("a.ipynb", Format.NOTEBOOK),
        ("notes.txt", Format.TEXT),
    ],
)
def test_a_name_says_the_format(name: str, expected: Format) -> None:
    assert detect(b"words", name) is expected


def test_bytes_say_more_than_a_name() -> None:
    assert detect(pdf([["Hello"]]), "a.md") is Format.PDF
    assert detect(docx(paragraph("Hello")), "a.md") is Format.DOCX


def test_a_media_type_helps_where_there_is_no_name() -> None:
    assert detect(b"words", "", "text/html; charset=utf-8") is Format.HTML


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"<!DOCTYPE html><html>", Format.HTML, id="html"),
        pytest.param(b"Title\n=====\n\n.. note:: x\n", Format.RST, id="rst"),
        pytest.param(b"# Title\n\ntext", Format.MARKDOWN, id="markdown"),
        pytest.param(b"Just words.", Format.TEXT, id="text"),
        pytest.param(b"openapi: 3.1.0\ninfo: {}\n", Format.OPENAPI, id="openapi"),
    ],
)
def test_a_file_without_a_suffix_is_looked_at(content: bytes, expected: Format) -> None:
    assert detect(content, "README") is expected


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a.json", b'{"info": {"title": "x"}, "openapi": "3.0.3"}', id="openapi-3"),
        pytest.param("a.yaml", b'# comment\nswagger: "2.0"\n', id="swagger-2"),
    ],
)
def test_json_and_yaml_are_openapi_where_they_say_so(name: str, content: bytes) -> None:
    assert detect(content, name) is Format.OPENAPI


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a.json", b'{"a": 1}', id="json"),
        pytest.param("a.zip", b"PK\x03\x04....", id="archive"),
        pytest.param("a.exe", b"MZ....", id="program"),
    ],
)
def test_what_is_no_documentation_is_refused(name: str, content: bytes) -> None:
    assert code_of(content, name=name) == "unsupported_format"


def test_a_name_that_promises_another_format_is_refused() -> None:
    assert code_of(b"words", name="a.pdf") == "broken_file"
    assert code_of(b"words", name="a.docx") == "broken_file"
