"""Server-sent events: however the bytes are cut, the same events come out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.chat.sse import EventParser, EventTooLargeError

LIMIT = 10_000
LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)
NEWLINE = st.sampled_from(["\n", "\r\n", "\r"])


def parse(stream: bytes, cuts: list[int]) -> list[bytes]:
    """Feed the stream in pieces cut at these places."""
    places = sorted({cut % (len(stream) + 1) for cut in cuts})
    parser, events = EventParser(LIMIT), []
    for start, end in zip([0, *places], [*places, len(stream)], strict=True):
        events += parser.feed(stream[start:end])
    return events + parser.close()


@given(
    events=st.lists(st.lists(LINE, min_size=1, max_size=3), max_size=5),
    newline=NEWLINE,
    cuts=st.lists(st.integers(0, 500), max_size=20),
    mark=st.booleans(),
)
def test_events_do_not_depend_on_how_the_stream_is_cut(
    events: list[list[str]], newline: str, cuts: list[int], mark: bool
) -> None:
    text = "\ufeff" if mark else ""
    for lines in events:
        text += f": a comment{newline}event: message{newline}"
        text += "".join(f"data: {line}{newline}" for line in lines) + newline
    assert parse(text.encode(), cuts) == ["\n".join(lines).encode() for lines in events]


@given(stream=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=10))
def test_any_bytes_give_the_same_events_whole_or_cut(stream: bytes, cuts: list[int]) -> None:
    assert parse(stream, cuts) == parse(stream, [])


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data:x\n\n", [b"x"]),
        (b"data:  x\n\n", [b" x"]),
        (b"data\n\n", [b""]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data: a\r\n\r\ndata: b\r\r", [b"a", b"b"]),
        (b": ping\n\n\n\n", []),
        (b"database: x\nid: 7\nretry: 5\n\n", []),
        (b"data: the last blank line is missing\n", [b"the last blank line is missing"]),
        (b"data: and the newline", [b"and the newline"]),
    ],
)
def test_events_are_read_as_the_standard_says(stream: bytes, events: list[bytes]) -> None:
    assert parse(stream, []) == events


@pytest.mark.parametrize("stream", [b"data: " + b"x" * LIMIT, b"data: xxxxxxx\n" * LIMIT])
def test_an_event_over_the_limit_is_refused(stream: bytes) -> None:
    with pytest.raises(EventTooLargeError):
        parse(stream, list(range(0, len(stream), 1000)))
