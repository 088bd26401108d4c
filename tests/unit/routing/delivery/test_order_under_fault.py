"""A consumer and a router whose store fails: what comes later waits, and nothing is told out of its order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import msgspec
import pytest
from redis import asyncio as aioredis

from routing.channels import Failure
from routing.deliveries import Delivery
from routing.delivery.deliver import Deliver
from routing.delivery.router import MAX_DECISION_AGE_S, Router
from routing.ledger.ledger import Ledger
from tests.fakes import START, FixedOwnership, ManualClock, MemoryLane, OneByOne, wait_until
from tocsin.errors import StorageUnavailableError
from tocsin.resilience.retry import RetryPolicy
from tocsin.streams.consumer import Consumer, ConsumerPolicy, ConsumerState
from tocsin.streams.lanes import Lane
from tocsin.streams.ports import Kept
from tocsin.streams.records import Record
from tocsin.wire.notifications import Envelope, Notification

POLICY = ConsumerPolicy(
    unit_entries=1,
    read_entries=8,
    concurrency=4,
    block_ms=2,
    heartbeat_s=0.002,
    promote_every_s=60.0,
    requeue_s=0.005,
    heal_backoff_s=(0.001, 0.002),
)
NOTE = Notification("reminder", "t", "r", "", "", "", "s", ("log",), "", 0.0, "", {}, START)


class Store:
    """A stage that looks something up: it fails for the titles it is told, and may be held up at others."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.gates: dict[str, asyncio.Event] = {}
        self.asked: list[str] = []

    async def __call__(self, batch: Sequence[Delivery], now: float) -> int:  # noqa: ARG002 (part of the port)
        for title in [delivery.envelope.notification.title for delivery in batch]:
            self.asked.append(title)
            if (gate := self.gates.get(title)) is not None:
                await gate.wait()
            if title in self.down:
                raise StorageUnavailableError("the store does not answer")
        return 0


class Inbox(OneByOne):
    name = "log"

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.received: list[str] = []

    def answer(self, notification_id: str, notification: Notification) -> Failure | None:  # noqa: ARG002
        self.received.append(notification.title)
        return None


class Bench:
    """A lane, the consumer of its partitions 0 and 1, and the router."""

    def __init__(self, clock: ManualClock, policy: ConsumerPolicy = POLICY) -> None:
        self.clock = clock
        self.lane = MemoryLane(clock, name="p2", partitions=2)
        self.ownership = FixedOwnership([0, 1])
        self.store, self.inbox = Store(), Inbox(clock)
        nowhere = cast("aioredis.Redis", None)
        keyed = Lane(nowhere, namespace="memory", name="p2", partitions=2, block_records=500)
        deliver = Deliver({"log": self.inbox}, RetryPolicy(max_attempts=3, base_s=10.0, cap_s=60.0), clock)
        self.router = Router(
            (self.store,), deliver, Ledger(keyed, nowhere, retention_s=60.0), keyed.keys, clock
        )
        self.consumer = Consumer(self.lane, self.ownership, self.router, policy=policy, clock=clock)

    async def send(self, *titles: str, partition: int = 0) -> None:
        for title in titles:
            body = msgspec.msgpack.encode(Envelope(msgspec.structs.replace(NOTE, title=title)))
            await self.lane.append([Record(partition, body)])

    def tries(self, title: str) -> int:
        return self.store.asked.count(title)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.consumer.run())
        try:
            yield
        finally:
            self.consumer.stop()
            for gate in self.store.gates.values():
                gate.set()
            await asyncio.wait_for(task, 5)
        assert self.consumer.state is ConsumerState.STOPPED


@pytest.fixture
async def bench(clock: ManualClock) -> Bench:
    return Bench(clock)


async def test_what_comes_later_waits_for_what_cannot_be_looked_up(bench: Bench) -> None:
    bench.store.down = {"first"}
    async with bench.running():
        await bench.send("first", "second", "third")
        await wait_until(lambda: bench.tries("first") >= 3 and bench.tries("third") >= 1)
        assert bench.inbox.received == []
        bench.store.down = set()
        await wait_until(lambda: bench.lane.waiting() == [])
    assert bench.inbox.received == ["first", "second", "third"]
    assert bench.consumer.failures >= 2  # each wait is counted


async def test_at_the_stop_what_waits_is_left_pending_with_all_behind_it(bench: Bench) -> None:
    bench.store.down = {"first"}
    async with bench.running():
        await bench.send("first", "second")
        await bench.send("elsewhere", partition=1)
        await wait_until(lambda: bench.tries("first") >= 2 and bench.tries("elsewhere") == 1)
    assert bench.inbox.received == ["elsewhere"]  # no recipient is in both partitions
    assert (await bench.lane.depth()).pending == 2


async def test_a_partition_that_is_lost_meanwhile_is_left_and_the_other_goes_on(bench: Bench) -> None:
    bench.store.down = {"lost"}
    async with bench.running():
        await bench.send("lost", "behind")
        await bench.send("kept", partition=1)
        await wait_until(lambda: bench.tries("lost") >= 2 and bench.tries("kept") == 1)
        bench.ownership.owned = {1}
        await wait_until(lambda: bench.inbox.received == ["kept"])
        await wait_until(lambda: bench.consumer.in_flight == 0)
        assert (await bench.lane.depth()).pending == 2
        bench.store.down = set()
        bench.ownership.owned = {0, 1}
        await wait_until(lambda: bench.lane.waiting() == [])
    assert bench.inbox.received == ["kept", "lost", "behind"]


async def test_what_waits_for_its_turn_is_left_where_its_partition_is_lost(bench: Bench) -> None:
    bench.store.down = {"first"}
    async with bench.running():
        await bench.send("first")
        await bench.send("lost", partition=1)
        await wait_until(lambda: bench.tries("first") >= 2 and bench.tries("lost") == 1)
        bench.ownership.owned = {0}
        bench.store.down = set()
        await wait_until(lambda: bench.consumer.in_flight == 0)
        assert bench.inbox.received == ["first"]
        assert [entry.partition for entry in bench.lane.waiting()] == [1]


async def test_of_blocks_handled_together_those_of_a_lost_partition_are_left(clock: ManualClock) -> None:
    bench = Bench(clock, msgspec.structs.replace(POLICY, unit_entries=2))
    bench.store.down = {"lost"}
    await bench.send("lost")
    await bench.send("kept", partition=1)
    async with bench.running():
        await wait_until(lambda: bench.tries("lost") >= 2)
        bench.ownership.owned = {1}
        await wait_until(lambda: bench.inbox.received == ["kept"])
        await wait_until(lambda: bench.consumer.in_flight == 0)
    assert [entry.partition for entry in bench.lane.waiting()] == [0]


async def test_a_partition_lost_and_back_at_the_next_heartbeat_keeps_its_order(bench: Bench) -> None:
    bench.store.gates = {"second": asyncio.Event()}
    bench.store.down = {"first"}
    async with bench.running():
        await bench.send("first", "second", "third")
        await wait_until(lambda: bench.tries("first") >= 2 and bench.tries("second") == 1)
        bench.ownership.owned = {1}
        await wait_until(lambda: bench.consumer.in_flight <= 2)  # the second is still being looked up
        bench.ownership.owned = {0, 1}
        await bench.send("fourth")
        bench.store.down = set()
        await wait_until(lambda: bench.tries("first") >= 3)
        bench.store.gates["second"].set()
        await wait_until(lambda: bench.lane.waiting() == [])
    assert bench.inbox.received == ["first", "second", "third", "fourth"]


async def test_what_waited_long_for_its_turn_is_looked_up_again(bench: Bench) -> None:
    bench.store.down = {"first"}
    async with bench.running():
        await bench.send("first", "second")
        await wait_until(lambda: bench.tries("first") >= 2 and bench.tries("second") == 1)
        bench.clock.advance(MAX_DECISION_AGE_S + 1)
        bench.store.down = set()
        await wait_until(lambda: bench.lane.waiting() == [])
    assert bench.tries("second") == 2
    assert bench.inbox.received == ["first", "second"]


async def test_a_router_without_a_hold_tries_once(bench: Bench) -> None:
    bench.store.down = {"first"}
    await bench.send("first")
    entries = await bench.lane.read("x", [0], count=1, block_ms=0)
    with pytest.raises(StorageUnavailableError):
        await bench.router.handle(entries)
    bench.store.down = set()
    await bench.router.handle(entries, Kept(entries))
    assert bench.inbox.received == ["first"]
