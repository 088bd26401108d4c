"""What recipients want, all the way through a lane on a real server, and that the sums hold."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import pytest
from redis import asyncio as aioredis

from routing.channels import Failure, FailureReason
from routing.delivery.deliver import Deliver
from routing.delivery.router import Router
from routing.delivery.stages.expire import Expire
from routing.delivery.stages.preferences import Preferences
from routing.delivery.stages.quiet_hours import QuietHours
from routing.delivery.stages.throttle import Throttle
from routing.intake.intake import Intake
from routing.intake.priority import Classifier
from routing.ledger.ledger import Ledger
from routing.ledger.outcomes import field
from routing.recipients.store import RecipientStore
from routing.recipients.windows import RedisWindows
from tests.fakes import ManualClock, OneByOne
from tests.recipient_fakes import recipient
from tocsin.clock import to_datetime
from tocsin.resilience.retry import RetryPolicy
from tocsin.streams.lanes import Lane
from tocsin.streams.records import Position
from tocsin.telemetry.latency import quantile_ms
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import Notification, NotificationRequest, NotificationState
from tocsin.wire.recipients import ChannelChoice, QuietSpan, RecipientRequest

NIGHT = QuietSpan(start="22:00", end="07:00", timezone="Europe/Berlin")
EVENING = datetime.fromisoformat("2026-01-10T23:00:00+01:00").timestamp()
RETENTION_S = 600.0
BUSY = Failure(FailureReason.TARGET_ERROR, "the target answered 503")


async def fields_of(client: aioredis.Redis, key: str) -> dict[str, bytes]:
    """A whole hash."""
    found: Any = await client.hgetall(key)
    return {name.decode(): value for name, value in found.items()}


class Told(OneByOne):
    """A channel that fails the first `failures` times."""

    def __init__(self, name: str, clock: ManualClock) -> None:
        self.name = name
        self.clock: ManualClock = clock
        self.failures = 0
        self.received: list[Notification] = []

    def answer(self, notification_id: str, notification: Notification) -> Failure | None:  # noqa: ARG002
        self.clock.advance(0.001)
        if self.failures:
            self.failures -= 1
            return BUSY
        self.received.append(notification)
        return None


class Post:
    """A whole lane with every stage."""

    def __init__(self, client: aioredis.Redis, namespace: str, name: LaneName) -> None:
        self.name = name
        self.clock = ManualClock(EVENING)
        self.lane = Lane(client, namespace=namespace, name=name, partitions=1, block_records=4)
        self.ledger = Ledger(self.lane, client, retention_s=RETENTION_S)
        self.profiles = RecipientStore(client, namespace=namespace)
        self.log, self.webhook = Told("log", self.clock), Told("webhook", self.clock)
        stages = (
            Expire(name),
            Preferences(self.profiles, name),
            QuietHours(name),
            Throttle(RedisWindows(client, namespace=namespace), name),
        )
        deliver = Deliver(
            {"log": self.log, "webhook": self.webhook},
            RetryPolicy(max_attempts=3, base_s=10.0, cap_s=10.0),
            self.clock,
            draw=lambda: 1.0,
        )
        self.router = Router(stages, deliver, self.ledger, self.lane.keys, self.clock)
        self.intake = Intake(Classifier(), dict.fromkeys(LaneName, 1))
        self._client = client

    async def want(self, id_: str = "r", **fields: Any) -> None:
        await self.profiles.put(recipient(id_, RecipientRequest(**fields)))

    async def send(self, *requests: NotificationRequest) -> list[str]:
        admitted = self.intake.admit(list(enumerate(requests)), now=self.clock.now())
        assert {one.lane for one in admitted} == {self.name}
        return [one.id for one in await self.lane.append([item.record for item in admitted])]

    async def deliver(self) -> None:
        await self.lane.promote(0, self.clock.now(), limit=100)
        entries = await self.lane.read("router", [0], count=100, block_ms=1)
        if entries:
            await self.lane.settle(entries, await self.router.handle(entries))

    async def until(self, moment: float) -> None:
        self.clock.advance(moment - self.clock.now())
        await self.deliver()

    async def state(self, notification_id: str) -> tuple[NotificationState, str, int]:
        status = await self.ledger.status(notification_id)
        return status.state, status.reason, len(status.attempts)

    async def balance(self) -> dict[str, int]:
        """Each end but the first, which is the sum of the others."""
        counts = {name: int(n) for name, n in (await fields_of(self._client, self.lane.keys.counts)).items()}
        accepted = counts.pop("accepted")
        depth = await self.lane.depth()
        ends = counts | {"retrying": depth.retrying}
        assert (accepted, depth.blocks, depth.pending) == (sum(ends.values()), 0, 0)
        return {name: number for name, number in ends.items() if number}


@pytest.fixture
async def post(client: aioredis.Redis, namespace: str) -> Post:
    made = Post(client, namespace, LaneName.P2)
    await made.lane.ensure_groups()
    return made


@pytest.fixture
async def urgent(client: aioredis.Redis, namespace: str) -> Post:
    made = Post(client, namespace, LaneName.P0)
    await made.lane.ensure_groups()
    return made


def note(to: str = "r", **fields: Any) -> NotificationRequest:
    return NotificationRequest(**{"type": "reminder", "title": "t", "recipient": to} | fields)


async def test_every_wish_has_its_end_and_the_sums_hold(post: Post) -> None:
    await post.want("mute", muted_types=("reminder",))
    await post.want("quiet", quiet_hours=NIGHT)
    await post.want("rare", max_per_hour=1)
    ids = await post.send(note("mute"), note("quiet"), note("rare"), note("rare"), note("anybody"))
    await post.deliver()
    assert [await post.state(one) for one in ids] == [
        (NotificationState.SUPPRESSED, "muted", 0),
        (NotificationState.RETRYING, "quiet_hours", 0),
        (NotificationState.DELIVERED, "", 1),
        (NotificationState.SUPPRESSED, "throttled", 0),
        (NotificationState.DELIVERED, "", 1),
    ]
    assert await post.balance() == {"delivered": 2, "suppressed": 2, "retrying": 1}


async def test_a_block_that_was_suppressed_whole_is_one_field(post: Post, client: aioredis.Redis) -> None:
    await post.want(muted_sources=("default",))
    ids = await post.send(*[note()] * 4)
    await post.deliver()
    assert {await post.state(one) for one in ids} == {(NotificationState.SUPPRESSED, "muted", 0)}
    entry = Position.parse(ids[0]).entry
    assert list(await fields_of(client, post.lane.keys.outcomes(0, entry))) == [field(entry)]


async def test_what_was_put_off_returns_when_it_is_due_with_all_its_tries(post: Post) -> None:
    await post.want(quiet_hours=NIGHT)
    post.log.failures = 2
    (one,) = await post.send(note())
    morning = EVENING + 8 * 3600
    await post.deliver()
    await post.until(morning - 1)
    assert await post.state(one) == (NotificationState.RETRYING, "quiet_hours", 0)
    for step in range(2):
        await post.until(morning + 11 * step)
        assert await post.state(one) == (NotificationState.RETRYING, "retry_scheduled", step + 1)
    await post.until(morning + 22)
    assert await post.state(one) == (NotificationState.DELIVERED, "", 3)
    assert await post.balance() == {"delivered": 1}


async def test_while_it_waits_it_can_be_asked_for_longer_than_outcomes_are_kept(
    post: Post, client: aioredis.Redis
) -> None:
    await post.want(quiet_hours=NIGHT)
    (one,) = await post.send(note())
    await post.deliver()
    key = post.lane.keys.outcomes(0, Position.parse(one).entry)
    assert 8 * 3600 < await client.ttl(key) <= 8 * 3600 + RETENTION_S
    timeline = (await post.ledger.status(one)).timeline
    assert [event.event for event in timeline] == ["accepted", "deferred"]
    assert timeline[-1].detail == f"again at {to_datetime(EVENING + 8 * 3600)}"


async def test_hours_of_quiet_are_no_latency_of_ours(post: Post, client: aioredis.Redis) -> None:
    await post.want(quiet_hours=NIGHT)
    await post.send(note())
    await post.deliver()
    await post.until(EVENING + 8 * 3600 + 2)
    counted = {int(k): int(n) for k, n in (await fields_of(client, post.lane.keys.latency)).items()}
    assert 1500 < (quantile_ms(counted, 0.5) or 0) < 3000


async def test_tries_made_before_the_quiet_hours_are_not_forgotten(post: Post) -> None:
    post.log.failures = 1
    (one,) = await post.send(note())
    await post.deliver()
    await post.want(quiet_hours=NIGHT)
    await post.until(EVENING + 60)
    assert await post.state(one) == (NotificationState.RETRYING, "quiet_hours", 1)
    await post.until(EVENING + 8 * 3600)
    assert await post.state(one) == (NotificationState.DELIVERED, "", 2)


async def test_what_expires_while_it_is_put_off_expires_then(post: Post) -> None:
    await post.want(quiet_hours=NIGHT)
    (one,) = await post.send(note(expires_at=to_datetime(EVENING + 3600)))
    await post.deliver()
    assert (await post.state(one))[:2] == (NotificationState.RETRYING, "quiet_hours")
    await post.until(EVENING + 3600)
    assert await post.state(one) == (NotificationState.EXPIRED, "stale", 0)
    assert await post.balance() == {"expired": 1}
    assert post.log.received == []


async def test_a_p0_is_told_whatever_its_recipient_wants(urgent: Post) -> None:
    await urgent.want(
        muted_types=("emergency",), muted_sources=("default",), quiet_hours=NIGHT, max_per_hour=1
    )
    ids = await urgent.send(*[note(type="emergency")] * 3)
    await urgent.deliver()
    assert {await urgent.state(one) for one in ids} == {(NotificationState.DELIVERED, "", 1)}


async def test_it_goes_where_it_is_wanted_and_the_original_is_kept(
    post: Post, client: aioredis.Redis
) -> None:
    await post.want(channels=ChannelChoice(p2=("webhook",)), webhook_url="https://a.example/")
    post.webhook.failures = 3
    (one,) = await post.send(note(channels=("log",)))
    for _ in range(3):
        await post.deliver()
        post.clock.advance(11)
    letter = await post.ledger.status(one)
    assert (letter.state, [a.channel for a in letter.attempts]) == (NotificationState.DEAD, ["webhook"] * 3)
    (body,) = (await fields_of(client, post.lane.keys.dead)).values()
    kept: list[Any] = msgspec.msgpack.decode(body)[2]
    assert (kept[7], kept[8]) == (["log"], "")  # its channels and webhook, as they were sent


async def test_a_channel_no_longer_wanted_holds_nothing_up(post: Post) -> None:
    post.webhook.failures = 99
    (one,) = await post.send(note(channels=("webhook",), webhook_url="https://a.example/"))
    await post.deliver()
    await post.want(channels=ChannelChoice(p2=("log",)))
    await post.until(EVENING + 60)
    assert await post.state(one) == (NotificationState.DELIVERED, "", 2)
