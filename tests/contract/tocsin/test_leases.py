"""Who owns what, on a real server. Its own clock decides when a lease lapses, so leases here are short."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from redis import asyncio as aioredis

from tests.fakes import wait_until
from tocsin.clock import SystemClock
from tocsin.errors import StorageUnavailableError
from tocsin.keys import LaneKeys
from tocsin.storage.connect import connect
from tocsin.streams.leases import LeasePolicy, Leases

TTL_S = 0.3
LONG_TTL_S = 30.0
Join = Callable[..., Leases]


@pytest.fixture
def keys(namespace: str) -> LaneKeys:
    return LaneKeys(namespace, "p1")


@pytest.fixture
def join(client: aioredis.Redis, keys: LaneKeys) -> Join:
    def made(name: str, *, partitions: int = 4, ttl_s: float = LONG_TTL_S) -> Leases:
        return Leases(
            client,
            keys=keys,
            name=name,
            partitions=partitions,
            policy=LeasePolicy(ttl_s=ttl_s, heartbeat_s=ttl_s / 4),
            clock=SystemClock(),
        )

    return made


async def settle_down(*members: Leases) -> None:
    """Beat in turn, give up what is surplus, until nothing moves."""
    for _ in range(4):
        for member in members:
            await member.release(await member.beat())


async def test_a_member_alone_owns_every_partition(join: Join) -> None:
    alone = join("a")
    assert alone.held() == []
    assert await alone.beat() == []
    assert alone.held() == [0, 1, 2, 3]


async def test_two_members_share_the_partitions_evenly(join: Join) -> None:
    a, b = join("a"), join("b")
    await settle_down(a, b)
    assert (a.held(), b.held()) == ([0, 2], [1, 3])


async def test_three_members_leave_no_partition_out(join: Join) -> None:
    members = [join(name, partitions=8) for name in "abc"]
    await settle_down(*members)
    assert sorted(p for member in members for p in member.held()) == list(range(8))
    assert sorted(len(member.held()) for member in members) == [2, 3, 3]


async def test_a_partition_is_not_taken_before_its_owner_gave_it_up(join: Join) -> None:
    a, b = join("a"), join("b")
    await a.beat()
    await b.beat()
    assert b.held() == []
    surplus = await a.beat()
    assert surplus == [1, 3]
    assert a.held() == [0, 1, 2, 3]  # ours until drained
    await b.beat()
    assert b.held() == []
    await a.release(surplus)
    assert a.held() == [0, 2]
    await b.beat()
    assert b.held() == [1, 3]


async def test_never_do_two_members_hold_one_partition(join: Join) -> None:
    members = [join(name, partitions=6) for name in "abcd"]
    for round_ in range(12):
        active = members[: 1 + round_ % 4]
        for member in active:
            surplus = await member.beat()
            if round_ % 2:
                await member.release(surplus)
            held = [p for m in members for p in m.held()]
            assert len(held) == len(set(held))


async def test_a_dead_members_partitions_move_after_its_lease_lapsed_and_not_before(join: Join) -> None:
    a, b = join("a", ttl_s=TTL_S), join("b", ttl_s=TTL_S)
    await settle_down(a, b)
    assert b.held() == [1, 3]
    died_at = time.monotonic()
    await b.beat()  # its last
    moved_at: list[float] = []

    async def moved() -> bool:
        await a.release(await a.beat())
        if a.held() == [0, 1, 2, 3]:
            moved_at.append(time.monotonic())
        return bool(moved_at)

    await wait_until(moved, timeout_s=3.0)
    assert TTL_S - 0.02 <= moved_at[0] - died_at < TTL_S + 1.0
    assert b.held() == []


async def test_a_living_owner_keeps_its_partitions_however_long_it_takes(join: Join) -> None:
    slow, other = join("a", ttl_s=TTL_S), join("b", ttl_s=TTL_S)
    await slow.beat()
    since = time.monotonic()

    async def three_leases_later() -> bool:
        await slow.beat()  # it beats, and gives nothing up: it still works on all of it
        await other.beat()
        assert slow.held() == [0, 1, 2, 3]
        assert other.held() == []
        return time.monotonic() - since > 3 * TTL_S

    await wait_until(three_leases_later)


async def test_a_lease_that_may_have_lapsed_is_not_held(join: Join) -> None:
    cut_off = join("a", ttl_s=TTL_S)
    await cut_off.beat()
    assert cut_off.held() == [0, 1, 2, 3]
    await wait_until(lambda: cut_off.held() == [])


async def test_an_owner_that_lost_its_lease_does_not_hold_it_again_beside_the_new_one(join: Join) -> None:
    a, b = join("a", ttl_s=TTL_S), join("b", ttl_s=TTL_S)
    await a.beat()

    async def taken() -> bool:
        await b.beat()
        return b.held() == [0, 1, 2, 3]

    await wait_until(taken)
    await a.beat()
    assert a.held() == []


async def test_a_member_that_leaves_frees_its_partitions_at_once(join: Join) -> None:
    a, b = join("a"), join("b")
    await settle_down(a, b)
    await b.release(b.held(), leave=True)
    assert b.held() == []
    await a.beat()
    assert a.held() == [0, 1, 2, 3]


async def test_a_lease_that_went_to_another_is_not_held(
    join: Join, keys: LaneKeys, client: aioredis.Redis
) -> None:
    a = join("a")
    await a.beat()
    await client.set(keys.lease(2), "b", px=30_000)  # the server lost ours, and another came first
    await a.beat()
    assert a.held() == [0, 1, 3]


async def test_releasing_what_another_owns_changes_nothing(
    join: Join, keys: LaneKeys, client: aioredis.Redis
) -> None:
    a, b = join("a"), join("b")
    await settle_down(a, b)
    await b.release([0, 2])
    assert await client.get(keys.lease(0)) == b"a"
    await b.beat()
    await a.beat()
    assert (a.held(), b.held()) == ([0, 2], [1, 3])


async def test_releasing_nothing_asks_nothing(join: Join, keys: LaneKeys, client: aioredis.Redis) -> None:
    await join("a").release([])
    assert not await client.exists(keys.members)


async def test_a_member_restarted_under_its_name_resumes_at_once(join: Join) -> None:
    a, b = join("a"), join("b")
    await settle_down(a, b)
    again = join("b")
    await again.beat()
    assert again.held() == [1, 3]
    assert await a.beat() == []


async def test_every_lease_has_a_ttl(join: Join, keys: LaneKeys, client: aioredis.Redis) -> None:
    await join("a").beat()
    ttls = [await client.pttl(keys.lease(partition)) for partition in range(4)]
    assert all(0 < ttl <= LONG_TTL_S * 1000 for ttl in ttls)


async def test_members_that_join_at_once_agree(join: Join) -> None:
    members = [join(f"m{i}", partitions=16) for i in range(5)]

    async def beat(member: Leases) -> None:
        await member.release(await member.beat())

    for _ in range(4):
        await asyncio.gather(*(beat(member) for member in members))
    assert sorted(p for member in members for p in member.held()) == list(range(16))


async def test_without_a_server_a_heartbeat_is_unavailable(keys: LaneKeys) -> None:
    nowhere = connect("redis://127.0.0.1:1/0", timeout_s=0.2)
    lost = Leases(nowhere, keys=keys, name="a", partitions=2, policy=LeasePolicy(), clock=SystemClock())
    with pytest.raises(StorageUnavailableError):
        await lost.beat()
    with pytest.raises(StorageUnavailableError):
        await lost.release([0])
    assert lost.held() == []
    await nowhere.aclose()


async def test_a_process_whose_name_another_took_gets_and_frees_nothing(
    join: Join, keys: LaneKeys, client: aioredis.Redis
) -> None:
    woken = join("a", ttl_s=TTL_S)
    await woken.beat()
    await wait_until(lambda: woken.held() == [])
    newer = join("a")
    await newer.beat()
    assert newer.held() == [0, 1, 2, 3]
    assert await woken.acquire([0, 1]) == []
    assert await woken.beat() == []
    assert (woken.held(), woken.superseded) == ([], True)
    await woken.release([0, 1], leave=True)
    assert await client.get(keys.lease(0)) == b"a"
    await newer.beat()
    assert (newer.held(), newer.superseded) == ([0, 1, 2, 3], False)


async def test_a_lapsed_lease_is_taken_again_only_where_nobody_else_has_it(join: Join) -> None:
    woken, other = join("a", ttl_s=TTL_S), join("b", partitions=2, ttl_s=1.0)
    await woken.beat()
    await wait_until(lambda: woken.held() == [])

    async def taken() -> bool:
        await other.beat()
        return other.held() == [0, 1]

    await wait_until(taken)
    assert await woken.acquire([0, 2, 3]) == [2, 3]
    assert woken.held() == [2, 3]


async def test_a_server_that_lost_its_data_learns_the_names_again(
    join: Join, keys: LaneKeys, client: aioredis.Redis
) -> None:
    a = join("a")
    await a.beat()
    await client.delete(keys.process("a"), keys.members, *(keys.lease(p) for p in range(4)))
    await a.beat()
    assert a.held() == [0, 1, 2, 3]
