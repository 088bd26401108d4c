"""What every lane keeps, in memory and on a real server; then what only a real server can do wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec
import psutil
import pytest
from redis import asyncio as aioredis
from redis.asyncio.client import Pipeline

from tests.fakes import MemoryLane, wait_until
from tocsin.clock import SystemClock
from tocsin.errors import ConflictError, OverloadedError, StorageUnavailableError
from tocsin.keys import GROUP
from tocsin.storage.connect import connect
from tocsin.streams.lanes import Lane
from tocsin.streams.records import Entry, LaneDepth, Placement, Position, Record

Port = MemoryLane | Lane
NO_WAIT_MS = 1
EVERY = (0, 1, 2)


@pytest.fixture(params=["memory", "valkey"])
def lane(request: pytest.FixtureRequest) -> Port:
    if request.param == "memory":
        return MemoryLane(SystemClock(), partitions=3, block_records=4)
    found: Lane = request.getfixturevalue("valkey_lane")
    return found


def body(text: str) -> bytes:
    return msgspec.msgpack.encode(text)


def record(text: str, partition: int = 0, dedup_key: str = "") -> Record:
    return Record(partition, body(text), dedup_key)


def texts(entry: Entry) -> list[str]:
    return msgspec.msgpack.decode(entry.block, type=list[str])


def by_id(entries: Sequence[Entry]) -> dict[str, str]:
    return {entry.record_id(i): text for entry in entries for i, text in enumerate(texts(entry))}


async def read(lane: Port, consumer: str = "a", *, count: int = 10_000) -> list[Entry]:
    return await lane.read(consumer, EVERY[: lane.partitions], count=count, block_ms=NO_WAIT_MS)


def nothing(_pipe: Pipeline) -> None:
    return None


# --------------------------------------------------------------------------- append


async def test_placements_come_in_the_order_of_the_records(lane: Port) -> None:
    sent = [record(f"r{i}", partition=i % 3) for i in range(20)]
    placements = await lane.append(sent)
    stored = by_id(await read(lane))
    assert [stored[placement.id] for placement in placements] == [f"r{i}" for i in range(20)]
    assert len(stored) == 20
    assert not any(placement.duplicate for placement in placements)


async def test_an_id_says_lane_partition_entry_and_index(lane: Port) -> None:
    placements = await lane.append([record(f"r{i}", partition=2) for i in range(6)])
    entries = await read(lane)
    positions = [Position.parse(placement.id) for placement in placements]
    assert {position.lane for position in positions} == {"p0"}
    assert {position.partition for position in positions} == {2}
    assert [position.index for position in positions] == [0, 1, 2, 3, 0, 1]
    assert [p.entry for p in positions] == [entries[0].entry] * 4 + [entries[1].entry] * 2


async def test_records_of_a_partition_share_blocks_of_at_most_the_block_size(lane: Port) -> None:
    await lane.append([record(f"{partition}.{i}", partition) for i in range(9) for partition in (0, 1)])
    blocks = [(entry.partition, texts(entry)) for entry in await read(lane)]
    assert sorted((partition, len(block)) for partition, block in blocks) == [
        (0, 1),
        (0, 4),
        (0, 4),
        (1, 1),
        (1, 4),
        (1, 4),
    ]
    assert [t for p, block in blocks for t in block if p == 0] == [f"0.{i}" for i in range(9)]


async def test_blocks_enter_in_the_order_of_their_first_record(lane: Port) -> None:
    await lane.append([record("a"), record("b", dedup_key="k"), record("c"), record("d", dedup_key="l")])
    assert [texts(entry) for entry in await read(lane)] == [["a", "c"], ["b"], ["d"]]


async def test_two_appends_never_share_a_block(lane: Port) -> None:
    await lane.append([record("first")])
    await lane.append([record("second")])
    assert [texts(entry) for entry in await read(lane)] == [["first"], ["second"]]


async def test_no_record_is_no_entry(lane: Port) -> None:
    assert await lane.append([]) == []
    assert await lane.append([], idempotency_key="k", fingerprint="f") == []
    assert await lane.append([], idempotency_key="k", fingerprint="f") == []
    assert await read(lane) == []


async def test_ten_thousand_records_fit_in_one_append(lane: Port) -> None:
    placements = await lane.append([record(str(i), i % 3) for i in range(10_000)])
    stored = by_id(await read(lane))
    assert [stored[placement.id] for placement in placements] == [str(i) for i in range(10_000)]


async def test_ten_thousand_dedup_keys_fit_in_one_append(lane: Port) -> None:
    sent = [record(str(i), i % 3, dedup_key=f"k{i}") for i in range(10_000)]
    placements = await lane.append(sent)
    assert len({placement.id for placement in placements}) == 10_000
    again = await lane.append(sent)
    assert [placement.id for placement in again] == [placement.id for placement in placements]
    assert all(placement.duplicate for placement in again)


async def test_partitions_end_in_numbers_of_any_length(client: aioredis.Redis, namespace: str) -> None:
    lane = Lane(client, namespace=f"{namespace}", name="p2", partitions=123, block_records=1)
    placements = await lane.append([record("x", partition) for partition in (1, 12, 122)])
    assert [Position.parse(placement.id).partition for placement in placements] == [1, 12, 122]


# --------------------------------------------------------------------------- dedup and idempotency


async def test_a_repeated_dedup_key_returns_the_first_id_and_stores_nothing(lane: Port) -> None:
    (first,) = await lane.append([record("one", dedup_key="k")])
    other, repeat = await lane.append([record("other"), record("two", partition=1, dedup_key="k")])
    assert repeat == Placement(first.id, duplicate=True)
    assert not other.duplicate
    assert sorted(by_id(await read(lane)).values()) == ["one", "other"]


async def test_a_dedup_key_twice_in_one_append_is_stored_once(lane: Port) -> None:
    first, other, second = await lane.append(
        [record("one", dedup_key="k"), record("other"), record("two", dedup_key="k")]
    )
    assert second == Placement(first.id, duplicate=True)
    assert (first.duplicate, other.duplicate) == (False, False)
    assert sorted(by_id(await read(lane)).values()) == ["one", "other"]


async def test_a_dedup_key_outlives_its_record(lane: Port) -> None:
    (first,) = await lane.append([record("one", dedup_key="k")])
    await lane.settle(await read(lane), nothing)
    assert await lane.append([record("two", dedup_key="k")]) == [Placement(first.id, duplicate=True)]
    assert await read(lane) == []


async def test_of_fifty_concurrent_senders_with_one_dedup_key_one_is_stored(lane: Port) -> None:
    answers = await asyncio.gather(*(lane.append([record(str(i), i % 3, "k")]) for i in range(50)))
    placements = [placement for (placement,) in answers]
    assert len({placement.id for placement in placements}) == 1
    assert sum(not placement.duplicate for placement in placements) == 1
    assert len(by_id(await read(lane))) == 1


async def test_a_repeated_request_returns_the_first_placements(lane: Port) -> None:
    sent = [record("a"), record("b", 1), record("c", dedup_key="k"), record("d")]
    first = await lane.append(sent, idempotency_key="request", fingerprint="f")
    again = await lane.append(sent, idempotency_key="request", fingerprint="f")
    assert again == [Placement(placement.id, duplicate=True) for placement in first]
    assert len(by_id(await read(lane))) == 4


async def test_fifty_concurrent_repeats_of_a_request_are_stored_once(lane: Port) -> None:
    sent = [record("a"), record("b", 1)]
    answers = await asyncio.gather(
        *(lane.append(sent, idempotency_key="request", fingerprint="f") for _ in range(50))
    )
    assert len({tuple(placement.id for placement in answer) for answer in answers}) == 1
    assert len(by_id(await read(lane))) == 2


async def test_an_idempotency_key_with_another_fingerprint_is_a_conflict_and_stores_nothing(
    lane: Port,
) -> None:
    await lane.append([record("a")], idempotency_key="request", fingerprint="f")
    with pytest.raises(ConflictError):
        await lane.append([record("b")], idempotency_key="request", fingerprint="g")
    assert list(by_id(await read(lane)).values()) == ["a"]


async def test_requests_without_an_idempotency_key_are_each_stored(lane: Port) -> None:
    await lane.append([record("a")], fingerprint="f")
    await lane.append([record("a")], fingerprint="f")
    assert len(by_id(await read(lane))) == 2


# --------------------------------------------------------------------------- read and claim


async def test_only_what_is_new_is_read(lane: Port) -> None:
    await lane.append([record("a")])
    assert [texts(entry) for entry in await read(lane)] == [["a"]]
    await lane.append([record("b")])
    assert [texts(entry) for entry in await read(lane)] == [["b"]]


async def test_what_is_pending_is_not_read_again_by_anybody(lane: Port) -> None:
    await lane.append([record("a")])
    await read(lane, "a")
    assert await read(lane, "a") == []
    assert await read(lane, "b") == []


async def test_only_the_partitions_asked_for_are_read(lane: Port) -> None:
    await lane.append([record("zero", 0), record("one", 1)])
    found = await lane.read("a", [1], count=10, block_ms=NO_WAIT_MS)
    assert [(entry.partition, texts(entry)) for entry in found] == [(1, ["one"])]
    assert [texts(entry) for entry in await read(lane)] == [["zero"]]


async def test_a_read_takes_at_most_count_blocks_a_partition_oldest_first(lane: Port) -> None:
    for i in range(5):
        await lane.append([record(f"r{i}")])
    assert [texts(entry) for entry in await read(lane, count=3)] == [["r0"], ["r1"], ["r2"]]
    assert [texts(entry) for entry in await read(lane, count=3)] == [["r3"], ["r4"]]


async def test_a_waiting_read_returns_as_soon_as_something_comes(lane: Port) -> None:
    waiting = asyncio.create_task(lane.read("a", EVERY, count=1, block_ms=1500))
    started = time.monotonic()
    await lane.append([record("a", 2)])
    assert [texts(entry) for entry in await waiting] == [["a"]]
    assert time.monotonic() - started < 1.0


async def test_claim_takes_over_what_another_consumer_left(lane: Port) -> None:
    await lane.append([record(str(i)) for i in range(6)])
    left = await read(lane, "dead")
    claimed = await lane.claim("heir", 0, min_idle_ms=0)
    assert claimed == left
    await lane.settle(claimed, nothing)
    assert (await lane.depth()).pending == 0


async def test_claim_leaves_other_partitions_alone(lane: Port) -> None:
    await lane.append([record("zero", 0), record("one", 1)])
    await read(lane, "dead")
    assert [texts(entry) for entry in await lane.claim("heir", 1, min_idle_ms=0)] == [["one"]]


async def test_claim_leaves_what_is_worked_on_and_takes_what_lies_idle(lane: Port) -> None:
    await lane.append([record("a")])
    await read(lane, "slow")
    assert await lane.claim("heir", 0, min_idle_ms=60_000) == []
    claimed: list[Entry] = []

    async def idle_long_enough() -> bool:
        claimed.extend(await lane.claim("heir", 0, min_idle_ms=30))
        return bool(claimed)

    await wait_until(idle_long_enough)
    assert [texts(entry) for entry in claimed] == [["a"]]
    assert await lane.claim("slow", 0, min_idle_ms=60_000) == []


async def test_a_claim_takes_any_number_of_blocks(lane: Port) -> None:
    await lane.append([record(str(i), dedup_key=str(i)) for i in range(250)])
    left = await read(lane, "dead")
    assert len(left) == 250
    assert await lane.claim("heir", 0, min_idle_ms=0) == left


# --------------------------------------------------------------------------- settle, promote, depth


async def test_settled_blocks_are_gone(lane: Port) -> None:
    await lane.append([record("a", 0), record("b", 1), record("c", 2)])
    entries = await read(lane)
    await lane.settle(entries[:2], nothing)
    assert await lane.depth() == LaneDepth(blocks=1, pending=1, retrying=0)
    assert [texts(e) for p in EVERY for e in await lane.claim("b", p, min_idle_ms=0)] == [["c"]]


async def test_settling_again_what_was_settled_writes_nothing_twice(lane: Port) -> None:
    await lane.append([record("a")])
    entries = await read(lane)

    def once(pipe: Pipeline) -> None:
        pipe.zadd(lane.keys.retries(0), {body(f"retry {len(seen)}"): 0.0})
        seen.append(1)

    seen: list[int] = []
    await lane.settle(entries, once, again=True)  # the first try never arrived: this one counts
    await lane.settle(entries, once, again=True)  # the first try arrived, its answer did not
    assert (await lane.depth()).retrying == 1


async def test_a_stage_that_raises_leaves_everything_as_it_was(lane: Port) -> None:
    await lane.append([record("a")])
    entries = await read(lane)

    def broken(pipe: Pipeline) -> None:
        pipe.zadd(lane.keys.retries(0), {body("again"): 0.0})
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        await lane.settle(entries, broken)
    assert await lane.depth() == LaneDepth(blocks=1, pending=1, retrying=0)


async def schedule(lane: Port, due: dict[str, float], partition: int = 0) -> None:
    """Put retries in the only way there is: staged with the settling of a block."""
    await lane.append([record("first try", partition)])
    entries = await read(lane)

    def stage(pipe: Pipeline) -> None:
        pipe.zadd(lane.keys.retries(partition), {body(text): at for text, at in due.items()})

    await lane.settle(entries, stage)


async def test_what_a_stage_schedules_is_there_when_its_block_is_gone(lane: Port) -> None:
    await schedule(lane, {"again": 100.0})
    assert await lane.depth() == LaneDepth(blocks=0, pending=0, retrying=1)


async def test_promote_moves_what_is_due_and_nothing_else(lane: Port) -> None:
    await schedule(lane, {"late": 100.1, "early": 99.0, "due": 100.0})
    assert await lane.promote(0, 100.0, limit=10) == 2
    assert [texts(entry) for entry in await read(lane)] == [["early"], ["due"]]
    assert await lane.promote(0, 100.0, limit=10) == 0
    assert (await lane.depth()).retrying == 1


async def test_promote_moves_at_most_its_limit_the_longest_due_first(lane: Port) -> None:
    await schedule(lane, {str(i): 100.0 + i for i in range(5)})
    assert await lane.promote(0, 200.0, limit=2) == 2
    assert [texts(entry) for entry in await read(lane)] == [["0"], ["1"]]
    assert (await lane.depth()).retrying == 3


async def test_promote_looks_at_its_own_partition_only(lane: Port) -> None:
    await schedule(lane, {"again": 1.0}, partition=1)
    assert await lane.promote(0, 200.0, limit=10) == 0
    assert await lane.promote(1, 200.0, limit=10) == 1
    assert [(entry.partition, texts(entry)) for entry in await read(lane)] == [(1, ["again"])]


async def test_depth_counts_blocks_waiting_pending_and_retrying(lane: Port) -> None:
    assert await lane.depth() == LaneDepth(blocks=0, pending=0, retrying=0)
    await schedule(lane, {"x": 100.0, "y": 100.0}, partition=2)
    await lane.append([record(str(i), 0) for i in range(5)])
    await lane.append([record("z", 1)])
    assert await lane.depth() == LaneDepth(blocks=3, pending=0, retrying=2)
    await lane.read("a", [0], count=1, block_ms=NO_WAIT_MS)
    assert await lane.depth() == LaneDepth(blocks=3, pending=1, retrying=2)


# --------------------------------------------------------------------------- a real server


async def test_accepted_counts_records_stored_and_no_repeats(
    valkey_lane: Lane, client: aioredis.Redis
) -> None:
    lane = valkey_lane
    for _ in range(2):
        await lane.append([record("a"), record("b")], idempotency_key="request", fingerprint="f")
        await lane.append([record("c", dedup_key="k")])
    await lane.append([record(str(i), i % 3) for i in range(10)])
    assert await client.hget(lane.keys.counts, "accepted") == b"13"


async def test_acknowledgement_trim_and_stage_are_one_transaction(
    valkey_lane: Lane, client: aioredis.Redis
) -> None:
    lane = valkey_lane
    await lane.append([record("a")])
    entries = await read(lane)

    def count(pipe: Pipeline) -> None:
        pipe.hincrby(lane.keys.counts, "delivered", 1)

    async with client.monitor() as monitor:
        await lane.settle(entries, count)
        commands: list[str] = []
        while not commands or commands[-1] != "EXEC":
            commands.append((await monitor.next_command())["command"].split()[0].upper())
    assert commands[commands.index("MULTI") :] == ["MULTI", "HINCRBY", "XACK", "XDEL", "EXEC"]


async def test_a_group_lost_with_all_data_is_made_anew(valkey_lane: Lane, client: aioredis.Redis) -> None:
    lane = valkey_lane
    await lane.append([record("lost")])
    await client.flushall()
    assert await read(lane) == []
    (placement,) = await lane.append([record("new")])
    assert by_id(await read(lane)) == {placement.id: "new"}


async def test_a_claim_outlives_a_lost_group(valkey_lane: Lane, client: aioredis.Redis) -> None:
    await client.flushall()
    assert await valkey_lane.claim("a", 0, min_idle_ms=0) == []
    await valkey_lane.append([record("new")])
    assert [texts(entry) for entry in await read(valkey_lane)] == [["new"]]


async def test_what_was_appended_before_the_group_existed_is_read(
    client: aioredis.Redis, namespace: str
) -> None:
    lane = Lane(client, namespace=namespace, name="p0", partitions=3, block_records=4)
    await lane.append([record("early")])
    assert (await lane.depth()).blocks == 1
    await read(lane)
    assert [texts(entry) for entry in await read(lane)] == [["early"]]


async def test_making_groups_twice_is_harmless(valkey_lane: Lane, client: aioredis.Redis) -> None:
    await valkey_lane.append([record("a")])
    await read(valkey_lane)
    await valkey_lane.ensure_groups()
    assert (await valkey_lane.depth()).pending == 1
    assert len(await client.xinfo_groups(valkey_lane.keys.stream(0))) == 1
    assert (await client.xinfo_groups(valkey_lane.keys.stream(0)))[0]["name"] == GROUP.encode()


async def test_peek_finds_a_block_until_it_is_settled(valkey_lane: Lane, client: aioredis.Redis) -> None:
    (placement,) = await valkey_lane.append([record("a", 1)])
    position = Position.parse(placement.id)

    async def peek() -> Entry | None:
        async with client.pipeline(transaction=True) as pipe:
            valkey_lane.stage_peek(pipe, position)
            (answer,) = await pipe.execute()
        return valkey_lane.peeked(answer, position)

    found = await peek()
    assert found is not None
    assert texts(found) == ["a"]
    await valkey_lane.settle(await read(valkey_lane), nothing)
    assert await peek() is None


async def test_a_server_at_its_memory_limit_is_overloaded_and_stores_none_of_the_records(
    valkey_lane: Lane, client: aioredis.Redis
) -> None:
    lane = valkey_lane
    await lane.append([record("before")])
    await client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(OverloadedError) as caught:
            await lane.append([record(str(i), i % 3) for i in range(20)], idempotency_key="k")
    finally:
        await client.config_set("maxmemory", "0")
    assert caught.value.retryable
    assert caught.value.retry_after_s > 0
    assert (await lane.depth()).blocks == 1
    stored = await lane.append([record(str(i)) for i in range(4)], idempotency_key="k")
    assert not any(placement.duplicate for placement in stored)


async def test_a_server_that_hangs_is_unavailable_within_the_timeout(
    url: str, valkey_lane: Lane, process: psutil.Process, namespace: str
) -> None:
    impatient = connect(url, timeout_s=0.1)
    lane = Lane(impatient, namespace=namespace, name="p0", partitions=3, block_records=4)
    await lane.depth()  # connected
    process.suspend()
    try:
        for call in (
            lane.append([record("a")]),
            lane.read("a", EVERY, count=1, block_ms=NO_WAIT_MS),
            lane.claim("a", 0, min_idle_ms=0),
            lane.settle([Entry("p0", 0, "1-0", 1, b"\x90")], nothing),
            lane.promote(0, 0.0, limit=1),
            lane.depth(),
        ):
            started = time.monotonic()
            with pytest.raises(StorageUnavailableError) as caught:
                await call
            assert time.monotonic() - started < 1.0
            assert caught.value.retryable
    finally:
        process.resume()
        await impatient.aclose()


async def test_a_killed_server_is_unavailable_and_comes_back_with_all_it_confirmed(
    valkey_lane: Lane, process: psutil.Process
) -> None:
    lane = valkey_lane
    placements = await lane.append([record(str(i), i % 3) for i in range(10)])
    process.kill()
    with pytest.raises(StorageUnavailableError):
        await lane.append([record("lost")])

    async def back() -> bool:
        try:
            return (await lane.depth()).blocks >= 3
        except StorageUnavailableError:
            return False

    await wait_until(back, timeout_s=15.0, every_s=0.02)
    stored = by_id(await read(lane))
    assert [stored[placement.id] for placement in placements] == [str(i) for i in range(10)]
    assert "lost" not in stored.values()
