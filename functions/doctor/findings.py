"""What an examination finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from functions.core.json import Json

State = Literal["ok", "warning", "wrong", "unseen"]
"""`unseen`: from here it cannot be told. It counts as neither right nor wrong."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. Holds no secret."""

    area: str
    name: str
    """Stable snake_case, one for each thing; docs/runbook.md has them."""

    state: State
    message: str
    mend: str | None = None
    """What to do about it; None where it is right."""

    def as_json(self) -> dict[str, Json]:
        """For --json."""
        return asdict(self)


@dataclass(frozen=True)
class Area:
    """Makes the findings of one area."""

    name: str

    def ok(self, name: str, message: str) -> Finding:
        return Finding(self.name, name, "ok", message)

    def warning(self, name: str, message: str, mend: str) -> Finding:
        return Finding(self.name, name, "warning", message, mend)

    def wrong(self, name: str, message: str, mend: str) -> Finding:
        return Finding(self.name, name, "wrong", message, mend)

    def unseen(self, name: str, message: str, mend: str) -> Finding:
        return Finding(self.name, name, "unseen", message, mend)


def listed(names: list[str], most: int = 5) -> str:
    """The first few of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def count_of(number: int, what: str) -> str:
    """`1 table`, `2 tables`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
