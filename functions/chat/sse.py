"""Server-sent events from bytes: an incremental parser that does not care how reads are cut.

Follows the event stream interpretation of the HTML standard, section 9.2.6. Only `data` matters;
comments, `event`, `id` and `retry` are skipped. Working on bytes keeps split UTF-8 whole.
"""

from __future__ import annotations

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventTooLargeError(ValueError):
    """One event is longer than the parser was told to accept."""


class EventParser:
    """Feed it bytes, get the data of each event that is complete."""

    def __init__(self, limit: int) -> None:
        """`limit` is the largest event, in bytes."""
        self._limit = limit
        self._rest = b""  # a line that has not ended yet
        self._data: list[bytes] = []  # data lines of an event that has not ended yet
        self._size = 0
        self._started = False
        self._after_return = False  # the last line ended in CR, an LF may belong to it

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that these bytes complete, several data lines joined by LF.

        Raises EventTooLargeError.
        """
        if self._after_return and data:
            data = data.removeprefix(b"\n")
            self._after_return = False
        self._rest += data
        if not self._started:
            if _BYTE_ORDER_MARK.startswith(self._rest):
                return []
            self._rest = self._rest.removeprefix(_BYTE_ORDER_MARK)
            self._started = True
        lines: list[bytes] = []
        if b"\n" in data or b"\r" in data:
            lines = self._rest.splitlines(keepends=True)
            self._rest = b"" if lines[-1].endswith((b"\n", b"\r")) else lines.pop()
            self._after_return = not self._rest and lines[-1].endswith(b"\r")
        if len(self._rest) + self._size > self._limit:
            raise EventTooLargeError
        return [event for line in lines if (event := self._line(line.rstrip(b"\r\n"))) is not None]

    def close(self) -> list[bytes]:
        """The event that the end of the stream completes: servers forget the last blank line."""
        events = [self._line(self._rest), self._line(b"")] if self._rest else [self._line(b"")]
        self._rest = b""
        return [event for event in events if event is not None]

    def _line(self, line: bytes) -> bytes | None:
        if not line:
            if not self._data:
                return None
            event = b"\n".join(self._data)
            self._data.clear()
            self._size = 0
            return event
        if line.startswith(b"data"):
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
                self._size += len(value) + 1
                if self._size > self._limit:
                    raise EventTooLargeError
        return None
