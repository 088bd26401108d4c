"""Two processes' worth of breakers on one real server."""

from __future__ import annotations

import asyncio

import psutil
import pytest
from redis import asyncio as aioredis

from tests.fakes import START, ManualClock, wait_until
from tocsin.errors import StorageUnavailableError
from tocsin.keys import BreakerKeys
from tocsin.ports import free_port
from tocsin.resilience.breaker import PROBE_WAIT_S, STALE_S, SYNC_EVERY_S, Breaker
from tocsin.resilience.breakers import Breakers
from tocsin.resilience.policies import BreakerPolicy
from tocsin.resilience.pool_state import BreakerState, read_breakers
from tocsin.storage.connect import connect

POLICY = BreakerPolicy(name="x", fail_max=3, reset_s=30.0, slow_call_s=1.0)
Pair = tuple[Breaker, Breaker]


@pytest.fixture
def keys(namespace: str) -> BreakerKeys:
    return BreakerKeys(namespace)


@pytest.fixture
def pair(client: aioredis.Redis, keys: BreakerKeys, clock: ManualClock) -> Pair:
    first, second = (Breaker(POLICY, "x", clock, client=client, keys=keys, holder=holder) for holder in "ab")
    return first, second


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.record(ok=False, duration_s=0.1, reason="timeout")


async def sync(*breakers: Breaker) -> None:
    for breaker in breakers:
        await breaker.sync()
    assert not any(breaker.sync_failures for breaker in breakers)


async def open_both(pair: Pair) -> None:
    fail(pair[0], 3)
    await sync(*pair)


async def ask_for_the_probe(breaker: Breaker, clock: ManualClock) -> bool:
    await sync(breaker)
    if breaker.allows(clock.now()):
        return True
    assert breaker.retry_after(clock.now()) == PROBE_WAIT_S
    await sync(breaker)
    return breaker.allows(clock.now())


async def test_opened_by_one_is_open_for_all_within_one_read(pair: Pair, clock: ManualClock) -> None:
    first, second = pair
    fail(first, 3)
    assert (first.state, second.state) == (BreakerState.OPEN, BreakerState.CLOSED)
    await sync(first, second)
    assert not second.allows(clock.now())
    assert second.retry_after(clock.now()) == 30.0
    view = second.view(clock.now())
    assert (view.reason, view.failures, view.opened) == ("timeout", 3, 1)


async def test_failures_add_up_over_the_pool_until_somebody_succeeds(pair: Pair) -> None:
    first, second = pair
    fail(first, 2)
    await sync(first, second)
    second.record(ok=True, duration_s=0.1)
    fail(second, 1)
    await sync(second, first)
    assert first.view(START).failures == 1
    fail(first, 1)
    await sync(first)
    fail(second, 1)
    await sync(second, first)
    assert first.state is second.state is BreakerState.OPEN


async def test_only_one_probes_and_its_success_closes_it_for_all(pair: Pair, clock: ManualClock) -> None:
    first, second = pair
    await open_both(pair)
    clock.advance(30)
    assert await ask_for_the_probe(first, clock)
    assert not await ask_for_the_probe(second, clock)
    assert (first.state, second.state) == (BreakerState.HALF_OPEN, BreakerState.OPEN)
    clock.advance(0.2)
    first.record(ok=True, duration_s=0.2)
    await sync(first, second)
    assert second.allows(clock.now())
    assert (second.opened, second.closed, second.probes) == (1, 1, 1)


async def test_who_was_refused_the_probe_does_not_ask_before_the_next_sync(
    client: aioredis.Redis, keys: BreakerKeys, pair: Pair, clock: ManualClock
) -> None:
    asked = 0

    def count() -> None:
        nonlocal asked
        asked += 1

    await open_both(pair)
    clock.advance(30)
    assert await ask_for_the_probe(pair[0], clock)
    eager = Breaker(POLICY, "x", clock, client=client, keys=keys, holder="eager", changed=count)
    assert not await ask_for_the_probe(eager, clock)
    for _ in range(100):
        assert not eager.allows(clock.now())
        assert eager.retry_after(clock.now()) == PROBE_WAIT_S
    assert asked == 1
    clock.advance(SYNC_EVERY_S)
    assert not eager.allows(clock.now())
    assert eager.retry_after(clock.now()) == PROBE_WAIT_S
    assert asked == 2


async def test_a_breaker_nobody_syncs_does_not_stay_open(pair: Pair, clock: ManualClock) -> None:
    first, _ = pair
    await open_both(pair)
    clock.advance(30)
    await sync(first)
    assert not first.allows(clock.now())
    assert first.retry_after(clock.now()) == PROBE_WAIT_S
    clock.advance(STALE_S + 0.1)
    assert first.allows(clock.now())


async def test_a_failed_probe_makes_all_wait_again(pair: Pair, clock: ManualClock) -> None:
    first, second = pair
    await open_both(pair)
    clock.advance(31)
    assert await ask_for_the_probe(second, clock)
    second.record(ok=False, duration_s=0.0, reason="refused")
    await sync(second, first)
    assert not first.allows(clock.now())
    assert first.retry_after(clock.now()) == 30.0
    assert first.view(clock.now()).reason == "refused"
    clock.advance(30)
    assert await ask_for_the_probe(first, clock)  # the lease was given back


async def test_many_who_ask_at_once_get_one_probe(
    client: aioredis.Redis, keys: BreakerKeys, pair: Pair, clock: ManualClock
) -> None:
    await open_both(pair)
    clock.advance(30)
    crowd = [Breaker(POLICY, "x", clock, client=client, keys=keys, holder=f"h{n}") for n in range(12)]
    await sync(*crowd)
    answers = await asyncio.gather(*(ask_for_the_probe(breaker, clock) for breaker in crowd))
    assert answers.count(True) == 1


async def test_a_holder_that_died_loses_the_probe(
    client: aioredis.Redis, keys: BreakerKeys, pair: Pair, clock: ManualClock
) -> None:
    first, second = pair
    await open_both(pair)
    clock.advance(30)
    assert await ask_for_the_probe(first, clock)
    assert 0 < await client.pttl(keys.probe("x")) <= 5000
    await client.pexpire(keys.probe("x"), 1)

    async def gone() -> bool:
        return not await client.exists(keys.probe("x"))

    await wait_until(gone)
    assert await ask_for_the_probe(second, clock)


async def test_a_result_that_comes_after_the_lease_decides_nothing(
    client: aioredis.Redis, keys: BreakerKeys, pair: Pair, clock: ManualClock
) -> None:
    first, second = pair
    await open_both(pair)
    clock.advance(30)
    assert await ask_for_the_probe(first, clock)
    await client.delete(keys.probe("x"))  # as if it had run out
    assert await ask_for_the_probe(second, clock)
    first.record(ok=True, duration_s=0.0)
    await sync(first)
    assert (first.state, second.state) == (BreakerState.OPEN, BreakerState.HALF_OPEN)
    assert first.closed == 0


async def test_a_failure_that_healed_while_the_server_was_away_opens_nothing(
    url: str, keys: BreakerKeys, pair: Pair, clock: ManualClock, process: psutil.Process
) -> None:
    impatient = connect(url, timeout_s=0.1)
    lonely = Breaker(POLICY, "x", clock, client=impatient, keys=keys, holder="lonely")
    process.suspend()
    try:
        fail(lonely, 3)
        await lonely.sync()
        clock.advance(30)
        assert lonely.allows(clock.now())
        lonely.record(ok=True, duration_s=0.0)
        await lonely.sync()
    finally:
        process.resume()
    patient = connect(url, timeout_s=10)
    lonely._client = patient
    await lonely.sync()
    await sync(pair[1])
    assert lonely.state is pair[1].state is BreakerState.CLOSED
    assert pair[1].opened == 0
    for connected in (impatient, patient):
        await connected.aclose()


async def test_a_healthy_breaker_costs_no_write(client: aioredis.Redis, pair: Pair) -> None:
    first, _ = pair
    await sync(first)

    async def changes() -> int:
        return int((await client.info("persistence"))["rdb_changes_since_last_save"])

    before = await changes()
    for _ in range(5):
        first.record(ok=True, duration_s=0.1)
        await sync(first)
    assert await changes() == before


async def test_what_happened_while_the_server_was_away_is_told_when_it_is_back(
    client: aioredis.Redis,
    url: str,
    keys: BreakerKeys,
    pair: Pair,
    clock: ManualClock,
    process: psutil.Process,
) -> None:
    slow = connect(url, timeout_s=0.1)
    lonely = Breaker(POLICY, "x", clock, client=slow, keys=keys, holder="lonely")
    process.suspend()
    try:
        fail(lonely, 3)
        await lonely.sync()
        assert lonely.sync_failures == 1
        assert not lonely.allows(clock.now())
        assert lonely.retry_after(clock.now()) == 30.0
    finally:
        process.resume()
    clock.advance(10)
    lonely._client = client
    await lonely.sync()
    await slow.aclose()
    await sync(pair[1])
    assert not pair[1].allows(clock.now())
    assert pair[1].retry_after(clock.now()) == 20.0  # since it opened there, not since it was told


async def test_a_snapshot_shows_every_breaker_of_the_pool(
    client: aioredis.Redis, namespace: str, clock: ManualClock
) -> None:
    breakers = Breakers(client, namespace, clock, holder="a")
    fail(breakers.get("emergency_contacts"), 3)
    breakers.get("p0:webhook", "p0_channels")
    await breakers.sync()
    clock.advance(10)
    contacts, webhook = await read_breakers(client, namespace, clock.now())
    assert (contacts.name, contacts.state, contacts.failures) == ("emergency_contacts", BreakerState.OPEN, 3)
    assert (contacts.reason, contacts.retry_in_s, contacts.opened) == ("timeout", 20.0, 1)
    assert (webhook.name, webhook.state, webhook.retry_in_s) == ("p0:webhook", BreakerState.CLOSED, None)
    clock.advance(20)
    await breakers.sync()
    assert not breakers.get("emergency_contacts").allows(clock.now())
    assert breakers.get("emergency_contacts").retry_after(clock.now()) == PROBE_WAIT_S
    await breakers.sync()
    (contacts, _) = await read_breakers(client, namespace, clock.now())
    assert contacts.state is BreakerState.HALF_OPEN


async def test_a_namespace_without_breakers_has_an_empty_snapshot(
    client: aioredis.Redis, namespace: str
) -> None:
    assert await read_breakers(client, namespace, START) == []


async def test_a_snapshot_from_a_server_that_is_away_says_so() -> None:
    nowhere = connect(f"redis://127.0.0.1:{free_port()}/0", timeout_s=0.2)
    with pytest.raises(StorageUnavailableError):
        await read_breakers(nowhere, "t", START)
    await nowhere.aclose()
