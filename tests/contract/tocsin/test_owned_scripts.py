"""The scripts of storage, leases and reports on a real server. Every other script is tested through its owner."""

from __future__ import annotations

from collections import Counter

import pytest
from redis import asyncio as aioredis
from redis import exceptions as redis_errors

from tests.fakes import ManualClock
from tocsin.keys import GROUP, LaneKeys
from tocsin.storage.limit import create_group, execute_at_limit, execute_in_place
from tocsin.streams.leases import LeasePolicy, Leases
from tocsin.telemetry.reports import Reports


@pytest.fixture
def keys(namespace: str) -> LaneKeys:
    return LaneKeys(namespace, "p1")


async def test_commands_are_carried_out_in_order_where_what_is_expected_stands(
    client: aioredis.Redis, keys: LaneKeys
) -> None:
    pipe = client.pipeline(transaction=True)
    pipe.hincrby(keys.counts, "accepted", 2)
    pipe.hset(keys.counts, mapping={"accepted": "5", "dead": "1"})
    lease = keys.lease(0)
    assert await execute_at_limit(client, pipe, {lease: b""})
    assert await client.hgetall(keys.counts) == {b"accepted": b"5", b"dead": b"1"}
    assert not await execute_at_limit(client, pipe, {lease: b"", keys.lease(1): b"somebody"})
    await client.set(lease, "us", ex=60)
    await client.hset(keys.counts, "accepted", 9)
    assert not await execute_at_limit(client, pipe, {lease: b""})
    assert await client.hget(keys.counts, "accepted") == b"9"
    assert await execute_at_limit(client, pipe, {lease: b"us"})
    assert await execute_at_limit(client, client.pipeline(transaction=True), {lease: b"us"})


async def test_commands_in_place_of_a_retry_need_it_to_wait(client: aioredis.Redis, keys: LaneKeys) -> None:
    retries = keys.retries(0)
    await client.zadd(retries, {b"body": 1.0})
    pipe = client.pipeline(transaction=True)
    pipe.hincrby(keys.counts, "delivered", 1)
    assert await execute_in_place(client, pipe, retries, b"body")
    assert not await execute_in_place(client, pipe, retries, b"body")
    assert await client.hgetall(keys.counts) == {b"delivered": b"1"}
    assert not await client.exists(retries)


async def test_a_group_is_made_with_its_stream_and_once(client: aioredis.Redis, keys: LaneKeys) -> None:
    await create_group(client, keys.stream(0), GROUP)
    assert [group["name"] for group in await client.xinfo_groups(keys.stream(0))] == [GROUP.encode()]
    with pytest.raises(redis_errors.ResponseError, match="BUSYGROUP"):
        await create_group(client, keys.stream(0), GROUP)


async def test_reports_add_up_over_processes(client: aioredis.Redis, keys: LaneKeys) -> None:
    for grown in ({"storage": 2, "handler": 1}, {"storage": 3}):
        await Reports(client, keys.reports, lambda grown=grown: Counter(grown)).report()  # type: ignore[misc]
    assert await client.hgetall(keys.reports) == {b"storage": b"5", b"handler": b"1"}


async def test_a_release_leaves_the_leases_of_others(
    client: aioredis.Redis, keys: LaneKeys, clock: ManualClock
) -> None:
    ours, other = (
        Leases(client, keys=keys, name=name, partitions=2, policy=LeasePolicy(), clock=clock) for name in "ab"
    )
    await ours.beat()
    await client.set(keys.lease(1), "b", px=60_000)
    await ours.release([0, 1])
    assert await client.mget(keys.lease(0), keys.lease(1)) == [None, b"b"]
    assert await client.zrange(keys.members, 0, -1) == [b"a"]
    await ours.release([], leave=True)
    assert not await client.exists(keys.members)
    await other.beat()
    assert other.held() == [0, 1]
    assert 0 < await client.pttl(keys.lease(0)) <= 6000
