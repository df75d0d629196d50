"""OpenTelemetry: what becomes of spans and metrics once QUERNEL_TELEMETRY_URL is set.

Imported by telemetry.py alone, and only then. Nothing is made global: libraries that speak
OpenTelemetry by themselves find no provider and stay silent, so all that leaves is told here.

A trace is known by the id of its request, and the first span by the second half of that: whoever
has the id (a task does, days later and elsewhere) can go on with the trace.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Self
from uuid import UUID

import requests
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, TraceState
from opentelemetry.util.types import Attributes
from typing_extensions import override

from functions.core.errors import QuernelError
from functions.core.logging import redact, request_id_var
from functions.core.settings import Settings
from functions.core.telemetry import UNHEARD, Fact, Metric, Operation, Span

EXPORT_SECONDS = 5.0
"""How long one export may take; also how long the end of the process is kept waiting by each."""

METRICS_SECONDS = 30.0
SPANS_SECONDS = 5.0
MAX_QUEUED_SPANS = 4096
"""What is more than this between two exports is lost, and nobody waits."""

FACTS = {
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
    "error": "error.type",
    "function": "db.stored_procedure.name",
    "provider": "gen_ai.provider.name",
    "model": "gen_ai.request.model",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "direction": "gen_ai.token.type",
    "credential": "quernel.credential",
    "attempt": "quernel.attempt",
    "outcome": "quernel.outcome",
    "kind": "quernel.task.kind",
    "task_id": "quernel.task.id",
    "job": "quernel.cron.job",
    "rows": "quernel.rows",
    "state": "quernel.state",
    "where": "quernel.where",
}
"""All that is ever told of anything, and its name at OpenTelemetry (semantic conventions, where
there is one).
"""

_PLAIN = re.compile(r"[A-Za-z0-9_./:{}-]{1,120}")
"""Names of ours, of routes and of models. No prompt is one word, and no address has no @."""

_SERVERS: frozenset[Operation] = frozenset({"request", "task", "cron"})
_METRICS: dict[Metric, tuple[str, str, str]] = {
    "request_seconds": ("http.server.request.duration", "s", "How long requests took."),
    "upstream_seconds": ("quernel.upstream.duration", "s", "Until a provider had begun to answer."),
    "task_seconds": ("quernel.task.duration", "s", "How long attempts at tasks took."),
    "cron_seconds": ("quernel.cron.duration", "s", "How long runs of cron jobs took."),
    "tokens": ("quernel.tokens", "{token}", "Tokens that were read and written."),
    "credits": ("quernel.credits.settled", "{credit}", "Credits that were charged."),
    "tasks": ("quernel.tasks", "{task}", "Tasks by their state, as last looked at."),
    "failures": ("quernel.failures", "{failure}", "What failed, by where and why."),
}

_current: ContextVar[trace.Span | None] = ContextVar("span", default=None)
_first_span_id: ContextVar[int | None] = ContextVar("first_span_id", default=None)


class Exporter:
    """Sends to one OTLP endpoint over HTTP, from threads of its own."""

    def __init__(self, settings: Settings, service: str) -> None:
        url = settings.telemetry_url
        headers = {
            name: value.get_secret_value() for name, value in settings.telemetry_headers.items()
        }
        # Not Resource.create(), which reads variables that Settings does not know.
        resource = Resource(
            {
                "service.name": f"quernel-{service}",
                "deployment.environment.name": settings.environment,
            }
        )
        self._traces = TracerProvider(
            sampler=_Share(settings.telemetry_sample_ratio),
            resource=resource,
            id_generator=_RequestIds(),
            shutdown_on_exit=False,
        )
        self._traces.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(
                    f"{url}/v1/traces",
                    headers=headers,
                    timeout=EXPORT_SECONDS,
                    compression=Compression.Gzip,
                    session=_session(),
                ),
                max_queue_size=MAX_QUEUED_SPANS,
                schedule_delay_millis=SPANS_SECONDS * 1000,
                max_export_batch_size=512,
                export_timeout_millis=EXPORT_SECONDS * 1000,
            )
        )
        reader = PeriodicExportingMetricReader(
            OTLPMetricExporter(
                f"{url}/v1/metrics",
                headers=headers,
                timeout=EXPORT_SECONDS,
                compression=Compression.Gzip,
                session=_session(),
            ),
            export_interval_millis=METRICS_SECONDS * 1000,
            export_timeout_millis=EXPORT_SECONDS * 1000,
        )
        self._metrics = MeterProvider([reader], resource, shutdown_on_exit=False)
        self._tracer = self._traces.get_tracer("quernel")
        meter = self._metrics.get_meter("quernel")
        self._sums = {
            name: meter.create_counter(*_METRICS[name])
            for name in ("tokens", "credits", "failures")
        }
        self._distributions = {
            name: meter.create_histogram(*_METRICS[name])
            for name in _METRICS
            if name.endswith("_seconds")
        }
        self._states = {"tasks": meter.create_gauge(*_METRICS["tasks"])}

    def close(self) -> None:
        """Send what is left."""
        self._traces.shutdown()
        self._metrics.shutdown(timeout_millis=EXPORT_SECONDS * 1000)

    def span(self, operation: Operation, target: str, facts: dict[str, Fact]) -> Span:
        """Begun here; part of the current one, of the trace of its request, or the first."""
        parent, request = _current.get(), _uuid(request_id_var.get())
        if parent is None and request is None and operation not in _SERVERS:
            return UNHEARD  # a worker that looks whether there is work, every second
        context, first = Context(), None
        if parent is not None:
            context = trace.set_span_in_context(parent, context)
        elif request is not None:
            if operation == "task" and facts.get("task_id") != request:
                context = trace.set_span_in_context(
                    trace.NonRecordingSpan(_first_span_of(request)), context
                )
            else:
                first = request.int & _HALF
        token = _first_span_id.set(first)
        try:
            span = self._tracer.start_span(
                _name(operation, target),
                context,
                _kind(operation),
                attributes=plain(facts),
                record_exception=False,
                set_status_on_exception=False,
            )
        finally:
            _first_span_id.reset(token)
        return _Span(operation, span)

    def count(self, metric: Metric, amount: float, facts: dict[str, Fact]) -> None:
        self._sums[metric].add(amount, plain(facts))

    def measure(self, metric: Metric, value: float, facts: dict[str, Fact]) -> None:
        self._distributions[metric].record(value, plain(facts))

    def report(self, metric: Metric, value: float, facts: dict[str, Fact]) -> None:
        self._states[metric].set(value, plain(facts))


class _Span:
    """One span, current while it is entered."""

    def __init__(self, operation: Operation, span: trace.Span) -> None:
        self._operation = operation
        self._span = span
        self._token: Token[trace.Span | None] | None = None
        self._goes_on = False
        self._has_ended = False

    def note(self, **facts: Fact) -> None:
        self._span.set_attributes(plain(facts))

    def rename(self, target: str) -> None:
        self._span.update_name(_name(self._operation, target))

    def go_on(self) -> None:
        self._goes_on = True

    def end(self, **facts: Fact) -> None:
        if not self._has_ended:
            self._has_ended = True
            self.note(**facts)
            self._span.end()

    def __del__(self) -> None:
        self.end()

    def __enter__(self) -> Self:
        self._token = _current.set(self._span)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)
        if error is not None:
            self.note(error=error.code if isinstance(error, QuernelError) else type(error).__name__)
            if isinstance(error, Exception) and getattr(error, "status", 500) >= 500:
                self._span.set_status(Status(StatusCode.ERROR))
        if not self._goes_on:
            self.end()


def plain(facts: dict[str, Fact]) -> dict[str, bool | int | float | str]:
    """What of it is told: names on the list, values that are numbers or plain words."""
    told: dict[str, bool | int | float | str] = {}
    for name, value in facts.items():
        if name not in FACTS:
            continue
        if isinstance(value, bool | int | float):
            told[FACTS[name]] = value
        elif isinstance(value, str | UUID) and _is_plain(str(value)):
            told[FACTS[name]] = str(value)
    return told


def _is_plain(word: str) -> bool:
    return _PLAIN.fullmatch(word) is not None and redact(word) == word


def _name(operation: Operation, target: str) -> str:
    words = [word for word in target.split(" ") if _is_plain(word)]
    return " ".join([operation, *words])


def _kind(operation: Operation) -> SpanKind:
    if operation in _SERVERS:
        return SpanKind.SERVER if operation == "request" else SpanKind.CONSUMER
    return SpanKind.CLIENT


def _uuid(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        return None


_HALF = (1 << 64) - 1


def _first_span_of(request: UUID) -> trace.SpanContext:
    return trace.SpanContext(
        request.int,
        request.int & _HALF,
        is_remote=True,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
    )


class _RequestIds(RandomIdGenerator):
    """Ids of traces and of their first spans are those of requests."""

    def generate_trace_id(self) -> int:
        request = _uuid(request_id_var.get())
        return super().generate_trace_id() if request is None else request.int

    def generate_span_id(self) -> int:
        return _first_span_id.get() or super().generate_span_id()


class _Share(Sampler):
    """Keeps a share of all traces, each of them whole in every process.

    Decided by the last 48 bits of the id, which are random in every UUID; the SDK's own sampler
    takes 64, of which the first of a UUID are not.
    """

    def __init__(self, ratio: float) -> None:
        self._bound = round(ratio * (1 << 48))

    @override
    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        is_kept = (trace_id & ((1 << 48) - 1)) < self._bound
        return SamplingResult(
            Decision.RECORD_AND_SAMPLE if is_kept else Decision.DROP,
            attributes if is_kept else None,
        )

    def get_description(self) -> str:
        return "Share"


def _session() -> requests.Session:
    """Without proxies or credentials of the environment."""
    session = requests.Session()
    session.trust_env = False
    return session
