"""What a transport is: a way to call one function of schema `backend`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from functions.core.json import Json


@dataclass(frozen=True, slots=True, repr=False)
class Call:
    """One call. Has no repr, because arguments are private."""

    function: str
    parameters: tuple[str, ...]
    """Names of the arguments that are given, in order."""
    arguments: bytes
    """A JSON object whose members are the arguments."""


class Transport(Protocol):
    """Carries calls to the database."""

    async def call(self, call: Call) -> Json:
        """The function's result, numbers with a fraction as Decimal. Raises DatabaseError."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...
