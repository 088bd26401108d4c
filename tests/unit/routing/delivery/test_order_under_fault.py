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
from routing.delivery.router import FRESH_S, Router
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
        self.told: list[str] = []

    def answer(self, notification_id: str, notification: Notification) -> Failure | None:  # noqa: ARG002
        self.told.append(notification.title)
        return None


class Office:
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
async def office(clock: ManualClock) -> Office:
    return Office(clock)


async def test_what_comes_later_waits_for_what_cannot_be_looked_up(office: Office) -> None:
    office.store.down = {"first"}
    async with office.running():
        await office.send("first", "second", "third")
        await wait_until(lambda: office.tries("first") >= 3 and office.tries("third") >= 1)
        assert office.inbox.told == []
        office.store.down = set()
        await wait_until(lambda: office.lane.waiting() == [])
    assert office.inbox.told == ["first", "second", "third"]
    assert office.consumer.failures >= 2  # each wait is counted


async def test_at_the_stop_what_waits_is_left_pending_with_all_behind_it(office: Office) -> None:
    office.store.down = {"first"}
    async with office.running():
        await office.send("first", "second")
        await office.send("elsewhere", partition=1)
        await wait_until(lambda: office.tries("first") >= 2 and office.tries("elsewhere") == 1)
    assert office.inbox.told == ["elsewhere"]  # no recipient is in both partitions
    assert (await office.lane.depth()).pending == 2


async def test_a_partition_that_is_lost_meanwhile_is_left_and_the_other_goes_on(office: Office) -> None:
    office.store.down = {"lost"}
    async with office.running():
        await office.send("lost", "behind")
        await office.send("kept", partition=1)
        await wait_until(lambda: office.tries("lost") >= 2 and office.tries("kept") == 1)
        office.ownership.owned = {1}
        await wait_until(lambda: office.inbox.told == ["kept"])
        await wait_until(lambda: office.consumer.in_flight == 0)
        assert (await office.lane.depth()).pending == 2
        office.store.down = set()
        office.ownership.owned = {0, 1}
        await wait_until(lambda: office.lane.waiting() == [])
    assert office.inbox.told == ["kept", "lost", "behind"]


async def test_what_waits_for_its_turn_is_left_where_its_partition_is_lost(office: Office) -> None:
    office.store.down = {"first"}
    async with office.running():
        await office.send("first")
        await office.send("lost", partition=1)
        await wait_until(lambda: office.tries("first") >= 2 and office.tries("lost") == 1)
        office.ownership.owned = {0}
        office.store.down = set()
        await wait_until(lambda: office.consumer.in_flight == 0)
        assert office.inbox.told == ["first"]
        assert [entry.partition for entry in office.lane.waiting()] == [1]


async def test_of_blocks_handled_together_those_of_a_lost_partition_are_left(clock: ManualClock) -> None:
    office = Office(clock, msgspec.structs.replace(POLICY, unit_entries=2))
    office.store.down = {"lost"}
    await office.send("lost")
    await office.send("kept", partition=1)
    async with office.running():
        await wait_until(lambda: office.tries("lost") >= 2)
        office.ownership.owned = {1}
        await wait_until(lambda: office.inbox.told == ["kept"])
        await wait_until(lambda: office.consumer.in_flight == 0)
    assert [entry.partition for entry in office.lane.waiting()] == [0]


async def test_a_partition_lost_and_back_at_the_next_heartbeat_keeps_its_order(office: Office) -> None:
    office.store.gates = {"second": asyncio.Event()}
    office.store.down = {"first"}
    async with office.running():
        await office.send("first", "second", "third")
        await wait_until(lambda: office.tries("first") >= 2 and office.tries("second") == 1)
        office.ownership.owned = {1}
        await wait_until(lambda: office.consumer.in_flight <= 2)  # the second is still being looked up
        office.ownership.owned = {0, 1}
        await office.send("fourth")
        office.store.down = set()
        await wait_until(lambda: office.tries("first") >= 3)
        office.store.gates["second"].set()
        await wait_until(lambda: office.lane.waiting() == [])
    assert office.inbox.told == ["first", "second", "third", "fourth"]


async def test_what_waited_long_for_its_turn_is_looked_up_again(office: Office) -> None:
    office.store.down = {"first"}
    async with office.running():
        await office.send("first", "second")
        await wait_until(lambda: office.tries("first") >= 2 and office.tries("second") == 1)
        office.clock.advance(FRESH_S + 1)
        office.store.down = set()
        await wait_until(lambda: office.lane.waiting() == [])
    assert office.tries("second") == 2
    assert office.inbox.told == ["first", "second"]


async def test_a_router_without_a_hold_tries_once(office: Office) -> None:
    office.store.down = {"first"}
    await office.send("first")
    entries = await office.lane.read("x", [0], count=1, block_ms=0)
    with pytest.raises(StorageUnavailableError):
        await office.router.handle(entries)
    office.store.down = set()
    await office.router.handle(entries, Kept(entries))
    assert office.inbox.told == ["first"]
