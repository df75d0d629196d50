"""JSON bodies: hostile ones get a 4xx with a code, and no input comes back."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated, Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from functions.core.errors import InvalidRequestError, QuernelError
from functions.core.request_body import MAX_DEPTH, invalid_fields, parse_json


def nested(depth: int, opening: str, closing: str) -> bytes:
    return (opening * depth + "1" + closing * depth).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not json",
        b"{",
        b'{"a":1,}',
        b'{"a":1} trailing',
        b"[1,2]",
        b'"text"',
        b"null",
        b"12",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":2}}',
        b'\xff{"a":1}',
        b'{"a":"\xc3\x28"}',
        b'{"a":"\xed\xa0\x80"}',
        '{"a":1}'.encode("utf-16"),
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":"\x00"}',
        b'{"a":"line\nbreak"}',
        nested(100_000, '{"a":', "}"),
        b'{"a":' + nested(100_000, "[", "]") + b"}",
        nested(MAX_DEPTH + 1, '{"a":', "}"),
    ],
    ids=lambda raw: raw[:24],
)
def test_malformed_bodies(raw: bytes) -> None:
    with pytest.raises(QuernelError) as caught:
        parse_json(raw)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


@pytest.mark.parametrize(
    "raw",
    [
        rb'{"a":"\u0000"}',
        rb'{"\u0000":1}',
        rb'{"a":[{"b":["x\u0000y"]}]}',
        rb'{"a":"\ud800"}',
        rb'{"a":"\udc00\ud800"}',
    ],
)
def test_text_that_postgres_cannot_store(raw: bytes) -> None:
    with pytest.raises(QuernelError) as caught:
        parse_json(raw)
    assert (caught.value.status, caught.value.code) == (400, "invalid_text")


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (rb'{"a":"\ud83d\ude00"}', {"a": "😀"}),
        (rb'{"a":"\\u0000"}', {"a": "\\u0000"}),
        (b'{"a":"\xf0\x9f\x98\x80"}', {"a": "😀"}),
        (b' {"a": 1.5, "b": [true, null]} ', {"a": 1.5, "b": [True, None]}),
    ],
)
def test_what_only_looks_suspicious_passes(raw: bytes, value: object) -> None:
    assert parse_json(raw) == value


def test_deep_but_not_too_deep_passes() -> None:
    parse_json(nested(MAX_DEPTH, '{"a":', "}"))


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert len(parse_json(json.dumps({"a": [[]] * 1000}).encode())["a"]) == 1000


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Hypothesis leaves surrogates out of text by default.
    | st.text().filter(lambda text: "\x00" not in text),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(min_size=1, max_size=3), inner),
    max_leaves=10,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1), _VALUES))
def test_reads_what_json_writes(value: dict[str, object]) -> None:
    raw = json.dumps(value).encode()
    if b"\\u0000" not in raw:
        assert parse_json(raw) == value


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_a_4xx(raw: bytes) -> None:
    with contextlib.suppress(InvalidRequestError):
        assert isinstance(parse_json(raw), dict)


class _Cat(BaseModel):
    kind: Literal["cat"]


class _Dog(BaseModel):
    kind: Literal["dog"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: UUID | None = None
    size: Annotated[int, Field(ge=1, le=9)] = 1
    pet: Annotated[_Cat | _Dog, Field(discriminator="kind")] | None = None
    pets: list[_Cat] = []


SECRET = "hunter2-hunter2"


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"id": SECRET}, "id"),
        ({"size": SECRET}, "size"),
        ({"size": 10}, "size"),
        ({"pet": {"kind": SECRET}}, "pet"),
        ({"pets": [{"kind": "cat"}, {"kind": SECRET}]}, "pets[1].kind"),
        ({"pets": SECRET}, "pets"),
    ],
)
def test_field_errors_say_where_and_never_what(data: dict[str, object], path: str) -> None:
    with pytest.raises(ValidationError) as invalid:
        _Model.model_validate(data)
    error = invalid_fields(invalid.value.errors(), "/billing/checkout")
    assert (error.status, error.code) == (422, "invalid_request")
    assert error.facts["param"] == path
    assert error.facts["errors"][0]["path"] == path
    assert SECRET not in f"{error.message} {error.facts}"


def test_under_v1_field_errors_are_400() -> None:
    with pytest.raises(ValidationError) as invalid:
        _Model.model_validate({"size": 0})
    assert invalid_fields(invalid.value.errors(), "/v1/chat/completions").status == 400


def test_long_and_unprintable_keys_are_cut() -> None:
    with pytest.raises(ValidationError) as invalid:
        _Model.model_validate({"\x1b[31m" + "k" * 5000: 1})
    error = invalid_fields(invalid.value.errors(), "/x")
    assert len(error.message) < 400
    assert "\x1b" not in error.message


def test_a_thousand_errors_make_a_short_answer() -> None:
    with pytest.raises(ValidationError) as invalid:
        _Model.model_validate({"pets": [{"kind": 1}] * 1000})
    assert len(invalid_fields(invalid.value.errors(), "/x").facts["errors"]) == 20
