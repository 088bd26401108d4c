from __future__ import annotations

import asyncio
import contextlib
from typing import NoReturn

import pytest

from tests.fakes import ManualClock, wait_until
from tocsin.clock import SystemClock
from tocsin.errors import InvalidRecordError, NotFoundError, StorageUnavailableError
from tocsin.resilience.breaker import Breaker
from tocsin.resilience.policies import BreakerPolicy
from tocsin.resilience.pool_state import BreakerState


def state(guard: Breaker) -> BreakerState:
    return guard.state


class Dependency:
    """Answers or fails as told, and counts how often it was asked."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.asked = 0

    async def ask(self) -> str:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return "answer"


RESET_S = 0.05
LONG_S = 60.0


def breaker(reset_s: float = LONG_S) -> Breaker:
    policy = BreakerPolicy(name="storage", fail_max=3, reset_s=reset_s)
    return Breaker(policy, "storage", SystemClock())


async def fail(guard: Breaker, dependency: Dependency, times: int) -> None:
    dependency.error = ConnectionError("gone")
    for _ in range(times):
        with pytest.raises(ConnectionError, match="gone"):
            await guard.call(dependency.ask)


async def test_a_closed_breaker_hands_answers_through() -> None:
    guard, dependency = breaker(), Dependency()
    assert await guard.call(dependency.ask) == "answer"
    assert state(guard) is BreakerState.CLOSED


async def test_it_opens_after_as_many_failures_in_a_row_as_its_policy_says() -> None:
    guard, dependency = breaker(), Dependency()
    await fail(guard, dependency, 2)
    assert state(guard) is BreakerState.CLOSED
    await fail(guard, dependency, 1)  # the caller sees what really happened
    assert state(guard) is BreakerState.OPEN


async def test_an_open_breaker_does_not_ask_and_says_when_to_come_back() -> None:
    guard, dependency = breaker(), Dependency()
    await fail(guard, dependency, 3)
    with pytest.raises(StorageUnavailableError) as caught:
        await guard.call(dependency.ask)
    assert caught.value.retry_after_s == pytest.approx(LONG_S, abs=5.0)
    assert dependency.asked == 3


async def test_a_success_between_failures_keeps_it_closed() -> None:
    guard, dependency = breaker(), Dependency()
    for _ in range(3):
        await fail(guard, dependency, 2)
        dependency.error = None
        await guard.call(dependency.ask)
    assert state(guard) is BreakerState.CLOSED


async def rest(guard: Breaker, dependency: Dependency) -> None:
    """Wait until the next call will be a probe: an open breaker has counted its time down."""
    asked = dependency.asked

    async def let_through() -> bool:
        with contextlib.suppress(StorageUnavailableError, ConnectionError):
            await guard.call(dependency.ask)
        return dependency.asked > asked

    await wait_until(let_through)


async def test_a_probe_that_succeeds_closes_it() -> None:
    guard, dependency = breaker(RESET_S), Dependency()
    await fail(guard, dependency, 3)
    dependency.error = None
    await rest(guard, dependency)
    assert state(guard) is BreakerState.CLOSED
    assert dependency.asked == 4


async def test_a_probe_that_fails_opens_it_again() -> None:
    guard, dependency = breaker(RESET_S), Dependency()
    await fail(guard, dependency, 3)
    await rest(guard, dependency)
    assert state(guard) is BreakerState.OPEN
    assert dependency.asked == 4


@pytest.mark.parametrize("error", [NotFoundError("no such thing"), InvalidRecordError("bad")])
async def test_an_answer_that_says_no_never_counts(error: Exception) -> None:
    guard, dependency = breaker(), Dependency()
    dependency.error = error
    for _ in range(10):
        with pytest.raises(type(error)):
            await guard.call(dependency.ask)
    assert state(guard) is BreakerState.CLOSED


async def test_a_caller_that_went_away_never_counts_and_stays_cancelled() -> None:
    guard = breaker()

    async def hang() -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError

    for _ in range(10):
        call = asyncio.create_task(guard.call(hang))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert state(guard) is BreakerState.CLOSED


async def test_calls_at_once_do_not_disturb_each_other() -> None:
    guard, fine, broken = breaker(), Dependency(), Dependency()
    broken.error = ConnectionError("gone")
    answers = await asyncio.gather(
        *(guard.call((broken if i % 2 else fine).ask) for i in range(4)), return_exceptions=True
    )
    assert answers[::2] == ["answer", "answer"]
    assert all(isinstance(answer, ConnectionError) for answer in answers[1::2])


async def test_a_probe_whose_caller_goes_away_is_handed_to_the_next(clock: ManualClock) -> None:
    guard, dependency = Breaker(BreakerPolicy(name="x", fail_max=3, reset_s=30.0), "x", clock), Dependency()
    await fail(guard, dependency, 3)
    clock.advance(30)
    dependency.error = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await guard.call(dependency.ask)
    dependency.error = None
    assert await guard.call(dependency.ask) == "answer"
    assert state(guard) is BreakerState.CLOSED


async def test_a_call_from_before_it_opened_does_not_hand_the_probe_on(clock: ManualClock) -> None:
    guard, dependency = Breaker(BreakerPolicy(name="x", fail_max=3, reset_s=30.0), "x", clock), Dependency()

    async def hang() -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError

    early = asyncio.create_task(guard.call(hang))
    await asyncio.sleep(0)
    await fail(guard, dependency, 3)
    clock.advance(30)
    assert guard.allows(clock.now())  # the probe is on its way
    early.cancel()
    with pytest.raises(asyncio.CancelledError):
        await early
    assert not guard.allows(clock.now())
