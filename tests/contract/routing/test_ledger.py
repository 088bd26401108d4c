"""What became of every notification, on a real server: outcomes, dead letters, replay, and the sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from redis import asyncio as aioredis

from routing.channels import Channel, Failure, FailureReason
from routing.delivery.deliver import Deliver
from routing.delivery.router import Router
from routing.delivery.stages.expire import Expire
from routing.intake.intake import Intake
from routing.intake.priority import Classifier
from routing.ledger.dead_letters import DeadLetters
from routing.ledger.ledger import Ledger
from routing.ledger.outcomes import field
from tests.fakes import START, ManualClock, OneByOne
from tocsin.errors import InvalidRecordError, NotFoundError
from tocsin.keys import GROUP
from tocsin.resilience.retry import RetryPolicy
from tocsin.streams.lanes import Lane
from tocsin.streams.records import Entry, Position, pack_block
from tocsin.telemetry.latency import quantile_ms
from tocsin.wire.dead_letters import DeadLetterFilter
from tocsin.wire.lanes import WIRE_VERSION, LaneName
from tocsin.wire.notifications import Envelope, Notification, NotificationRequest, NotificationState

PARTITIONS = 3
RETENTION_S = 3600.0
RETRY = RetryPolicy(max_attempts=3, base_s=10.0, cap_s=10.0)
BUSY = Failure(FailureReason.TARGET_ERROR, "the target answered 503")
NOTE = Notification("reminder", "t", "r", "", "", "", "s", ("log",), "", 0.0, "", {}, START)
REFUSED = Failure(FailureReason.REFUSED, "the target answered 410")


class Scripted(OneByOne):
    """A channel that answers by the notification's title: the failure of that name, else delivered."""

    def __init__(self, name: str, clock: ManualClock) -> None:
        self.name = name
        self.failures: dict[str, Failure] = {}
        self.delivered: list[str] = []
        self.clock: ManualClock = clock

    def answer(self, notification_id: str, notification: Notification) -> Failure | None:
        self.clock.advance(0.001)
        failure = self.failures.get(notification.title)
        if failure is None:
            self.delivered.append(notification_id)
        return failure


class Post:
    """A whole p2 lane: intake, lane, router and ledger, moved a step at a time."""

    def __init__(self, client: aioredis.Redis, namespace: str) -> None:
        self.clock = ManualClock()
        self.lane = Lane(client, namespace=namespace, name="p2", partitions=PARTITIONS, block_records=4)
        self.ledger = Ledger(self.lane, client, retention_s=RETENTION_S)
        self.letters = DeadLetters(self.lane, client)
        self.log = Scripted("log", self.clock)
        self.webhook = Scripted("webhook", self.clock)
        channels: Mapping[str, Channel] = {"log": self.log, "webhook": self.webhook}
        deliver = Deliver(channels, RETRY, self.clock, draw=lambda: 1.0)
        self.router = Router((Expire(LaneName.P2),), deliver, self.ledger, self.lane.keys, self.clock)
        self.intake = Intake(Classifier(), dict.fromkeys(LaneName, PARTITIONS))
        self._client = client

    async def send(self, *requests: NotificationRequest) -> list[str]:
        accepted = self.intake.admit(list(enumerate(requests)), now=self.clock.now())
        assert {one.lane for one in accepted} == {LaneName.P2}
        return [placement.id for placement in await self.lane.append([one.record for one in accepted])]

    async def deliver(self) -> int:
        """Handle and settle all that waits; returns the number of blocks."""
        entries = await self.lane.read("router", range(PARTITIONS), count=1000, block_ms=1)
        if entries:
            await self.lane.settle(entries, await self.router.handle(entries))
        return len(entries)

    async def replay(self, notification_id: str) -> bool:
        return await self.letters.replay(await self.letters.get(notification_id))

    async def promote(self) -> int:
        return sum([await self.lane.promote(p, self.clock.now(), limit=1000) for p in range(PARTITIONS)])

    async def counts(self) -> dict[str, int]:
        found: Any = await self._client.hgetall(self.lane.keys.counts)
        return {field.decode(): int(number) for field, number in found.items()}

    async def waiting(self) -> int:
        """Records in the streams, read or not."""
        blocks: Any = [await self._client.xrange(self.lane.keys.stream(p)) for p in range(PARTITIONS)]
        decode = msgspec.msgpack.Decoder(list[Envelope]).decode
        return sum(len(decode(values[b"b"])) for entries in blocks for _, values in entries)

    async def state(self, notification_id: str) -> NotificationState:
        return (await self.ledger.status(notification_id)).state

    async def balance(self) -> dict[str, int]:
        """Where every accepted notification is; checks that the sum is right."""
        counts = await self.counts()
        parts = {
            "waiting": await self.waiting(),
            "retrying": (await self.lane.depth()).retrying,
            **{state: counts.get(state, 0) for state in ("delivered", "expired", "dead")},
        }
        assert sum(parts.values()) == counts["accepted"]
        assert counts.keys() <= {"accepted", "delivered", "expired", "dead"}
        assert await self.letters.total() == parts["dead"]
        return {name: number for name, number in parts.items() if number}


@pytest.fixture
async def post(client: aioredis.Redis, namespace: str) -> Post:
    made = Post(client, namespace)
    await made.lane.ensure_groups()
    return made


def note(title: str = "fine", recipient: str = "r", **changes: object) -> NotificationRequest:
    return msgspec.convert(
        {"type": "reminder", "title": title, "recipient": recipient} | changes, NotificationRequest
    )


def hash_of(post: Post, notification_id: str) -> str:
    """The hash that holds the outcome."""
    position = Position.parse(notification_id)
    return post.lane.keys.outcomes(position.partition, position.entry)


async def own_outcomes(client: aioredis.Redis, post: Post, notification_id: str) -> tuple[bool, set[int]]:
    """Whether a block has a common outcome, and which of its records have one of their own."""
    shared = field(Position.parse(notification_id).entry)
    found: Any = await client.hkeys(hash_of(post, notification_id))
    names = {name.decode() for name in found}
    return shared in names, {int(n.rpartition("-")[2]) for n in names if n.rpartition("-")[0] == shared}


# --------------------------------------------------------------------------- status


async def test_a_notification_is_accepted_until_it_is_handled_then_delivered(post: Post) -> None:
    (sent,) = await post.send(note(body="hello", data={"k": "v"}))
    status = await post.ledger.status(sent)
    assert (status.state, status.id, status.lane) == (NotificationState.ACCEPTED, sent, "p2")
    assert status.notification is not None
    assert (status.notification.body, status.notification.data) == ("hello", {"k": "v"})
    assert [event.event for event in status.timeline] == ["accepted"]
    await post.deliver()
    status = await post.ledger.status(sent)
    assert status.state is NotificationState.DELIVERED
    assert [event.event for event in status.timeline] == ["accepted", "delivered"]
    assert [(attempt.channel, attempt.ok) for attempt in status.attempts] == [("log", True)]


async def test_a_block_that_ended_alike_is_one_field(post: Post, client: aioredis.Redis) -> None:
    sent = await post.send(*(note() for _ in range(4)))
    await post.deliver()
    assert await own_outcomes(client, post, sent[0]) == (True, set())
    assert [await post.state(one) for one in sent] == [NotificationState.DELIVERED] * 4


async def test_an_index_beyond_a_block_that_ended_alike_is_not_found(post: Post) -> None:
    sent = await post.send(note(), note())
    await post.deliver()
    beyond = sent[0].rpartition("-")[0] + "-2"
    with pytest.raises(NotFoundError):
        await post.ledger.status(beyond)


async def test_an_index_beyond_a_block_that_waits_is_not_found(post: Post) -> None:
    sent = await post.send(note(), note())
    with pytest.raises(NotFoundError):
        await post.ledger.status(sent[0].rpartition("-")[0] + "-2")


async def test_an_index_beyond_a_block_of_one_is_not_found(post: Post) -> None:
    (sent,) = await post.send(note())
    await post.deliver()
    with pytest.raises(NotFoundError):
        await post.ledger.status(sent.rpartition("-")[0] + "-1")


async def test_of_a_block_that_ended_mixed_the_exceptions_have_a_field_each(
    post: Post, client: aioredis.Redis
) -> None:
    post.log.failures["gone"] = REFUSED
    sent = await post.send(note("gone"), note(), note(), note(channels=("webhook",)))
    await post.deliver()
    assert await own_outcomes(client, post, sent[0]) == (True, {0, 3})
    assert [(await post.ledger.status(one)).attempts[0].channel for one in sent] == ["log"] * 3 + ["webhook"]
    post.log.failures["busy"] = BUSY
    sent = await post.send(note("gone"), note("busy"), note())
    await post.deliver()
    assert await own_outcomes(client, post, sent[0]) == (True, {0, 1})
    states = [await post.state(one) for one in sent]
    assert states == [NotificationState.DEAD, NotificationState.RETRYING, NotificationState.DELIVERED]
    sent = await post.send(note(), note("gone"), note())
    await post.deliver()
    assert await own_outcomes(client, post, sent[0]) == (True, {1})
    states = [await post.state(one) for one in sent]
    assert states == [NotificationState.DELIVERED, NotificationState.DEAD, NotificationState.DELIVERED]


async def test_a_retry_that_succeeds_ends_delivered_with_all_its_attempts(post: Post) -> None:
    post.log.failures["busy"] = BUSY
    fine, busy = await post.send(note(), note("busy"))
    await post.deliver()
    status = await post.ledger.status(busy)
    assert status.state is NotificationState.RETRYING
    assert [event.event for event in status.timeline] == ["accepted", "attempt_failed", "retrying"]
    assert await post.promote() == 0  # not due yet
    post.clock.advance(10.0)
    assert await post.promote() == 1
    post.log.failures.clear()
    await post.deliver()
    status = await post.ledger.status(busy)
    assert (status.state, status.id) == (NotificationState.DELIVERED, busy)
    assert [attempt.ok for attempt in status.attempts] == [False, True]
    assert post.log.delivered == [fine, busy]  # under the id of the receipt
    assert await post.state(fine) is NotificationState.DELIVERED


@pytest.mark.parametrize(
    "unknown",
    ["p2-0-1-0-0", "p2-2-99999999999999-0-0", "p2-3-1-0-0", "p2-250-1-0-0", "p2-0-1-0-99999999999999999999"],
)
async def test_an_id_never_given_out_is_not_found(post: Post, unknown: str) -> None:
    with pytest.raises(NotFoundError):
        await post.ledger.status(unknown)


@pytest.mark.parametrize(
    "malformed", ["", "x", "p2-0-1-0", "p2-0-1-0-0-0", "p2-a-1-0-0", "p2-0-1-0-²", "-" * 99]
)
async def test_what_is_no_id_is_refused(post: Post, malformed: str) -> None:
    for asked in (post.ledger.status, post.letters.get):
        with pytest.raises(InvalidRecordError) as caught:
            await asked(malformed)
        assert caught.value.field == "id"


async def test_outcomes_live_as_long_as_the_retention(post: Post, client: aioredis.Redis) -> None:
    (sent,) = await post.send(note())
    await post.deliver()
    assert RETENTION_S - 5 <= await client.ttl(hash_of(post, sent)) <= RETENTION_S


async def test_blocks_of_the_same_seconds_share_a_hash_that_lives_as_long_as_the_last_needs(
    post: Post, client: aioredis.Redis
) -> None:
    post.log.failures["busy"] = BUSY
    (first,) = await post.send(note())
    await post.deliver()
    key = hash_of(post, first)
    await client.expire(key, 60)  # a while later
    sent = [first]
    while hash_of(post, sent[-1]) == key and len(sent) < 3:
        sent += await post.send(note("busy" if len(sent) == 1 else "fine"))
        await post.deliver()
    if hash_of(post, sent[-1]) != key:
        pytest.skip("five seconds ended within this test")
    assert await client.hlen(key) == 3
    # The second is put off by 10 s; what came after it, and the first one's retention, shorten nothing.
    assert RETENTION_S + 5 <= await client.ttl(key) <= RETENTION_S + 10


async def test_a_retry_that_ends_does_not_shorten_the_life_of_its_neighbours(
    post: Post, client: aioredis.Redis
) -> None:
    post.log.failures["busy"] = BUSY
    fine, _ = await post.send(note(), note("busy"))
    await post.deliver()
    before = await client.ttl(hash_of(post, fine))
    post.clock.advance(10.0)
    await post.promote()
    post.log.failures.clear()
    await post.deliver()
    assert await client.ttl(hash_of(post, fine)) >= before - 5 > RETENTION_S


async def test_a_block_of_500_takes_few_bytes(client: aioredis.Redis, namespace: str) -> None:
    post = Post(client, namespace)
    lane = Lane(client, namespace=namespace, name="p2", partitions=PARTITIONS, block_records=500)
    post.lane, post.ledger = lane, Ledger(lane, client, retention_s=RETENTION_S)
    await lane.ensure_groups()
    body = msgspec.msgpack.encode(Envelope(NOTE))
    blocks = [
        Entry("p2", 0, f"1732430000000-{n}", WIRE_VERSION, pack_block([body] * 500)) for n in range(300)
    ]
    router = Router((), Deliver({"log": post.log}, RETRY, post.clock), post.ledger, lane.keys, post.clock)
    for block in blocks:
        await lane.settle([block], await router.handle([block]))
    key = lane.keys.outcomes(0, blocks[0].entry)
    assert await client.hlen(key) == 300
    assert await client.object("ENCODING", key) == b"listpack"
    assert (await client.memory_usage(key) or 0) < 300 * 48
    status = await post.ledger.status("p2-0-1732430000000-299-499")
    assert (status.state, status.attempts[0].channel) == (NotificationState.DELIVERED, "log")


async def test_the_latency_of_what_was_delivered_is_tallied(post: Post, client: aioredis.Redis) -> None:
    post.log.failures["gone"] = REFUSED
    await post.send(note(), note("gone"))
    post.clock.advance(0.2)
    await post.deliver()
    found = await client.hgetall(post.lane.keys.latency)
    counts = {int(bucket): int(number) for bucket, number in found.items()}
    assert sum(counts.values()) == 1
    assert quantile_ms(counts, 0.5) == pytest.approx(202, rel=0.05)


# --------------------------------------------------------------------------- the sums


def mixed() -> Sequence[NotificationRequest]:
    kinds = [
        note("fine"),
        note("busy"),
        note("gone"),
        note("late", expires_at="2024-01-01T00:00:00Z"),
        note("half", channels=("log", "webhook")),
    ]
    return [msgspec.structs.replace(kind, recipient=f"{kind.title}-{i}") for i in range(12) for kind in kinds]


async def test_every_accepted_notification_is_in_exactly_one_place_at_every_step(post: Post) -> None:
    post.log.failures = {"busy": BUSY, "gone": REFUSED}
    post.webhook.failures = {"half": BUSY}
    sent = await post.send(*mixed())
    assert await post.balance() == {"waiting": 60}
    await post.lane.read("router", [0], count=1, block_ms=1)  # pending is waiting, too
    assert await post.balance() == {"waiting": 60}
    (left,) = [await post.lane.claim("router", 0, min_idle_ms=0)]
    await post.lane.settle(left, await post.router.handle(left))
    await post.balance()
    await post.deliver()
    assert await post.balance() == {"delivered": 12, "retrying": 24, "dead": 12, "expired": 12}
    post.clock.advance(10.0)
    assert await post.promote() == 24
    assert await post.balance() == {"delivered": 12, "waiting": 24, "dead": 12, "expired": 12}
    post.webhook.failures.clear()
    await post.deliver()
    assert await post.balance() == {"delivered": 24, "retrying": 12, "dead": 12, "expired": 12}
    post.clock.advance(10.0)
    await post.promote()
    await post.deliver()
    assert await post.balance() == {"delivered": 24, "dead": 24, "expired": 12}
    assert len(set(sent)) == 60
    assert len(post.log.delivered) == len(set(post.log.delivered)) == 24  # nothing told twice


async def test_what_is_sent_twice_under_a_dedup_key_is_counted_once(post: Post) -> None:
    await post.send(note(dedup_key="k"), note(dedup_key="k"))
    await post.send(note(dedup_key="k"))
    await post.deliver()
    assert await post.balance() == {"delivered": 1}
    assert len(post.log.delivered) == 1


async def test_a_block_that_cannot_be_read_is_set_aside_and_the_others_delivered(
    post: Post, client: aioredis.Redis
) -> None:
    (sent,) = await post.send(note())
    await client.xadd(post.lane.keys.stream(0), {"v": 1, "b": b"\xc1 not a block"})
    await post.deliver()
    assert await post.state(sent) is NotificationState.DELIVERED
    quarantined: Any = await client.xrange(post.lane.keys.quarantine)
    assert [kept[b"b"] for _, kept in quarantined] == [b"\xc1 not a block"]
    assert (await post.counts())["quarantined"] == 1
    assert (await client.xpending(post.lane.keys.stream(0), GROUP))["pending"] == 0


# --------------------------------------------------------------------------- dead letters


async def test_a_dead_letter_says_what_was_tried_and_why_it_failed(post: Post) -> None:
    post.log.failures["busy"] = BUSY
    (sent,) = await post.send(note("busy", data={"k": "v"}))
    for _ in range(3):
        await post.deliver()
        post.clock.advance(10.0)
        await post.promote()
    letter = await post.letters.get(sent)
    assert (letter.id, letter.lane, letter.reason) == (sent, "p2", "attempts_exhausted")
    assert letter.error == "log: the target answered 503"
    assert letter.notification.data == {"k": "v"}
    assert [(a.channel, a.ok, a.reason) for a in letter.attempts] == [("log", False, "target_error")] * 3
    assert await post.state(sent) is NotificationState.DEAD


async def test_dead_letters_come_newest_first_a_page_at_a_time(post: Post) -> None:
    post.log.failures["gone"] = REFUSED
    sent = []
    for _ in range(5):
        sent += await post.send(note("gone"))
        await post.deliver()
        post.clock.advance(1.0)
    first = await post.letters.scan(DeadLetterFilter(), max_matches=2, max_scanned=100)
    assert [letter.id for letter in first.letters] == [sent[4], sent[3]]
    rest = await post.letters.scan(DeadLetterFilter(), first.end, max_matches=9, max_scanned=100)
    assert [letter.id for letter in rest.letters] == [sent[2], sent[1], sent[0]]
    assert rest.end is None


async def test_a_replayed_notification_leaves_the_dead_letters_and_is_delivered(post: Post) -> None:
    post.log.failures["gone"] = REFUSED
    (sent,) = await post.send(note("gone"))
    await post.deliver()
    assert await post.balance() == {"dead": 1}
    assert await post.replay(sent)
    assert await post.balance() == {"waiting": 1}
    post.log.failures.clear()
    await post.deliver()
    assert await post.balance() == {"delivered": 1}
    assert post.log.delivered == [sent]
    status = await post.ledger.status(sent)
    assert status.state is NotificationState.DELIVERED
    assert [attempt.ok for attempt in status.attempts] == [True]  # a clean slate


async def test_a_dead_letter_is_replayed_once(post: Post) -> None:
    post.log.failures["gone"] = REFUSED
    (sent,) = await post.send(note("gone"))
    await post.deliver()
    assert await post.replay(sent)
    with pytest.raises(NotFoundError):
        await post.replay(sent)
    assert await post.balance() == {"waiting": 1}


async def test_a_replay_that_fails_again_is_one_dead_letter_again(post: Post) -> None:
    post.log.failures["gone"] = REFUSED
    (sent,) = await post.send(note("gone"))
    await post.deliver()
    await post.replay(sent)
    await post.deliver()
    assert await post.balance() == {"dead": 1}
    letter = await post.letters.get(sent)
    assert (letter.id, letter.replays, letter.earlier_attempts, len(letter.attempts)) == (sent, 1, 1, 1)


async def test_what_is_no_dead_letter_cannot_be_replayed(post: Post) -> None:
    (sent,) = await post.send(note())
    await post.deliver()
    with pytest.raises(NotFoundError):
        await post.replay(sent)
    assert await post.balance() == {"delivered": 1}
