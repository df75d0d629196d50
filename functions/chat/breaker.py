"""A circuit breaker per provider and process: who fails is left alone for a while, then tried.

    closed     requests go through; failures are remembered
    open       nobody asks, until `seconds` are over
    half open  one request is let through: its success closes, its failure opens for twice as long

It opens after so many failures in a row, or when half of the recent requests failed. One caller
alone cannot open it for all others with requests that a provider stumbles over: failures count
when the connection failed, which no request brings about, or when they met two callers.

Beside that a provider is busy, after a 429, for as long as it asked for: with the operator's key.
Customers' own keys have limits of their own, and a key of the operator's that is refused says
nothing of the provider either.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import takewhile
from time import monotonic
from types import TracebackType
from typing import Literal, Self

from functions.chat.upstream_errors import UpstreamError
from functions.core.logging import log_event

State = Literal["closed", "open", "half_open"]

WINDOW = 20  # requests that are looked at for the share of failures
WINDOW_SECONDS = 60.0  # and how long each is remembered
SHARE = 0.5  # of them
MOST_SECONDS = 120.0  # open at once, however often probes failed
MOST_BUSY_SECONDS = 60.0  # a provider that asks for more is asked again after this
PROBE_SECONDS = 1.0  # what others are told to wait while a probe is under way
# What says something of the operator's key and its limits, and nothing of whether the provider
# works: customers go on with keys of their own.
_ABOUT_OUR_KEY = frozenset({"upstream_rate_limited", "upstream_not_configured"})

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Outcome:
    at: float
    is_failure: bool
    caller: str | None  # whose request failed; None where no request can have been the cause


class Breaker:
    """What is known of one provider."""

    def __init__(
        self,
        provider: str,
        failures: int,
        seconds: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`failures` in a row open it for `seconds`; 0 never does, and forgets 429 as well."""
        self._provider = provider  # for the log
        self._failures = failures
        self._seconds = seconds
        self._clock = clock
        self._outcomes: deque[_Outcome] = deque(maxlen=max(WINDOW, failures))
        self._open_until: float | None = None
        self._open_seconds = seconds
        self._busy_until = 0.0
        self._is_probing = False
        self._spoiler: str | None = None  # whose request was the last probe that failed

    @property
    def state(self) -> State:
        if self._open_until is None:
            return "closed"
        return "open" if self._clock() < self._open_until else "half_open"

    def admit(self, *, is_own: bool = False) -> Passage:
        """Let a request through; `is_own`: it shows a key of the customer's.

        Raises UpstreamError (503, retry_after) while there is no way.
        """
        now = self._clock()
        if now < self._busy_until and not is_own:
            raise _skipped(
                "upstream_rate_limited",
                "The model server is busy. Try again later.",
                self._busy_until - now,
            )
        if self.state == "open" or self._is_probing:
            left = PROBE_SECONDS if self._open_until is None else self._open_until - now
            raise _skipped(
                "upstream_unavailable",
                "The model server cannot be reached.",
                max(left, PROBE_SECONDS),
            )
        self._is_probing = self.state == "half_open"
        return Passage(self, is_probe=self._is_probing)

    def succeeded(self) -> None:
        """The provider is alive."""
        if self._open_until is not None:
            log_event(logger, logging.INFO, "provider is back", provider=self._provider)
            self._outcomes.clear()
            self._open_until, self._open_seconds = None, self._seconds
            self._spoiler = None
        self._outcomes.append(_Outcome(self._clock(), is_failure=False, caller=None))

    def failed(self, error: UpstreamError, caller: str) -> None:
        """The provider did what it should not, or said that it is busy, which is no failure."""
        if not self._failures:
            return
        now = self._clock()
        if error.busy_seconds is not None:
            self._busy_until = now + min(error.busy_seconds, MOST_BUSY_SECONDS)
            return
        if error.code in _ABOUT_OUR_KEY:
            return
        culprit = None if error.is_connection else caller
        self._outcomes.append(_Outcome(now, is_failure=True, caller=culprit))
        if self._open_until is not None:
            if not self._is_probing:
                return  # begun before it opened
            if culprit is not None and culprit == self._spoiler:
                return  # this caller alone keeps it from nobody: the next may be the probe
            self._spoiler = culprit
            self._open_seconds = min(self._open_seconds * 2, MOST_SECONDS)
        elif not self._is_tripped(now):
            return
        self._open_until = now + self._open_seconds
        log_event(
            logger,
            logging.WARNING,
            "provider left alone",
            provider=self._provider,
            seconds=self._open_seconds,
            code=error.code,
        )

    def end_probe(self) -> None:
        """Whatever became of it, the next request may be one."""
        self._is_probing = False

    def _is_tripped(self, now: float) -> bool:
        recent = [one for one in self._outcomes if now - one.at <= WINDOW_SECONDS]
        in_a_row = list(takewhile(lambda one: one.is_failure, reversed(recent)))
        if len(in_a_row) >= self._failures and _is_everyones(in_a_row):
            return True
        failed = [one for one in recent if one.is_failure]
        return (
            len(recent) >= WINDOW and len(failed) >= SHARE * len(recent) and _is_everyones(failed)
        )


class Passage:
    """One request on its way: tell what became of it; leaving without a word counts as nothing."""

    def __init__(self, breaker: Breaker, *, is_probe: bool) -> None:
        self._breaker = breaker
        self._is_probe = is_probe

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_probe:
            self._breaker.end_probe()


def _is_everyones(failures: Iterable[_Outcome]) -> bool:
    callers = {failure.caller for failure in failures}
    return None in callers or len(callers) > 1


def _skipped(code: str, message: str, seconds: float) -> UpstreamError:
    return UpstreamError(code, 503, message, {"retry_after": seconds}, was_asked=False)
