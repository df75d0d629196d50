"""The hold of one request: opened by chat_start, closed exactly once by chat_finish or chat_fail.

Closing happens in a task of its own. Whatever becomes of the request (the client leaves, the
server stops, a defect raises), the first call of `finish` or `fail` decides, later ones change
nothing, and the task goes on until the database has answered or the attempts are used up. Then the
reaper returns the hold.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus
from time import monotonic
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import anyio

from functions.chat.candidates import Candidate, Served
from functions.chat.counting import Usage
from functions.chat.own_keys import KeyUses
from functions.core import telemetry
from functions.core.database import Database
from functions.core.errors import QuernelError, rate_limit_headers
from functions.core.json import Json
from functions.core.logging import log_event

RETRY_DELAYS = (0.2, 1.0, 5.0, 15.0, 30.0)  # seconds between attempts to close a hold
SETTLE_WAIT_SECONDS = 5.0  # how long an answer waits to learn what it cost
DRAIN_SECONDS = 20.0  # how long a stopping server waits for holds to be closed
START_RETRY_SECONDS = 0.2  # until a start is repeated whose answer was lost, once
EXTEND_AFTER = 0.6  # of a hold's life; then it is extended by one more such life
EXTEND_RETRY_SECONDS = 1.5  # between attempts to extend it, for as long as the request lasts
SHORTEST_LIFE_SECONDS = 5.0
LONGEST_LIFE_SECONDS = 600.0

logger = logging.getLogger(__name__)
T = TypeVar("T")
Begin = Callable[[Database, dict[str, Json]], Coroutine[Any, Any, dict[str, Any]]]
"""What opens a hold: calls the function that holds, and gives its answer."""


class ClientGoneError(Exception):
    """Nobody reads the answer any more."""


class EmptyAnswerError(QuernelError):
    """The model answered without content; such an answer is free.

    A client can force it, by `stop` or `logit_bias`, and the prompt was read all the same.
    """

    def __init__(self) -> None:
        super().__init__(
            "upstream_empty_answer", 502, "The model answered nothing. You were not charged."
        )


class ContentRefusedError(EmptyAnswerError):
    """The provider ended an answer before it had begun, for its content or the prompt's."""

    def __init__(self) -> None:
        QuernelError.__init__(
            self,
            "content_refused",
            400,
            "The provider does not answer this. You were not charged.",
            {"param": "messages"},
        )


class Background:
    """What must end before the process does: open holds, and the tasks that close them."""

    def __init__(self) -> None:
        self._pending: set[object] = set()
        self._less_pending = asyncio.Event()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run on, whatever happens to the caller."""
        task = asyncio.get_running_loop().create_task(work)
        self.begin(task)
        task.add_done_callback(self.end)
        return task

    def begin(self, pending: object) -> None:
        """The process should not end before `end(pending)`."""
        self._pending.add(pending)

    def end(self, pending: object) -> None:
        """Undo `begin`."""
        self._pending.discard(pending)
        self._less_pending.set()

    async def drain(self) -> None:
        """Wait, within a bound, until nothing is left to do.

        A stopping server cancels its requests and comes here before they have noticed.
        """
        with anyio.move_on_after(DRAIN_SECONDS):
            while self._pending:
                self._less_pending.clear()
                await self._less_pending.wait()
        if self._pending:
            log_event(logger, logging.ERROR, "holds left to the reaper", count=len(self._pending))


@dataclass(frozen=True)
class Receipt:
    """What a request cost and what is left, in credits."""

    charged: Decimal
    balance: Decimal


@dataclass(frozen=True)
class Replay:
    """chat_start's answer to a key that it has seen: the stored answer, and what it cost then."""

    answer: dict[str, Any]
    receipt: Receipt | None


class Meter:
    """One hold and how it ends."""

    def __init__(
        self, database: Database, background: Background, started: dict[str, Any], since: float
    ) -> None:
        self._database = database
        self._background = background
        self._since = since
        self._closing: asyncio.Task[dict[str, Any] | None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._hold_id: str = started["hold_id"]
        background.begin(self)
        self._life = _seconds_until(started["deadline"])
        self.candidates = tuple(Candidate.read(row) for row in started["candidates"])
        self.account_id: str = started["account_id"]
        self.key_uses = KeyUses()
        self.headers = rate_limit_headers(started.get("rate_limit"))
        self.first_token_ms: int | None = None

    @classmethod
    async def start(
        cls,
        database: Database,
        background: Background,
        since: float,
        *,
        begin: Begin | None = None,
        **arguments: Json,
    ) -> Self | Replay:
        """Hold the worst case. `since` is monotonic time at the request's arrival.

        `begin` calls the function that holds, where that takes more than one call.
        Raises QuernelError with the database's code. A call whose answer was lost may have held, so
        it is repeated: the same request gets the same hold. Cancelled, it lets the call end and
        then releases the hold.
        """
        starting = background.spawn((begin or cls._begin)(database, arguments))
        try:
            started = await asyncio.shield(starting)
        except asyncio.CancelledError:
            background.spawn(cls._release_when_started(starting, database, background, since))
            raise
        if started["state"] == "replay":
            return Replay(started["answer"], _receipt(started))
        return cls(database, background, started, since)

    def mark_first_token(self) -> None:
        """Remember when the model first said something."""
        if self.first_token_ms is None:
            self.first_token_ms = self._elapsed_ms()

    def finish(
        self,
        usage: Usage,
        outcome: Literal["completed", "cancelled"],
        answer: dict[str, Any] | None,
        served: Served | None = None,
    ) -> None:
        """Charge for the usage, store the answer of the Idempotency-Key.

        `served` says which candidate answered, at whose prices it is charged, and whose key paid;
        None: the first, with the first credential.
        """
        if served is not None and telemetry.is_on():
            _tell(usage, outcome, served)
        self._charge(
            p_prompt_tokens=usage.prompt,
            p_completion_tokens=usage.completion,
            p_cached_tokens=usage.cached,
            p_outcome=outcome,
            p_usage_source=usage.source,
            p_latency_ms=self._elapsed_ms(),
            p_first_token_ms=self.first_token_ms,
            p_answer=answer,
            p_model=served and served.candidate.id,
            p_credential=served and served.credential,
            p_provider_key_id=served and served.provider_key,
            p_key_uses=self.key_uses.closed(outcome),
        )

    def fail(self, error_code: str, *, is_answered: bool = False) -> None:
        """Return the hold; nothing is charged.

        An empty answer (`is_answered`) was work, and stays one of the month's requests.
        """
        self._release(
            p_error_code=error_code,
            p_latency_ms=self._elapsed_ms(),
            p_is_answered=is_answered,
            p_key_uses=self.key_uses.closed("failed", error_code),
        )

    async def closed(self) -> Receipt | None:
        """What the request cost; None while the database cannot tell, though it will be settled."""
        if self._closing is None:
            return None
        done, _ = await asyncio.wait({self._closing}, timeout=SETTLE_WAIT_SECONDS)
        return _receipt(self._closing.result() if done else None)

    async def __aenter__(self) -> Self:
        """Keep the hold alive while the block runs."""
        self._keep_later()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close a hold that the block left open: whatever went wrong, nothing is charged."""
        self._alarm.cancel()
        if self._keeping is not None:
            self._keeping.cancel()
        if isinstance(error, QuernelError):
            self.fail(error.code, is_answered=self._was_work(error))
            # Who tries again at once should not find the first attempt still running.
            await self.closed()
        elif isinstance(error, asyncio.CancelledError | ClientGoneError):
            self.fail("client_closed_request")
        else:
            self.fail("internal_error")

    def _was_work(self, error: QuernelError) -> bool:
        """Whether a request that failed so stays one of the month's."""
        return isinstance(error, EmptyAnswerError)

    # What a kind of request calls: chat here, messages of conversations in a subclass.

    @staticmethod
    async def _begin(database: Database, arguments: dict[str, Json]) -> dict[str, Any]:
        return await repeat_start("chat_start", database, arguments)

    def _charge(self, **arguments: Json) -> None:
        self._close("chat_finish", **arguments)

    def _release(self, **arguments: Json) -> None:
        self._close("chat_fail", **arguments)

    @classmethod
    async def _release_when_started(
        cls, starting: asyncio.Task[Any], database: Database, background: Background, since: float
    ) -> None:
        try:
            started = await starting
        except QuernelError:
            return
        if started["state"] == "started":
            cls(database, background, started, since).fail("client_closed_request")

    def _keep_later(self) -> None:
        """Extend the hold when most of its life is over; few requests take so long."""
        loop = asyncio.get_running_loop()

        def start() -> None:
            self._keeping = loop.create_task(self._keep())

        self._alarm = loop.call_later(self._life * EXTEND_AFTER, start)

    async def _keep(self) -> None:
        while True:
            try:
                await self._database.rpc(
                    "chat_extend", p_hold_id=self._hold_id, p_seconds=round(self._life)
                )
            except QuernelError as error:
                # A settlement after the reaper still charges, so the answer may go on.
                log_event(logger, logging.WARNING, "hold not extended", code=error.code)
                if error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                    return
                await asyncio.sleep(EXTEND_RETRY_SECONDS)
            else:
                self._keep_later()
                return

    def _close(self, function: str, **arguments: Json) -> None:
        if self._closing is None:
            self._closing = self._background.spawn(self._deliver(function, arguments))
            self._background.end(self)

    async def _deliver(self, function: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """Call until the database has answered; the functions are idempotent."""
        for delay in (*RETRY_DELAYS, None):
            try:
                result: dict[str, Any] = await self._database.rpc(
                    function, p_hold_id=self._hold_id, **arguments
                )
            except QuernelError as error:
                if error.status < HTTPStatus.INTERNAL_SERVER_ERROR or delay is None:
                    log_event(
                        logger,
                        logging.ERROR,
                        "hold not closed",
                        rpc=function,
                        hold_id=self._hold_id,
                        code=error.code,
                    )
                    return None
            else:
                return result
            await asyncio.sleep(delay)
        return None

    def _elapsed_ms(self) -> int:
        return round((monotonic() - self._since) * 1000)


async def repeat_start(
    function: str, database: Database, arguments: dict[str, Json]
) -> dict[str, Any]:
    """Call a function that holds; once more where its answer may have been lost."""
    try:
        started: dict[str, Any] = await database.rpc(function, **arguments)
    except QuernelError as error:
        if error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        await asyncio.sleep(START_RETRY_SECONDS)
        started = await database.rpc(function, **arguments)
    return started


def _tell(usage: Usage, outcome: str, served: Served) -> None:
    served.span.end(input_tokens=usage.prompt, output_tokens=usage.completion, outcome=outcome)
    telemetry.count("tokens", usage.prompt, provider=served.provider, direction="input")
    telemetry.count("tokens", usage.completion, provider=served.provider, direction="output")


def _receipt(result: dict[str, Any] | None) -> Receipt | None:
    if result is None or "credits_charged" not in result:
        return None
    return Receipt(result["credits_charged"], result["balance"])


def _seconds_until(deadline: str) -> float:
    """Life of a hold, in seconds; bounded, because two machines' clocks need not agree."""
    seconds = (datetime.fromisoformat(deadline) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, SHORTEST_LIFE_SECONDS), LONGEST_LIFE_SECONDS)
