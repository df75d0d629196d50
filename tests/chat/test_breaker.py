"""When a provider is left alone, and when it is asked again."""

from __future__ import annotations

import pytest

from functions.chat import breaker as module
from functions.chat.breaker import Breaker
from functions.chat.upstream_errors import UpstreamError, broken


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker("p", failures=3, seconds=10, clock=clock)


RESET = broken("reset", is_connection=True)


def fail(breaker: Breaker, *callers: str, error: UpstreamError | None = None) -> None:
    for caller in callers:
        with breaker.admit():
            breaker.failed(error or broken("500"), caller)


def succeed(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        with breaker.admit():
            breaker.succeeded()


def refused(breaker: Breaker) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        breaker.admit()
    assert not caught.value.was_asked
    return caught.value


def test_failures_in_a_row_open_it_and_say_for_how_long(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, "a", "b", "a")
    clock.now += 3
    error = refused(breaker)
    assert (error.status, error.code, error.retry_after) == (503, "upstream_unavailable", 7)
    assert breaker.state == "open"


def test_a_success_in_between_starts_anew(breaker: Breaker) -> None:
    fail(breaker, "a", "b")
    succeed(breaker)
    fail(breaker, "a", "b")
    assert breaker.state == "closed"


def test_one_caller_alone_opens_it_for_nobody(breaker: Breaker) -> None:
    fail(breaker, *["a"] * 50)
    assert breaker.state == "closed"
    fail(breaker, "b")
    assert breaker.state == "open"


def test_a_connection_that_fails_is_no_callers_doing(breaker: Breaker) -> None:
    fail(breaker, "a", "a", "a", error=RESET)
    assert breaker.state == "open"


def test_half_of_the_recent_requests_failing_opens_it(breaker: Breaker) -> None:
    for _ in range(module.WINDOW // 2 - 1):
        succeed(breaker)
        fail(breaker, "a")
    succeed(breaker)
    assert breaker.state == "closed"
    fail(breaker, "b")
    assert breaker.state == "open"


def test_what_is_long_ago_is_forgotten(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, "a", "b")
    clock.now += module.WINDOW_SECONDS + 1
    fail(breaker, "a")
    assert breaker.state == "closed"


def test_one_probe_at_a_time_closes_it(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, "a", "b", "c")
    clock.now += 10
    assert breaker.state == "half_open"
    with breaker.admit():
        assert refused(breaker).retry_after == module.PROBE_SECONDS
        breaker.succeeded()
    assert breaker.state == "closed"
    succeed(breaker, 2)


def test_a_probe_that_fails_opens_it_for_twice_as_long(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, "a", "b", "c")
    times = (20, 40, 80, module.MOST_SECONDS, module.MOST_SECONDS)
    for caller, seconds in zip("ababa", times, strict=True):
        clock.now += 1000
        fail(breaker, caller)
        assert refused(breaker).retry_after == seconds
    clock.now += 1000
    succeed(breaker)
    fail(breaker, "a", "b", "c")
    assert refused(breaker).retry_after == 10


def test_one_caller_alone_does_not_keep_it_from_the_others(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, "a", "b", "c")
    clock.now += 10
    fail(breaker, "evil")
    assert refused(breaker).retry_after == 20
    clock.now += 20
    for _ in range(3):
        fail(breaker, "evil")
        assert breaker.state == "half_open"
    succeed(breaker)
    assert breaker.state == "closed"


def test_what_was_under_way_when_it_opened_does_not_prolong_it(breaker: Breaker) -> None:
    passages = [breaker.admit() for _ in range(10)]
    for passage in passages:
        with passage:
            breaker.failed(RESET, "a")
    assert refused(breaker).retry_after == 10


def test_a_probe_whose_client_left_says_nothing(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, "a", "b", "c")
    clock.now += 10
    with breaker.admit():
        pass
    assert breaker.state == "half_open"
    succeed(breaker)
    assert breaker.state == "closed"


def busy(seconds: float | None) -> UpstreamError:
    facts = {"retry_after": seconds or 1}
    return UpstreamError("upstream_rate_limited", 503, "busy", facts, busy_seconds=seconds)


def test_a_busy_provider_is_left_alone_for_as_long_as_it_asked(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker, "a", error=busy(7))
    clock.now += 3
    error = refused(breaker)
    assert (error.status, error.code, error.retry_after) == (503, "upstream_rate_limited", 4)
    assert breaker.state == "closed"
    clock.now += 4
    succeed(breaker)


def test_but_a_key_of_a_customers_has_a_limit_of_its_own(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, "a", error=busy(7))
    with breaker.admit(is_own=True):
        breaker.succeeded()
    assert refused(breaker).code == "upstream_rate_limited"
    # A provider that cannot be reached cannot be reached with any key.
    clock.now += 7
    fail(breaker, "a", error=RESET)
    fail(breaker, "a", error=RESET)
    fail(breaker, "a", error=RESET)
    with pytest.raises(UpstreamError):
        breaker.admit(is_own=True)


def test_a_key_of_the_operators_that_is_refused_says_nothing_of_the_provider(
    breaker: Breaker,
) -> None:
    fail(breaker, *"abcdefgh", error=UpstreamError("upstream_not_configured", 503, "no"))
    assert breaker.state == "closed"


def test_but_not_for_hours(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, "a", error=busy(3600))
    clock.now += module.MOST_BUSY_SECONDS
    succeed(breaker)


def test_being_busy_is_no_failure(breaker: Breaker) -> None:
    fail(breaker, *"abcdefgh", error=busy(None))
    assert breaker.state == "closed"


def test_it_can_be_switched_off(clock: Clock) -> None:
    breaker = Breaker("p", failures=0, seconds=10, clock=clock)
    fail(breaker, *"abcdefgh", error=RESET)
    fail(breaker, "a", error=busy(60))
    succeed(breaker)
