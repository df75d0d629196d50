"""Traces and metrics: where the code tells what it does. Nobody listens until an endpoint is set.

    with telemetry.span("task", kind, task_id=task.id) as span:
        ...
        span.note(outcome="done")
    telemetry.count("tokens", 12, provider="openai", direction="output")

While QUERNEL_TELEMETRY_URL is not set, all of this is a comparison with None, and neither
OpenTelemetry's SDK nor telemetry_export.py, the one module that knows it, is imported. What may be
told of anything is a list there (FACTS); a prompt, an answer or a key never is.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self, TypeAlias

from functions.core.settings import Settings, SettingsError

if TYPE_CHECKING:
    from functions.core.telemetry_export import Exporter

Fact: TypeAlias = object
"""A number, a UUID, or a short plain word; what is neither is not exported."""

Operation = Literal["request", "rpc", "upstream", "task", "cron"]
Metric = Literal[
    "request_seconds", "upstream_seconds", "task_seconds", "cron_seconds", "tokens", "credits",
    "tasks", "failures",
]  # fmt: skip


class Span(Protocol):
    """One piece of work, entered when it begins and left when it ends.

    An exception that leaves it is noted by its code or its type, never by what it says.
    """

    def note(self, **facts: Fact) -> None:
        """Remember what is known of it by now."""
        ...

    def rename(self, target: str) -> None:
        """Say what was worked on, where that is not known before."""
        ...

    def go_on(self) -> None:
        """Let it outlast its block: it ends with `end`, or when nobody has it any more."""
        ...

    def end(self, **facts: Fact) -> None:
        """End it, with what is known at last. Once: a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class _Unheard:
    """The span that nobody hears of."""

    __slots__ = ()

    def note(self, **facts: Fact) -> None:
        pass

    def rename(self, target: str) -> None:
        pass

    def go_on(self) -> None:
        pass

    def end(self, **facts: Fact) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


UNHEARD = _Unheard()
_exporter: Exporter | None = None


def start(settings: Settings, service: str) -> None:
    """Listen from now on, if an endpoint is set. Once per process; a second call changes nothing.

    Raises SettingsError where the packages of the extra `telemetry` are not installed.
    """
    global _exporter  # noqa: PLW0603 - one per process, as the SDK itself has it
    if settings.telemetry_url is None or _exporter is not None:
        return
    try:
        from functions.core.telemetry_export import Exporter  # noqa: PLC0415 - only where it is wanted
    except ImportError as error:
        raise SettingsError(
            "QUERNEL_TELEMETRY_URL is set, and the packages for it are not installed: "
            f"pip install 'quernel[telemetry]' ({error.name} is missing)"
        ) from None
    _exporter = Exporter(settings, service)


def stop() -> None:
    """Send what is left, for a few seconds at most, and listen no more. Blocks."""
    global _exporter
    if _exporter is not None:
        exporter, _exporter = _exporter, None
        exporter.close()


def is_on() -> bool:
    """Whether anybody listens."""
    return _exporter is not None


def span(operation: Operation, target: str = "", /, **facts: Fact) -> Span:
    """A piece of work, part of the one that it is done within."""
    return UNHEARD if _exporter is None else _exporter.span(operation, target, facts)


def count(metric: Metric, amount: float, /, **facts: Fact) -> None:
    """Add to a sum."""
    if _exporter is not None:
        _exporter.count(metric, amount, facts)


def measure(metric: Metric, value: float, /, **facts: Fact) -> None:
    """Add to a distribution."""
    if _exporter is not None:
        _exporter.measure(metric, value, facts)


def report(metric: Metric, value: float, /, **facts: Fact) -> None:
    """Say what something is at now."""
    if _exporter is not None:
        _exporter.report(metric, value, facts)
