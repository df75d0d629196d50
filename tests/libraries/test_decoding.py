"""Bytes become text by what they say of themselves, or are refused."""

from __future__ import annotations

import codecs

import pytest

from functions.libraries.errors import ParseError
from functions.libraries.parsing import parse
from functions.libraries.parsing.decoding import decode
from tests.libraries.pages import code_of, shown

TEXT = "Grüße aus Zürich \u2013 東京\n"


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        pytest.param(codecs.BOM_UTF8, "utf-8", id="utf-8"),
        pytest.param(codecs.BOM_UTF16_LE, "utf-16-le", id="utf-16-le"),
        pytest.param(codecs.BOM_UTF16_BE, "utf-16-be", id="utf-16-be"),
        pytest.param(codecs.BOM_UTF32_LE, "utf-32-le", id="utf-32-le"),
        pytest.param(codecs.BOM_UTF32_BE, "utf-32-be", id="utf-32-be"),
    ],
)
def test_a_byte_order_mark_decides_whatever_is_declared(mark: bytes, encoding: str) -> None:
    assert decode(mark + TEXT.encode(encoding), "latin-1") == (TEXT, encoding)


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        pytest.param("Shift_JIS", "shift_jis", id="shift-jis"),
        pytest.param("windows-1251", "cp1251", id="windows-1251"),
        pytest.param("ISO-8859-1", "cp1252", id="latin-1-is-windows-1252"),
        pytest.param("EUC-KR", "euc_kr", id="euc-kr"),
    ],
)
def test_a_declared_charset_is_used(declared: str, encoding: str) -> None:
    text = {"shift_jis": "東京です", "cp1251": "Привет", "cp1252": "Zürich", "euc_kr": "안녕"}[
        encoding
    ]
    assert decode(text.encode(encoding), declared) == (text, encoding)


def test_a_page_may_declare_its_charset_itself() -> None:
    page = '<html><head><meta charset="windows-1251"></head><body><p>Привет, мир</p></body></html>'
    document = parse(page.encode("cp1251"), name="index.html")
    assert "Привет, мир" in shown(document)
    assert document.encoding == "cp1251"


def test_what_is_declared_wrongly_is_read_as_utf_8() -> None:
    assert decode("東京".encode(), "ascii") == ("東京", "utf-8")


def test_a_codec_that_is_no_charset_is_not_used() -> None:
    for name in ("unicode_escape", "zip", "rot13", "idna", "utf-7", "../x", "punycode"):
        assert decode(b"+AGEAYg- \\x41", name) == ("+AGEAYg- \\x41", "utf-8"), name


def test_what_windows_writes_is_read() -> None:
    assert decode(b"caf\xe9 \x93quoted\x94") == ("café “quoted”", "cp1252")


def test_utf_16_is_known_without_its_mark() -> None:
    assert decode("plain words\n".encode("utf-16-le")) == ("plain words\n", "utf-16-le")


def test_line_ends_are_made_one() -> None:
    assert decode(b"a\r\nb\rc\n")[0] == "a\nb\nc\n"


def test_a_mark_that_lies_is_refused() -> None:
    assert code_of(codecs.BOM_UTF16_LE + b"\x00\xd8\x00", name="a.md") == "undecodable"


def test_bytes_that_fit_no_charset_are_refused() -> None:
    assert code_of(b"words \x81\x8d\x8f\x90\x9d", name="a.md") == "undecodable"


def test_a_binary_file_is_refused_by_any_name() -> None:
    png = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
    assert code_of(png, name="a.md") == "binary"


def test_an_empty_file_is_refused() -> None:
    assert code_of(b" \n\t ", name="a.md") == "empty"


def test_a_page_over_ten_megabytes_is_refused_before_it_is_decoded() -> None:
    assert code_of(b"\x00" * (10 * 1024 * 1024 + 1), name="a.md") == "too_large"


def test_an_error_says_nothing_of_the_file() -> None:
    with pytest.raises(ParseError) as caught:
        decode(b"secret \x81\x8d\x8f\x90\x9d")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
