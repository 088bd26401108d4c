"""Deliveries whose provider takes long, on a real server: their block goes on, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis import asyncio as aioredis

from routing.channels import ChannelResult, Deliverable, LocalChannel
from routing.delivery.deliver import Deliver
from routing.delivery.late_answers import LateDeliveries, LatePolicy
from routing.delivery.router import Router
from routing.intake.intake import Intake
from routing.intake.priority import Classifier
from routing.ledger.ledger import Ledger
from tests.fakes import ManualClock, wait_until
from tocsin.resilience.retry import RetryPolicy
from tocsin.streams.lanes import Lane
from tocsin.streams.records import Entry
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import Attempt, NotificationRequest, NotificationState

RETRY = RetryPolicy(max_attempts=3, base_s=10.0, cap_s=10.0)
POLICY = LatePolicy(wait_s=0.02, lease_s=6.0)


class Slow(LocalChannel):
    """Delivers, each in a call of its own; those to `slow` only once they are let go."""

    name = "webhook"

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.let_go = asyncio.Event()
        self.received: list[str] = []

    def groups(self, batch: Sequence[Deliverable]) -> Sequence[Sequence[int]]:
        return [[place] for place in range(len(batch))]

    async def deliver(self, batch: Sequence[Deliverable]) -> Sequence[ChannelResult]:
        (item,) = batch
        if item.notification.recipient == "slow":
            await self.let_go.wait()
        self.received.append(item.id)
        return [ChannelResult((Attempt(self.clock.now(), self.name, ok=True),))]

    async def close(self) -> None: ...


class Post:
    def __init__(self, client: aioredis.Redis, namespace: str) -> None:
        self.clock = ManualClock()
        self.lane = Lane(client, namespace=namespace, name="p2", partitions=2, block_records=4)
        self.ledger = Ledger(self.lane, client, retention_s=3600.0)
        self.channel = Slow(self.clock)
        self.late = LateDeliveries(self.ledger, POLICY, self.clock)
        deliver = Deliver({"webhook": self.channel}, RETRY, self.clock, draw=lambda: 1.0)
        self.router = Router((), deliver, self.ledger, self.lane.keys, self.clock, late=self.late)
        self.client = client

    async def send(self, *recipients: str) -> list[str]:
        requests = [
            NotificationRequest(type="reminder", title="t", recipient=one, channels=("webhook",))
            for one in recipients
        ]
        records = Intake(Classifier(), dict.fromkeys(LaneName, 2)).admit(
            list(enumerate(requests)), now=self.clock.now()
        )
        return [placement.id for placement in await self.lane.append([one.record for one in records])]

    async def read(self) -> list[Entry]:
        return await self.lane.read("router", range(2), count=100, block_ms=1)

    async def deliver(self) -> None:
        entries = await self.read()
        await self.lane.settle(entries, await self.router.handle(entries))

    async def promote(self) -> int:
        return sum([await self.lane.promote(p, self.clock.now(), limit=100) for p in range(2)])

    async def counts(self) -> dict[str, int]:
        found: Any = await self.client.hgetall(self.lane.keys.counts)
        return {field.decode(): int(number) for field, number in found.items()}


@pytest.fixture
async def post(client: aioredis.Redis, namespace: str) -> Post:
    made = Post(client, namespace)
    await made.lane.ensure_groups()
    return made


async def test_the_others_of_a_block_are_settled_while_one_is_slow_and_it_is_corrected_in_place(
    post: Post,
) -> None:
    slow, *others = await post.send("slow", "a", "b")
    await post.deliver()
    assert await post.counts() == {"accepted": 3, "delivered": 2}
    status = await post.ledger.status(slow)
    assert (status.state, status.reason) == (NotificationState.RETRYING, "in_flight")
    assert [event.event for event in status.timeline] == ["accepted", "in_flight"]
    assert (await post.ledger.status(others[0])).state is NotificationState.DELIVERED
    assert (await post.lane.depth()).retrying == 1

    post.channel.let_go.set()
    await post.late.drain()
    assert await post.counts() == {"accepted": 3, "delivered": 3}
    assert (await post.lane.depth()).retrying == 0
    status = await post.ledger.status(slow)
    assert [event.event for event in status.timeline] == ["accepted", "delivered"]
    assert (post.late.corrected, post.late.records, post.channel.received.count(slow)) == (1, 0, 1)


async def test_an_answer_before_the_block_is_settled_waits_for_it(post: Post) -> None:
    (slow,) = await post.send("slow")
    entries = await post.read()
    stage = await post.router.handle(entries)
    post.channel.let_go.set()
    await wait_until(lambda: slow in post.channel.received)
    await post.lane.settle(entries, stage)
    await post.late.drain()
    assert await post.counts() == {"accepted": 1, "delivered": 1}
    assert (await post.lane.depth()).retrying == 0


async def test_should_we_die_the_retry_is_tried(post: Post) -> None:
    (slow,) = await post.send("slow")
    await post.deliver()
    for task in post.late._tasks:
        task.cancel()
    post.clock.advance(POLICY.lease_s - 0.1)
    assert await post.promote() == 0
    post.clock.advance(0.2)
    assert await post.promote() == 1
    post.channel.let_go.set()
    await post.deliver()
    assert post.channel.received.count(slow) >= 1
    assert await post.counts() == {"accepted": 1, "delivered": 1}


async def test_an_answer_after_the_retry_went_its_way_is_not_counted(post: Post) -> None:
    (slow,) = await post.send("slow")
    await post.deliver()
    post.clock.advance(POLICY.lease_s + 0.1)
    assert await post.promote() == 1
    post.channel.let_go.set()
    await post.late.drain()
    assert (post.late.superseded, await post.counts()) == (1, {"accepted": 1})
    await post.deliver()
    assert await post.counts() == {"accepted": 1, "delivered": 1}
    assert post.channel.received == [slow, slow]


async def test_while_it_waits_the_retry_is_put_off(client: aioredis.Redis, namespace: str) -> None:
    post = Post(client, namespace)
    post.late = LateDeliveries(post.ledger, LatePolicy(wait_s=0.01, lease_s=0.06), post.clock)
    post.router._late = post.late
    await post.lane.ensure_groups()
    await post.send("slow")
    await post.deliver()
    post.clock.advance(0.05)  # less than the lease: the next renewal is told in time

    async def put_off() -> bool:
        found: Any = [
            await client.zrange(post.lane.keys.retries(p), 0, -1, withscores=True) for p in range(2)
        ]
        ((_, due),) = [one for page in found for one in page]
        return bool(due > post.clock.now() + 0.05)

    await wait_until(put_off)
    assert await post.promote() == 0
    post.channel.let_go.set()
    await post.late.drain()
    assert await post.counts() == {"accepted": 1, "delivered": 1}


async def test_with_too_many_late_ones_a_block_waits(post: Post) -> None:
    post.late.records = POLICY.max_records
    await post.send("slow")
    entries = await post.read()
    handling = asyncio.ensure_future(post.router.handle(entries))
    done, _ = await asyncio.wait([handling], timeout=5 * POLICY.wait_s)
    assert not done
    post.channel.let_go.set()
    await post.lane.settle(entries, await handling)
    assert await post.counts() == {"accepted": 1, "delivered": 1}
