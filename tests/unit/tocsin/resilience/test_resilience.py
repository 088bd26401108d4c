from __future__ import annotations

import asyncio
import contextlib
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import wait_until
from tocsin.errors import InvalidRecordError, NotFoundError, StorageUnavailableError
from tocsin.resilience.breaker import AsyncBreaker, BreakerPolicy
from tocsin.resilience.retry import RetryPolicy

# --------------------------------------------------------------------------- retry

POLICIES = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 20),
    base_s=st.floats(0.01, 10),
    cap_s=st.floats(10, 1000),
    factor=st.floats(1, 4),
)


@given(POLICIES)
def test_the_ceiling_never_shrinks_and_never_passes_the_cap(policy: RetryPolicy) -> None:
    ceilings = [policy.ceiling_s(n) for n in range(1, 40)]
    assert ceilings == sorted(ceilings)
    assert ceilings[0] == policy.base_s
    assert max(ceilings) <= policy.cap_s


@given(POLICIES, st.integers(1, 40), st.floats(0, 1))
def test_a_wait_is_between_half_its_ceiling_and_its_ceiling_while_tries_are_left(
    policy: RetryPolicy, made: int, draw: float
) -> None:
    delay_s = policy.delay_s(made, draw)
    if made >= policy.max_attempts:
        assert delay_s is None
    else:
        assert delay_s is not None
        assert policy.ceiling_s(made) / 2 <= delay_s <= policy.ceiling_s(made)


def test_a_policy_of_three_attempts_waits_twice() -> None:
    policy = RetryPolicy(max_attempts=3, base_s=1.0, cap_s=60.0)
    assert [policy.delay_s(made, 1.0) for made in (1, 2, 3)] == [1.0, 2.0, None]
    assert policy.delay_s(2, 0.0) == 1.0


# --------------------------------------------------------------------------- what a breaker lets through


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


def breaker(reset_s: float = LONG_S) -> AsyncBreaker:
    return AsyncBreaker(BreakerPolicy(name="storage", fail_max=3, reset_s=reset_s))


async def fail(guard: AsyncBreaker, dependency: Dependency, times: int) -> None:
    dependency.error = ConnectionError("gone")
    for _ in range(times):
        with pytest.raises(ConnectionError, match="gone"):
            await guard.call(dependency.ask)


async def test_a_closed_breaker_hands_answers_through() -> None:
    guard, dependency = breaker(), Dependency()
    assert await guard.call(dependency.ask) == "answer"
    assert guard.state == "closed"


async def test_it_opens_after_as_many_failures_in_a_row_as_its_policy_says() -> None:
    guard, dependency = breaker(), Dependency()
    await fail(guard, dependency, 2)
    assert guard.state == "closed"
    await fail(guard, dependency, 1)  # the caller sees what really happened
    assert guard.state == "open"


async def test_an_open_breaker_does_not_ask_and_says_when_to_come_back() -> None:
    guard, dependency = breaker(), Dependency()
    await fail(guard, dependency, 3)
    with pytest.raises(StorageUnavailableError) as caught:
        await guard.call(dependency.ask)
    assert caught.value.retry_after_s == LONG_S
    assert dependency.asked == 3


async def test_a_success_between_failures_keeps_it_closed() -> None:
    guard, dependency = breaker(), Dependency()
    for _ in range(3):
        await fail(guard, dependency, 2)
        dependency.error = None
        await guard.call(dependency.ask)
    assert guard.state == "closed"


async def rest(guard: AsyncBreaker, dependency: Dependency) -> None:
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
    assert guard.state == "closed"
    assert dependency.asked == 4


async def test_a_probe_that_fails_opens_it_again() -> None:
    guard, dependency = breaker(RESET_S), Dependency()
    await fail(guard, dependency, 3)
    await rest(guard, dependency)
    assert guard.state == "open"
    assert dependency.asked == 4


@pytest.mark.parametrize("error", [NotFoundError("no such thing"), InvalidRecordError("bad")])
async def test_an_answer_that_says_no_never_counts(error: Exception) -> None:
    guard, dependency = breaker(), Dependency()
    dependency.error = error
    for _ in range(10):
        with pytest.raises(type(error)):
            await guard.call(dependency.ask)
    assert guard.state == "closed"


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
    assert guard.state == "closed"


async def test_calls_at_once_do_not_disturb_each_other() -> None:
    guard, fine, broken = breaker(), Dependency(), Dependency()
    broken.error = ConnectionError("gone")
    answers = await asyncio.gather(
        *(guard.call((broken if i % 2 else fine).ask) for i in range(4)), return_exceptions=True
    )
    assert answers[::2] == ["answer", "answer"]
    assert all(isinstance(answer, ConnectionError) for answer in answers[1::2])
