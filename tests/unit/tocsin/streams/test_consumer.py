from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest
from redis.asyncio.client import Pipeline

from tests.fakes import FixedOwnership, ManualClock, MemoryLane, wait_until
from tocsin.errors import StateMovedError, StorageUnavailableError
from tocsin.streams.consumer import Consumer, ConsumerPolicy, ConsumerState
from tocsin.streams.ports import Hold
from tocsin.streams.records import Entry, LaneDepth, Record, Writes
from tocsin.streams.work_unit import in_units

EMPTY = LaneDepth(blocks=0, pending=0, retrying=0)
DOWN = StorageUnavailableError("storage is unavailable")
POLICY = ConsumerPolicy(
    unit_entries=1,
    read_entries=8,
    concurrency=4,
    block_ms=2,
    heartbeat_s=0.002,
    promote_every_s=0.002,
    requeue_s=0.005,
    heal_backoff_s=(0.001, 0.002),
)


def text(entry: Entry) -> str:
    (found,) = msgspec.msgpack.decode(entry.block, type=list[str])
    return found


class Worker:
    """Notes what it is given; fails or waits as told."""

    def __init__(self) -> None:
        self.handled: list[str] = []
        self.sizes: list[int] = []
        self.at_once = 0
        self.most_at_once = 0
        self.failures: dict[str, int] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def handle(self, entries: Sequence[Entry], hold: Hold) -> Writes:  # noqa: ARG002 (those still held)
        names = [text(entry) for entry in hold.begin()]
        self.handled += names
        self.sizes.append(len(names))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.wait()
            for name in names:
                if self.failures.get(name, 0) > 0:
                    self.failures[name] -= 1
                    raise RuntimeError(f"{name} cannot be handled")
        finally:
            self.at_once -= 1

        def stage(pipe: Pipeline) -> None:
            for name in names:
                pipe.set(name, "done")

        return stage


class Bench:
    """A consumer on a lane in memory, and everything around it."""

    def __init__(self, clock: ManualClock, policy: ConsumerPolicy = POLICY) -> None:
        self.clock = clock
        self.lane = MemoryLane(clock, partitions=2)
        self.ownership = FixedOwnership([0, 1])
        self.worker = Worker()
        self.consumer = Consumer(self.lane, self.ownership, self.worker, policy=policy, clock=clock)

    async def send(self, *names: str, partition: int = 0) -> None:
        for name in names:
            await self.lane.append([Record(partition, msgspec.msgpack.encode(name))])

    def done(self) -> list[str]:
        return [name for name, _ in self.lane.pipe.named("set")]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.consumer.run())
        try:
            yield
        finally:
            self.worker.gate.set()
            self.consumer.stop()
            await asyncio.wait_for(task, 5)
        assert self.consumer.state is ConsumerState.STOPPED

    async def beats(self, more: int = 2) -> None:
        target = self.ownership.beats + more
        await wait_until(lambda: self.ownership.beats >= target)

    async def turns(self, more: int = 3) -> None:
        """Wait until the loop went round a few times."""
        target = self.lane.calls.count("read") + more
        await wait_until(lambda: self.lane.calls.count("read") >= target)


@pytest.fixture
async def bench(clock: ManualClock) -> Bench:
    return Bench(clock)


def is_empty(bench: Bench) -> Callable[[], bool]:
    return lambda: bench.lane.waiting() == []


# --------------------------------------------------------------------------- the work


async def test_what_comes_is_handled_once_and_settled_with_its_writes(bench: Bench) -> None:
    async with bench.running():
        await bench.send("a", "b")
        await bench.send("c", partition=1)
        await wait_until(is_empty(bench))
    assert sorted(bench.worker.handled) == sorted(bench.done()) == ["a", "b", "c"]
    assert await bench.lane.depth() == EMPTY
    assert bench.consumer.handled_blocks == 3


async def test_work_on_state_that_moved_is_done_again(bench: Bench) -> None:
    bench.lane.faults["settle"] = deque([StateMovedError("moved"), StateMovedError("moved")])
    await bench.send("a")
    async with bench.running():
        await wait_until(is_empty(bench))
    assert bench.worker.handled == ["a", "a", "a"]
    assert bench.done() == ["a"]
    assert bench.consumer.failures == 0


async def test_what_another_one_settled_meanwhile_is_not_done_again(bench: Bench) -> None:
    bench.worker.gate.clear()
    bench.lane.faults["settle"] = deque([StateMovedError("moved")])
    await bench.send("a")
    async with bench.running():
        await wait_until(lambda: bench.worker.handled == ["a"])
        bench.lane._streams[0].clear()
        bench.worker.gate.set()
        await wait_until(lambda: "unsettled" in bench.lane.calls)
        await bench.turns()
    assert bench.worker.handled == ["a"]
    assert bench.done() == []


async def test_units_are_bounded_by_blocks_and_by_bytes() -> None:
    def sizes(blocks: list[int], most: int, most_bytes: int) -> list[list[int]]:
        entries = [Entry("p1", 0, f"1-{n}", 1, b"x" * size) for n, size in enumerate(blocks)]
        return [[len(one.block) for one in unit] for unit in in_units(entries, most, most_bytes)]

    assert sizes([1, 1, 1, 1, 1], 2, 100) == [[1, 1], [1, 1], [1]]
    assert sizes([4, 4, 4, 9, 1], 9, 8) == [[4, 4], [4], [9], [1]]
    assert sizes([], 2, 2) == []


async def test_reads_keep_their_distance(clock: ManualClock) -> None:
    bench = Bench(clock, msgspec.structs.replace(POLICY, read_every_s=30.0))
    async with bench.running():
        await wait_until(lambda: bench.lane.calls.count("read") == 1)
        await bench.beats(5)
        assert bench.lane.calls.count("read") == 1


async def test_a_block_is_acknowledged_after_the_work_and_not_before(bench: Bench) -> None:
    bench.worker.gate.clear()
    await bench.send("a")
    async with bench.running():
        await wait_until(lambda: bench.worker.handled == ["a"])
        await bench.turns()
        assert (await bench.lane.depth()).pending == 1
        assert bench.consumer.in_flight == 1
        bench.worker.gate.set()
        await wait_until(is_empty(bench))
    assert bench.done() == ["a"]


async def test_blocks_are_handled_together_up_to_the_unit(clock: ManualClock) -> None:
    bench = Bench(clock, msgspec.structs.replace(POLICY, unit_entries=3, read_entries=7))
    await bench.send(*"abcdefg")
    async with bench.running():
        await wait_until(is_empty(bench))
    assert sorted(bench.worker.sizes) == [1, 3, 3]


async def test_no_more_units_are_in_flight_than_the_policy_allows(bench: Bench) -> None:
    bench.worker.gate.clear()
    await bench.send(*"abcdefgh")
    async with bench.running():
        await wait_until(lambda: bench.worker.at_once == POLICY.concurrency)
        await bench.beats(3)
        assert bench.consumer.in_flight == POLICY.concurrency
        bench.worker.gate.set()
        await wait_until(is_empty(bench))
    assert bench.worker.most_at_once == POLICY.concurrency
    assert sorted(bench.worker.handled) == list("abcdefgh")


async def test_work_that_raises_stays_pending_and_is_tried_again(bench: Bench) -> None:
    bench.worker.failures = {"bad": 2}
    await bench.send("bad", "good")
    async with bench.running():
        await wait_until(lambda: bench.done() == ["good"])
        assert [text(entry) for entry in bench.lane.waiting()] == ["bad"]
        await wait_until(is_empty(bench))
    assert bench.worker.handled.count("bad") == 3
    assert bench.done() == ["good", "bad"]


async def test_work_that_keeps_raising_is_left_pending_at_the_end(bench: Bench) -> None:
    bench.worker.failures = {"bad": 10**9}
    await bench.send("bad")
    async with bench.running():
        await wait_until(lambda: bench.worker.handled.count("bad") >= 2)
    assert await bench.lane.depth() == LaneDepth(blocks=1, pending=1, retrying=0)
    assert bench.done() == []


async def test_retries_are_promoted_when_they_are_due(bench: Bench) -> None:
    await bench.send("first")
    body = msgspec.msgpack.encode("again")

    def schedule(pipe: Pipeline) -> None:
        pipe.zadd(bench.lane.keys.retries(0), {body: bench.clock.now() + 30.0})

    await bench.lane.settle(await bench.lane.read("x", [0], count=1, block_ms=0), schedule)
    async with bench.running():
        await bench.turns()
        assert bench.worker.handled == []
        bench.clock.advance(30.0)
        await wait_until(lambda: bench.done() == ["again"])


# --------------------------------------------------------------------------- partitions that come and go


async def test_what_the_last_owner_left_pending_is_claimed_and_comes_first(bench: Bench) -> None:
    await bench.send("left", "behind")
    await bench.lane.read("dead", [0], count=8, block_ms=0)
    await bench.send("new")
    async with bench.running():
        await wait_until(is_empty(bench))
    assert bench.worker.handled == ["left", "behind", "new"]


async def test_without_a_partition_nothing_is_read(bench: Bench) -> None:
    bench.ownership.owned = set()
    await bench.send("a")
    async with bench.running():
        await bench.beats(5)
        assert "read" not in bench.lane.calls
        assert bench.worker.handled == []
        bench.ownership.owned = {0}
        await wait_until(is_empty(bench))


async def test_a_partition_of_another_is_left_alone(bench: Bench) -> None:
    bench.ownership.owned = {1}
    await bench.send("theirs", partition=0)
    await bench.send("ours", partition=1)
    async with bench.running():
        await wait_until(lambda: bench.done() == ["ours"])
        await bench.turns()
    assert [text(entry) for entry in bench.lane.waiting()] == ["theirs"]


async def test_a_surplus_partition_is_drained_before_it_is_given_up(bench: Bench) -> None:
    bench.worker.gate.clear()
    await bench.send("slow")
    async with bench.running():
        await wait_until(lambda: bench.worker.handled == ["slow"])
        bench.ownership.surplus = {0}
        await bench.beats()
        await bench.send("next")
        await bench.turns()
        assert bench.ownership.released == []  # still at work on it
        assert bench.worker.handled == ["slow"]  # and takes nothing new from it
        bench.worker.gate.set()
        await wait_until(lambda: bench.ownership.released == [0])
        assert bench.done() == ["slow"]
        await bench.turns()
    assert bench.worker.handled == ["slow"]
    assert [text(entry) for entry in bench.lane.waiting()] == ["next"]


async def test_an_idle_surplus_partition_is_given_up_at_once_and_the_other_kept(bench: Bench) -> None:
    async with bench.running():
        await bench.turns(1)
        bench.ownership.surplus = {1}
        await wait_until(lambda: bench.ownership.released == [1])
        await bench.send("kept", partition=0)
        await wait_until(lambda: bench.done() == ["kept"])


async def test_entries_of_a_lost_partition_are_not_handled(clock: ManualClock) -> None:
    bench = Bench(clock, msgspec.structs.replace(POLICY, concurrency=1))
    bench.worker.gate.clear()
    await bench.send("slow", partition=1)
    async with bench.running():
        await wait_until(lambda: bench.worker.handled == ["slow"])
        await bench.send("lost", partition=0)
        bench.ownership.owned = {1}
        bench.worker.gate.set()
        await bench.turns()
    assert bench.worker.handled == ["slow"]
    assert [text(entry) for entry in bench.lane.waiting()] == ["lost"]


async def test_what_was_read_before_its_partition_was_lost_is_left_to_the_new_owner(
    clock: ManualClock,
) -> None:
    bench = Bench(clock, msgspec.structs.replace(POLICY, concurrency=1))
    bench.worker.gate.clear()
    await bench.send("first", "second")
    async with bench.running():
        await wait_until(lambda: bench.worker.handled == ["first"])
        assert len(bench.lane.owners()) == 2  # the second waits for a slot
        bench.ownership.owned = {1}
        bench.worker.gate.set()
        await bench.turns()
    assert bench.worker.handled == ["first"]
    assert "second" in [text(entry) for entry in bench.lane.waiting()]


PATIENT = msgspec.structs.replace(POLICY, block_ms=50, promote_every_s=60.0)  # nobody but the loop looks
NEXT_READ: set[int] = set()


async def test_a_partition_lost_between_reading_and_working_and_back_loses_no_work(
    clock: ManualClock,
) -> None:
    bench = Bench(clock, PATIENT)
    async with bench.running():
        await wait_until(lambda: "read" in bench.lane.calls)
        bench.ownership.lapsed.extend([NEXT_READ, {0, 1}])  # gone for one look: as the work begins
        await bench.send("dropped")
        await wait_until(is_empty(bench), timeout_s=2.0)
    assert bench.worker.handled == bench.done() == ["dropped"]


async def test_what_a_unit_dropped_is_claimed_while_the_rest_of_it_is_in_flight(clock: ManualClock) -> None:
    bench = Bench(clock, msgspec.structs.replace(PATIENT, unit_entries=2))
    bench.worker.gate.clear()
    async with bench.running():
        await wait_until(lambda: "read" in bench.lane.calls)
        bench.ownership.lapsed.extend([NEXT_READ, {0}])
        await bench.send("dropped", partition=0)
        await bench.send("slow", partition=1)
        await wait_until(lambda: bench.worker.handled == ["slow", "dropped"], timeout_s=2.0)
        bench.worker.gate.set()
        await wait_until(is_empty(bench))
    assert sorted(bench.done()) == ["dropped", "slow"]


async def test_work_that_raised_is_not_tried_again_after_its_partition_was_lost(clock: ManualClock) -> None:
    bench = Bench(clock, msgspec.structs.replace(POLICY, requeue_s=0.05))
    bench.worker.failures = {"bad": 10**9}
    await bench.send("bad")
    async with bench.running():
        await wait_until(lambda: bench.worker.handled == ["bad"])
        bench.ownership.owned = {1}
        await wait_until(lambda: bench.consumer.in_flight == 0)
    assert bench.worker.handled == ["bad"]
    assert (await bench.lane.depth()).pending == 1


async def test_a_claim_does_not_hand_out_what_is_in_flight(bench: Bench) -> None:
    bench.worker.gate.clear()
    await bench.send("slow")
    async with bench.running():
        await wait_until(lambda: bench.worker.handled == ["slow"])
        claims = bench.lane.calls.count("claim")
        bench.ownership.owned = {1}
        await bench.turns()
        bench.ownership.owned = {0, 1}
        await wait_until(lambda: bench.lane.calls.count("claim") > claims)
        await bench.turns()
        assert bench.worker.handled == ["slow"]
        bench.worker.gate.set()
        await wait_until(is_empty(bench))
    assert bench.done() == ["slow"]


# --------------------------------------------------------------------------- storage that fails


@pytest.mark.parametrize("method", ["read", "claim"])
async def test_the_loop_heals_when_storage_answers_again(bench: Bench, method: str) -> None:
    bench.lane.faults[method].extend([DOWN] * 4)
    async with bench.running():
        await wait_until(lambda: bench.consumer.state is ConsumerState.HEALING)
        await bench.send("a")
        await wait_until(is_empty(bench))
        await wait_until(lambda: bench.consumer.state is ConsumerState.CONSUMING)
    assert bench.consumer.failures == 4
    assert bench.worker.handled == ["a"]


async def test_a_claim_that_failed_is_made_again(bench: Bench) -> None:
    await bench.send("left")
    await bench.lane.read("dead", [0], count=8, block_ms=0)
    bench.lane.faults["claim"].append(DOWN)
    async with bench.running():
        await wait_until(is_empty(bench))
    assert bench.worker.handled == ["left"]


async def test_work_that_is_done_is_settled_until_storage_confirms_and_not_done_again(bench: Bench) -> None:
    bench.lane.faults["settle"].extend([DOWN] * 5)
    await bench.send("a")
    async with bench.running():
        await wait_until(is_empty(bench))
    assert bench.worker.handled == bench.done() == ["a"]
    assert bench.consumer.failures == 5


async def test_a_fault_of_ours_in_settling_strands_no_block(bench: Bench) -> None:
    bench.lane.faults["settle"].append(TypeError("a fault of ours"))
    await bench.send("a")
    async with bench.running():
        await wait_until(is_empty(bench))
    assert bench.worker.handled == bench.done() == ["a"]


async def test_heartbeats_and_promotion_outlive_failures(bench: Bench) -> None:
    bench.ownership.faults.extend([DOWN] * 3)
    bench.lane.faults["promote"].extend([DOWN] * 3)
    async with bench.running():
        await wait_until(lambda: bench.consumer.failures == 6)
        await bench.beats()
        await bench.send("a")
        await wait_until(is_empty(bench))


# --------------------------------------------------------------------------- the end


async def test_stop_finishes_what_is_in_flight_takes_no_more_and_leaves(bench: Bench) -> None:
    bench.worker.gate.clear()
    await bench.send("slow")
    task = asyncio.create_task(bench.consumer.run())
    await wait_until(lambda: bench.worker.handled == ["slow"])
    bench.consumer.stop()
    await wait_until(lambda: bench.consumer.state is ConsumerState.DRAINING)
    await bench.send("late")
    await bench.beats()  # it keeps its leases while it drains
    assert not task.done()
    assert not bench.ownership.left
    bench.worker.gate.set()
    await asyncio.wait_for(task, 5)
    assert bench.done() == bench.worker.handled == ["slow"]
    assert [text(entry) for entry in bench.lane.waiting()] == ["late"]
    assert await bench.ownership.beat() == []
    assert (bench.ownership.left, bench.ownership.held()) == (True, [])
    assert bench.consumer.state is ConsumerState.STOPPED


async def test_stop_does_not_wait_for_storage_that_is_down(bench: Bench) -> None:
    await bench.send("a")
    bench.lane.faults["settle"].extend([DOWN] * 10**4)
    async with bench.running():
        await wait_until(lambda: bench.lane.calls.count("settle") >= 2)
    assert (await bench.lane.depth()).pending == 1


async def test_after_the_end_no_heartbeat_is_sent(bench: Bench) -> None:
    async with bench.running():
        await bench.beats()
    beats = bench.ownership.beats
    for _ in range(20):
        await asyncio.sleep(0)
    assert bench.ownership.beats == beats


async def test_what_a_lost_answer_had_handed_out_is_claimed_and_handled_in_its_order(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, lost = bench.lane.read, asyncio.Event()

    async def carried_out_but_not_answered(
        consumer: str, partitions: Sequence[int], *, count: int, block_ms: int
    ) -> list[Entry]:
        found = await read(consumer, partitions, count=count, block_ms=block_ms)
        if found and not lost.is_set():
            lost.set()
            raise DOWN
        return found

    monkeypatch.setattr(bench.lane, "read", carried_out_but_not_answered)
    async with bench.running():
        await bench.turns()  # the partitions have been claimed once
        await bench.send("a", "b")
        await wait_until(lost.is_set)
        await bench.send("c")
        await wait_until(is_empty(bench))
    assert bench.worker.handled == ["a", "b", "c"]


async def test_blocks_whose_lease_went_to_another_while_they_were_worked_on_are_not_settled(
    clock: ManualClock,
) -> None:
    bench = Bench(clock)
    bench.worker.gate.clear()
    await bench.send("theirs")
    async with bench.running():
        await wait_until(lambda: bench.worker.handled == ["theirs"])
        bench.ownership.owned.clear()  # it was stopped, and another member took over
        bench.ownership.taken = {0, 1}
        bench.worker.gate.set()
        await wait_until(lambda: bench.consumer.in_flight == 0)
    assert bench.done() == []
    assert (await bench.lane.depth()).blocks == 1  # its new owner settles it


async def test_blocks_whose_lease_lapsed_and_nobody_took_are_settled_once(clock: ManualClock) -> None:
    bench = Bench(clock)
    bench.worker.gate.clear()
    await bench.send("ours")
    async with bench.running():
        await wait_until(lambda: bench.worker.handled == ["ours"])
        bench.ownership.owned.clear()
        bench.worker.gate.set()
        await wait_until(lambda: bench.consumer.in_flight == 0)
    assert bench.done() == ["ours"]


async def test_a_loop_that_makes_no_progress_does_not_beat(clock: ManualClock) -> None:
    bench = Bench(clock, msgspec.structs.replace(POLICY, concurrency=1, stall_s=15.0))
    bench.worker.gate.clear()
    await bench.send("hangs", "waits")
    async with bench.running():
        await bench.beats()
        await wait_until(lambda: bench.worker.handled == ["hangs"])
        await bench.beats()
        clock.advance(15.1)
        await wait_until(lambda: bench.consumer.stalled)
        beats = bench.ownership.beats
        assert not await bench.lane.read("other", [0], count=1, block_ms=20)  # ten heartbeats long
        assert bench.ownership.beats == beats
        bench.worker.gate.set()
        await bench.beats()
