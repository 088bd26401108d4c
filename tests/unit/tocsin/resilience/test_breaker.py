from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import asyncio as aioredis
from redis import exceptions as redis_errors

from tests.fakes import START, ManualClock
from tocsin.errors import ConfigurationError, NotFoundError
from tocsin.keys import BreakerKeys
from tocsin.resilience.breaker import MIN_LEASE_S, PROBE_WAIT_S, STALE_S, Breaker, BreakerOpenError
from tocsin.resilience.breakers import BreakerGuard, Breakers, ChannelGuard, OpenDoor
from tocsin.resilience.policies import POLICIES, BreakerPolicy, Criticality
from tocsin.resilience.pool_state import BreakerState

POLICY = BreakerPolicy(name="x", fail_max=3, reset_s=30.0, slow_call_s=1.0)


class Away:
    """A server that does not answer, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def execute_command(self, *_: Any) -> Any:
        self.asked += 1
        raise redis_errors.ConnectionError("gone")


def alone(clock: ManualClock, policy: BreakerPolicy = POLICY) -> Breaker:
    return Breaker(policy, "x", clock, client=None, keys=BreakerKeys("t"), holder="a")


def state(breaker: Breaker) -> BreakerState:
    return breaker.state


def fail(breaker: Breaker, times: int, reason: str = "timeout") -> None:
    for _ in range(times):
        breaker.record(ok=False, duration_s=0.1, reason=reason)


# --------------------------------------------------------------------------- the table


def test_the_more_urgent_the_sooner_it_opens_and_heals() -> None:
    order = ("emergency_contacts", "p0_channels", "p1_channels", "p2_channels", "analytics")
    rows = [POLICIES[name] for name in order]
    assert [row.fail_max for row in rows] == sorted({row.fail_max for row in rows})
    assert [row.reset_s for row in rows] == sorted(row.reset_s for row in rows)
    assert (rows[0].fail_max, rows[0].reset_s) == (3, 30.0)
    assert (rows[-1].fail_max, rows[-1].reset_s) == (10, 300.0)
    assert rows[0].criticality is Criticality.EMERGENCY
    assert {name: policy.name for name, policy in POLICIES.items()} == {name: name for name in POLICIES}


async def test_an_answer_that_comes_too_late_is_handed_on_and_counts(clock: ManualClock) -> None:
    guard = Breaker(POLICY, "x", clock)

    async def slow() -> str:
        clock.advance(1.5)
        return "late"

    assert [await guard.call(slow) for _ in range(3)] == ["late"] * 3
    assert guard.state is BreakerState.OPEN


# --------------------------------------------------------------------------- one process, moved by hand


def test_it_opens_after_failures_in_a_row_and_says_how_long(clock: ManualClock) -> None:
    breaker = alone(clock)
    fail(breaker, 2)
    breaker.record(ok=True, duration_s=0.1)
    fail(breaker, 2)
    assert breaker.allows(clock.now())
    fail(breaker, 1)
    assert state(breaker) is BreakerState.OPEN
    clock.advance(10)
    assert not breaker.allows(clock.now())
    assert breaker.retry_after(clock.now()) == pytest.approx(20)
    view = breaker.view(clock.now())
    assert (view.failures, view.reason, view.retry_in_s, view.opened) == (3, "timeout", 20.0, 1)
    assert view.opened_at is not None
    assert view.opened_at.timestamp() == START


def test_slow_calls_are_failures(clock: ManualClock) -> None:
    breaker = alone(clock)
    for _ in range(3):
        breaker.record(ok=True, duration_s=1.01)
    assert state(breaker) is BreakerState.OPEN
    assert breaker.view(clock.now()).reason == "slow"


def opened(clock: ManualClock) -> Breaker:
    breaker = alone(clock)
    fail(breaker, 3)
    clock.advance(30)
    return breaker


def test_one_probe_at_a_time_decides(clock: ManualClock) -> None:
    breaker = opened(clock)
    assert breaker.allows(clock.now())
    assert state(breaker) is BreakerState.HALF_OPEN
    assert not breaker.allows(clock.now())
    assert breaker.retry_after(clock.now()) == PROBE_WAIT_S
    clock.advance(0.2)
    breaker.record(ok=True, duration_s=0.2)
    assert state(breaker) is BreakerState.CLOSED
    assert (breaker.opened, breaker.closed, breaker.probes) == (1, 1, 1)
    assert breaker.view(clock.now()).reason == "probe succeeded"
    fail(breaker, 2)
    assert breaker.allows(clock.now())  # it counts anew


@pytest.mark.parametrize(("ok", "duration_s", "reason"), [(False, 0.1, "refused"), (True, 1.2, "slow")])
def test_a_probe_that_fails_or_is_slow_opens_it_again(
    clock: ManualClock, ok: bool, duration_s: float, reason: str
) -> None:
    breaker = opened(clock)
    assert breaker.allows(clock.now())
    clock.advance(duration_s)
    breaker.record(ok, duration_s, "refused")
    assert not breaker.allows(clock.now())
    assert breaker.retry_after(clock.now()) == pytest.approx(30)
    assert breaker.view(clock.now()).reason == reason


def test_a_call_from_before_says_nothing_about_now(clock: ManualClock) -> None:
    breaker = opened(clock)
    breaker.record(ok=True, duration_s=25)
    assert state(breaker) is BreakerState.OPEN
    assert breaker.allows(clock.now())
    breaker.record(ok=False, duration_s=29)  # began long before the probe
    assert state(breaker) is BreakerState.HALF_OPEN


def test_a_probe_nobody_answers_for_is_given_up(clock: ManualClock) -> None:
    breaker = opened(clock)
    assert breaker.allows(clock.now())
    clock.advance(MIN_LEASE_S + 0.1)
    assert breaker.allows(clock.now())  # the next one
    assert breaker.probes == 2


async def test_calls_are_guarded_and_a_no_is_an_answer(clock: ManualClock) -> None:
    breaker = alone(clock)

    async def refuse() -> None:
        raise NotFoundError("no such thing")

    async def hang_up() -> None:
        raise asyncio.CancelledError

    async def gone() -> None:
        raise ConnectionError

    for work, error in ((refuse, NotFoundError), (hang_up, asyncio.CancelledError)):
        for _ in range(5):
            with pytest.raises(error):
                await breaker.call(work)
    assert state(breaker) is BreakerState.CLOSED
    for _ in range(3):
        with pytest.raises(ConnectionError):
            await breaker.call(gone)
    with pytest.raises(BreakerOpenError, match="ConnectionError") as caught:
        await breaker.call(gone)
    assert caught.value.retry_after_s == 30


# --------------------------------------------------------------------------- without the server


async def test_it_goes_on_alone_while_the_server_is_away(clock: ManualClock) -> None:
    server = Away()
    breaker = Breaker(
        POLICY, "x", clock, client=cast("aioredis.Redis", server), keys=BreakerKeys("t"), holder="a"
    )
    await breaker.sync()
    assert breaker.sync_failures == 1
    fail(breaker, 3)
    await breaker.sync()
    clock.advance(30)
    assert breaker.allows(clock.now())
    breaker.record(ok=True, duration_s=0.0)
    await breaker.sync()
    assert state(breaker) is BreakerState.CLOSED
    assert server.asked == breaker.sync_failures == 3


async def test_a_server_just_lost_is_not_waited_for(clock: ManualClock) -> None:
    policy = BreakerPolicy(name="x", fail_max=3, reset_s=STALE_S / 2)
    server = cast("aioredis.Redis", Away())
    breaker = Breaker(policy, "x", clock, client=server, keys=BreakerKeys("t"), holder="a")
    fail(breaker, 3)
    clock.advance(policy.reset_s)
    assert not breaker.allows(clock.now())
    assert breaker.retry_after(clock.now()) == PROBE_WAIT_S
    await breaker.sync()
    assert breaker.allows(clock.now())


async def test_a_probe_that_ends_while_the_pool_is_asked_is_not_forgotten(clock: ManualClock) -> None:
    class Answering(Away):
        async def execute_command(self, *_: Any) -> Any:
            self.asked += 1
            breaker.record(ok=True, duration_s=0.0)
            return [b"open", b"3", str(START).encode(), b"timeout", b"1", b"0", b"1", b"0"]

    breaker = Breaker(
        POLICY, "x", clock, client=cast("aioredis.Redis", Answering()), keys=BreakerKeys("t"), holder="a"
    )
    fail(breaker, 3)
    clock.advance(30)
    assert breaker.allows(clock.now())  # nobody synced it: alone
    await breaker.sync()
    assert breaker.state is BreakerState.CLOSED
    assert breaker._unsent.probe == "ok"


async def test_allows_and_record_ask_no_server(clock: ManualClock) -> None:
    server = Away()
    breaker = Breaker(
        POLICY, "x", clock, client=cast("aioredis.Redis", server), keys=BreakerKeys("t"), holder="a"
    )
    for _ in range(1000):
        breaker.allows(clock.now())
        breaker.record(ok=False, duration_s=0.1, reason="timeout")
    assert server.asked == 0


@given(st.lists(st.tuples(st.sampled_from(["ok", "bad", "slow", "ask"]), st.floats(0, 40)), max_size=60))
def test_it_allows_nothing_while_it_rests_and_never_two_probes(steps: list[tuple[str, float]]) -> None:
    clock = ManualClock()
    breaker = alone(clock)
    probing_since: float | None = None
    for step, seconds in steps:
        clock.advance(seconds)
        before = breaker.state
        if step != "ask":
            breaker.record(step != "bad", 2.0 if step == "slow" else 0.0, step)
            if breaker.state is not BreakerState.HALF_OPEN:
                probing_since = None
            continue
        allowed = breaker.allows(clock.now())
        assert allowed or 0 < breaker.retry_after(clock.now()) <= POLICY.reset_s
        if before is BreakerState.CLOSED:
            assert allowed
        elif allowed:
            assert probing_since is None or clock.monotonic() - probing_since > MIN_LEASE_S
            probing_since = clock.monotonic()


# --------------------------------------------------------------------------- the registry and the port


def test_breakers_are_made_once_and_only_for_known_dependencies(clock: ManualClock) -> None:
    breakers = Breakers(None, "t", clock)
    assert breakers.get("analytics") is breakers.get("analytics")
    with pytest.raises(ConfigurationError, match="nonsense"):
        breakers.get("nonsense")
    breakers.get("p0:log", "p0_channels")
    assert [view.name for view in breakers.views()] == ["analytics", "p0:log"]


def test_a_channel_has_a_breaker_in_each_lane(clock: ManualClock) -> None:
    breakers = Breakers(None, "t", clock)
    p0: BreakerGuard = ChannelGuard(breakers, "p0", clock)
    p2: BreakerGuard = ChannelGuard(breakers, "p2", clock)
    for _ in range(POLICIES["p2_channels"].fail_max):
        assert p2.allows("webhook")
        p2.record("webhook", ok=False, duration_s=0.1, reason="timeout")
    assert not p2.allows("webhook")
    assert p2.retry_after("webhook") == POLICIES["p2_channels"].reset_s
    assert p2.allows("log")
    assert p0.allows("webhook")
    assert breakers.get("p2:webhook").policy.criticality is Criticality.P2


def test_an_open_door_learns_nothing() -> None:
    door: BreakerGuard = OpenDoor()
    for _ in range(100):
        door.record("log", ok=False, duration_s=9.0, reason="timeout")
    assert door.allows("log")


async def test_news_are_shared_at_once() -> None:
    breakers = Breakers(None, "t", ManualClock())
    synced = asyncio.Queue[None]()

    async def sync() -> None:
        breakers._news.clear()
        synced.put_nowait(None)

    breakers.sync = sync  # type: ignore[method-assign]
    running = asyncio.create_task(breakers.run(every_s=3600))
    await synced.get()
    fail(breakers.get("emergency_contacts"), 3)
    await asyncio.wait_for(synced.get(), 5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
