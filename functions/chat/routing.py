"""From a request to who answers it: candidates in order, retries, and when to stop trying.

A candidate is a model that may answer, in the order in which the client named them; a leg is one
with the provider that serves it and the credential that pays. A leg that fails is followed by the
next, as long as nothing has reached the client. What a provider refuses because of the request is
final: another would refuse it too, and asking around would let clients try. Only a prompt that does
not fit may go on, to a larger window.

A connection that was refused, or broke before the first byte, is tried once more at the same
provider. The hold stays one, whatever is tried; failed attempts cost nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from functions.chat.candidates import Candidate, Served
from functions.chat.counting import Tally
from functions.chat.credentials import Credential
from functions.chat.options import unsupported
from functions.chat.own_keys import KeyUses, Outcome, SealedKey
from functions.chat.providers import Provider
from functions.chat.templates import Template
from functions.chat.upstream_errors import (
    AnswerCutOffError,
    OwnKeyError,
    UpstreamError,
    choices_of,
    refuse_error_chunk,
)
from functions.core import telemetry
from functions.core.errors import InvalidRequestError, OperatorError, QuernelError
from functions.core.logging import log_event
from functions.provider_keys.vault import Vault

REPEAT_SECONDS = (0.02, 0.12)  # before the same provider is asked again, drawn at random

logger = logging.getLogger(__name__)
T = TypeVar("T")
Chunks = list[dict[str, Any]]


@dataclass(frozen=True)
class Route:
    """What one request may be answered by, and what that must be able to do."""

    candidates: tuple[Candidate, ...]
    request_id: str
    caller: str  # tells callers apart, and nothing else
    needs_vision: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)  # the request's members
    key_uses: KeyUses = field(default_factory=KeyUses)  # filled on the way

    def able(self) -> list[Candidate]:
        """The candidates that can do it. Raises InvalidRequestError where there is none."""
        return [
            self.candidates[place]
            for place in able(
                [one.capabilities for one in self.candidates], self.needs_vision, self.options
            )
        ]


@dataclass(frozen=True)
class Leg:
    """A candidate, who serves it, and whose key is shown."""

    candidate: Candidate
    provider: Provider
    credential: Credential

    @property
    def place(self) -> tuple[str, str | None]:
        """What cannot be reached where it cannot be."""
        return self.provider.slug, self.credential.base_url


class Router:
    """Asks providers for answers. One per process, since breakers are."""

    def __init__(
        self, providers: Mapping[str, Provider], seconds: float, vault: Vault | None = None
    ) -> None:
        """`seconds` bound all attempts at a request together, until its answer has begun.

        `vault` opens customers' own keys; without one, those who have some are told of a defect.
        """
        self.providers = providers
        self._seconds = seconds
        self._vault = vault

    async def complete(self, route: Route, template: Template) -> tuple[Served, dict[str, Any]]:
        """An answer in one piece, and who gave it. Raises QuernelError.

        An AnswerCutOffError says in `served` whose answer it was.
        """

        async def ask(leg: Leg) -> dict[str, Any]:
            upstream = leg.provider.upstream
            body = await upstream.complete(
                upstream.body(template, leg.candidate.upstream_model, leg.candidate.max_tokens),
                route.request_id,
                leg.credential,
            )
            refuse_error_chunk(body)
            choices_of(body)
            return body

        return await self._serve(route, ask)

    @asynccontextmanager
    async def stream(
        self, route: Route, template: Template
    ) -> AsyncIterator[tuple[Served, AsyncIterator[Chunks]]]:
        """A streamed answer, from its first chunk on, and who gives it. Raises QuernelError.

        Inside, the model has spoken, or ended without a word: nobody else is asked any more.
        Leaving early closes the connection, which tells the model server to stop.
        """

        async def ask(leg: Leg) -> tuple[AsyncExitStack, list[Chunks], AsyncIterator[Chunks]]:
            upstream = leg.provider.upstream
            body = upstream.body(template, leg.candidate.upstream_model, leg.candidate.max_tokens)
            async with AsyncExitStack() as stack:
                batches = await stack.enter_async_context(
                    upstream.stream(body, route.request_id, leg.credential)
                )
                opening = await _opening(batches)
                return stack.pop_all(), opening, batches

        served, (opened, opening, batches) = await self._serve(route, ask)
        try:
            async with opened, aclosing(_joined(opening, batches)) as chunks:
                yield served, chunks
        except UpstreamError as error:
            self.providers[served.provider].breaker.failed(error, route.caller)
            _log_failure(served.provider, served.candidate, error, served.attempts)
            raise

    async def ask(self, route: Route, call: Callable[[Leg], Awaitable[T]]) -> tuple[Served, T]:
        """Anything else that is asked of a provider: `call` makes one exchange of it."""
        return await self._serve(route, call)

    async def _serve(self, route: Route, call: Callable[[Leg], Awaitable[T]]) -> tuple[Served, T]:
        journey = _Journey()
        try:
            async with (
                asyncio.timeout(self._seconds),
                aclosing(self._legs(route, journey)) as legs,
            ):
                async for leg in legs:
                    try:
                        result = await self._try(leg, route.caller, call, journey)
                    except QuernelError as error:
                        route.key_uses.end(outcome_of(error), error.code)
                        journey.take(leg, error)
                        continue
                    return journey.served(leg), result
        except TimeoutError as error:
            raise UpstreamError(
                "upstream_timeout", 504, "The model server did not answer in time."
            ) from error
        raise journey.error

    async def _legs(self, route: Route, journey: _Journey) -> AsyncGenerator[Leg, None]:
        for candidate in route.able():
            provider = self.providers.get(candidate.provider)
            if provider is None:
                journey.note(not_configured())
                continue
            for kind in candidate.credentials:
                if kind == "platform":
                    if provider.platform is None:
                        journey.note(not_configured())
                        continue
                    leg = Leg(candidate, provider, provider.platform)
                    if journey.is_worth_trying(leg):
                        yield leg
                    continue
                for key in candidate.own_keys:
                    own = await self._own_leg(candidate, provider, key, journey)
                    if own is not None and journey.is_worth_trying(own):
                        route.key_uses.begin(key, candidate.id)
                        yield own

    async def _own_leg(
        self, candidate: Candidate, provider: Provider, key: SealedKey, journey: _Journey
    ) -> Leg | None:
        """A leg with a key of the customer's own; None where it does not open: others may."""
        try:
            return Leg(candidate, provider, await key.open(self._vault))
        except OperatorError as error:
            log_event(
                logger,
                logging.ERROR,
                "provider key not opened",
                provider_key_id=key.id,
                code=error.operator_code,
                said=error.operator_message,
            )
            journey.note(error)
        except QuernelError as error:  # the service that has the master key does not answer
            journey.note(error)
        return None

    async def _try(
        self, leg: Leg, caller: str, call: Callable[[Leg], Awaitable[T]], journey: _Journey
    ) -> T:
        """One leg: an exchange, and another where the connection failed in a way that passes."""
        try:
            return await self._exchange(leg, caller, call, journey)
        except UpstreamError as error:
            if not error.may_repeat:
                raise
            _log_failure(leg.provider.slug, leg.candidate, error, journey.attempts)
        await asyncio.sleep(random.uniform(*REPEAT_SECONDS))  # noqa: S311 - spreads load, hides nothing
        return await self._exchange(leg, caller, call, journey)

    async def _exchange(
        self, leg: Leg, caller: str, call: Callable[[Leg], Awaitable[T]], journey: _Journey
    ) -> T:
        breaker, slug = leg.provider.breaker, leg.provider.slug
        began = time.monotonic()
        with (
            breaker.admit(is_own=leg.credential.is_own),
            telemetry.span(
                "upstream",
                slug,
                provider=slug,
                model=leg.candidate.id,
                credential="own" if leg.credential.is_own else "platform",
                attempt=journey.attempts + 1,
            ) as span,
        ):
            journey.attempts += 1
            journey.span = span
            try:
                result = await call(leg)
            except UpstreamError as error:
                breaker.failed(error, caller)
                telemetry.count("failures", 1, where="upstream", provider=slug, error=error.code)
                raise
            except AnswerCutOffError as error:
                span.go_on()
                error.served = journey.served(leg)
                raise
            except QuernelError:
                breaker.succeeded()  # it refused the request, so it is alive
                raise
            breaker.succeeded()
            telemetry.measure("upstream_seconds", time.monotonic() - began, provider=slug)
            span.go_on()  # until the meter knows the tokens
            return result


class _Journey:
    """What has been tried for one request, and the error that its client is told."""

    def __init__(self) -> None:
        self.attempts = 0
        self.span: telemetry.Span = telemetry.UNHEARD  # of the latest attempt
        self.error: QuernelError = not_configured()
        self._was_noted = False
        self._window = 0  # tokens; prompts did not fit models with as many
        self._unreachable: set[tuple[str, str | None]] = set()

    def is_worth_trying(self, leg: Leg) -> bool:
        return leg.candidate.context_length > self._window and leg.place not in self._unreachable

    def take(self, leg: Leg, error: QuernelError) -> None:
        """A leg failed. Raises the error where no other leg may be tried."""
        _log_failure(leg.provider.slug, leg.candidate, error, self.attempts)
        if error.code == "context_length_exceeded":
            self._window = max(self._window, leg.candidate.context_length)
        elif isinstance(error, OwnKeyError):
            pass  # another key, or credits where they were asked for, may well do better
        elif not isinstance(error, UpstreamError):
            raise error
        elif error.is_connection:
            self._unreachable.add(leg.place)
        self.note(error)

    def note(self, error: QuernelError) -> None:
        """Keep what the client should hear: what was answered last, else what is over first."""
        if not self._was_noted or _was_asked(error):
            self.error = error
        elif not _was_asked(self.error):
            self.error = min(self.error, error, key=lambda one: one.retry_after or 0)
        self._was_noted = True

    def served(self, leg: Leg) -> Served:
        return Served(
            leg.candidate,
            leg.provider.slug,
            leg.credential.kind,
            self.attempts,
            leg.credential.key_id,
            self.span,
        )


def outcome_of(error: QuernelError) -> Outcome:
    """What a use of an own key came to that failed with this."""
    return error.outcome if isinstance(error, OwnKeyError) else "failed"


def able(
    models: Sequence[Mapping[str, Any]], needs_vision: bool, options: Mapping[str, Any]
) -> list[int]:
    """Which of the models, by their capabilities, take what a request has.

    Raises InvalidRequestError, what the first of them cannot do, where none does.
    """
    refusals = [refusal(one, needs_vision, options) for one in models]
    places = [place for place, error in enumerate(refusals) if error is None]
    first = refusals[0] if refusals else None
    if not places and first is not None:
        raise first
    return places


def refusal(
    capabilities: Mapping[str, Any], needs_vision: bool, options: Mapping[str, Any]
) -> InvalidRequestError | None:
    """Why a model does not take a request; None: it does."""
    if needs_vision and not capabilities.get("vision"):
        return InvalidRequestError(
            "unsupported_content", "This model does not read images.", {"param": "messages"}
        )
    return unsupported(options, capabilities)


def not_configured() -> UpstreamError:
    """The error where nobody is known who serves a model."""
    return UpstreamError(
        "upstream_not_configured",
        503,
        "No model server is configured.",
        {"retry_after": 60},
        was_asked=False,
    )


async def _opening(batches: AsyncIterator[Chunks]) -> list[Chunks]:
    """The chunks up to the first with content: until then somebody else could still answer."""
    held, tally = [], Tally()
    async for chunks in batches:
        held.append(chunks)
        for chunk in chunks:
            refuse_error_chunk(chunk)
            for choice in choices_of(chunk):
                if isinstance(delta := choice.get("delta"), dict):
                    tally.add(delta)
        if tally.produced:
            break
    return held


async def _joined(
    opening: list[Chunks], rest: AsyncIterator[Chunks]
) -> AsyncGenerator[Chunks, None]:
    for chunks in opening:
        yield chunks
    async for chunks in rest:
        yield chunks


def _was_asked(error: QuernelError) -> bool:
    return not isinstance(error, UpstreamError) or error.was_asked


def _log_failure(provider: str, candidate: Candidate, error: QuernelError, attempts: int) -> None:
    log_event(
        logger,
        logging.WARNING,
        "attempt failed",
        provider=provider,
        model=candidate.id,
        code=error.code,
        attempts=attempts,
        skipped=not _was_asked(error),
    )
