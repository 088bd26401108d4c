from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import msgspec
import pytest
from redis import asyncio as aioredis

from routing.channels import Failure, FailureReason
from routing.deliveries import Delivery
from routing.delivery.deliver import Deliver
from routing.delivery.router import Router
from routing.delivery.stages.expire import Expire
from routing.ledger.ledger import Ledger
from tests.fakes import START, ManualClock, OneByOne, staged
from tocsin.errors import StorageUnavailableError
from tocsin.resilience.retry import RetryPolicy
from tocsin.streams.lanes import Lane
from tocsin.streams.quarantine import ENTRIES
from tocsin.streams.records import Entry, pack_block
from tocsin.wire.dead_letters import DeadLetter
from tocsin.wire.lanes import WIRE_VERSION, LaneName
from tocsin.wire.notifications import Attempt, Envelope, Notification

NOTE = Notification("reminder", "t", "r", "", "", "", "s", ("log",), "", 0.0, "", {}, START)
encode = msgspec.msgpack.encode


class Inbox(OneByOne):
    name = "log"

    def __init__(self, clock: ManualClock) -> None:
        self.ids: list[str] = []
        self.failures: dict[str, Failure] = {}
        self.clock = clock

    def answer(self, notification_id: str, notification: Notification) -> Failure | None:
        self.ids.append(notification_id)
        return self.failures.get(notification.title)


class Desk:
    """A router whose writes are looked at, never made."""

    def __init__(self, clock: ManualClock) -> None:
        nowhere = cast("aioredis.Redis", None)
        self.lane = Lane(nowhere, namespace="t", name="p2", partitions=2, block_records=4)
        self.keys = self.lane.keys
        self.inbox = Inbox(clock)
        retry = RetryPolicy(max_attempts=3, base_s=10.0, cap_s=60.0)
        deliver = Deliver({"log": self.inbox}, retry, clock, draw=lambda: 1.0)
        self.router = Router(
            (Expire(LaneName.P2),), deliver, Ledger(self.lane, nowhere, retention_s=60.0), self.keys, clock
        )


@pytest.fixture
def desk(clock: ManualClock) -> Desk:
    return Desk(clock)


def entry(*envelopes: Envelope, id_: str = "7-0", partition: int = 1) -> Entry:
    return Entry("p2", partition, id_, WIRE_VERSION, pack_block([encode(envelope) for envelope in envelopes]))


def titled(title: str) -> Envelope:
    return Envelope(msgspec.structs.replace(NOTE, title=title))


async def test_an_id_is_the_position_on_the_first_pass_and_the_receipts_afterwards(desk: Desk) -> None:
    await desk.router.handle([entry(Envelope(NOTE), Envelope(NOTE), Envelope(NOTE, "p2-1-3-0-9"))])
    assert desk.inbox.ids == ["p2-1-7-0-0", "p2-1-7-0-1", "p2-1-3-0-9"]


@pytest.mark.parametrize(
    ("version", "block"),
    [
        (WIRE_VERSION, b""),
        (WIRE_VERSION, b"\xc1"),
        (WIRE_VERSION, encode([1, 2])),
        (WIRE_VERSION, encode([["a notification", "no"]])),
        (WIRE_VERSION, pack_block([encode(Envelope(NOTE))])[:-1]),
        (WIRE_VERSION + 1, pack_block([encode(Envelope(NOTE))])),
        (0, pack_block([encode(Envelope(NOTE))])),
    ],
)
async def test_a_block_that_cannot_be_read_is_set_aside_and_the_others_are_delivered(
    desk: Desk, version: int, block: bytes
) -> None:
    broken = Entry("p2", 0, "6-0", version, block)
    pipe = staged(await desk.router.handle([broken, entry(Envelope(NOTE))]))
    assert desk.inbox.ids == ["p2-1-7-0-0"]
    assert pipe.counted(desk.keys.counts) == {"delivered": 1, "quarantined": 1}
    ((key, fields),) = pipe.named("xadd")
    assert key == desk.keys.quarantine
    assert fields == {"partition": 0, "entry": "6-0", "v": version, "b": block}
    assert {"maxlen": ENTRIES} in [options for _, _, options in pipe.calls]


async def test_nothing_but_a_broken_block_is_still_settled(desk: Desk) -> None:
    pipe = staged(await desk.router.handle([Entry("p2", 0, "6-0", WIRE_VERSION, b"")]))
    assert [command for command, _, _ in pipe.calls] == ["xadd", "hincrby"]


async def test_nothing_is_written_before_the_stage_runs_and_the_same_when_it_runs_twice(desk: Desk) -> None:
    stage = await desk.router.handle([entry(Envelope(NOTE))])
    assert staged(stage).calls == staged(stage).calls != []


async def test_each_end_has_its_own_writes(desk: Desk, clock: ManualClock) -> None:
    desk.inbox.failures = {
        "busy": Failure(FailureReason.TARGET_ERROR, "503"),
        "gone": Failure(FailureReason.REFUSED, "410"),
    }
    late = Envelope(msgspec.structs.replace(NOTE, expires_at=1.0))
    pipe = staged(await desk.router.handle([entry(Envelope(NOTE), titled("busy"), titled("gone"), late)]))
    assert pipe.counted(desk.keys.counts) == {"delivered": 1, "dead": 1, "expired": 1}
    ((_, letter_id, letter),) = [call for call in pipe.named("hset") if call and call[0] == desk.keys.dead]
    assert letter_id == "p2-1-7-0-2"
    assert msgspec.msgpack.decode(letter, type=DeadLetter).reason == "refused"
    scheduled = dict(pipe.named("zadd"))
    assert scheduled[desk.keys.dead_index] == {"p2-1-7-0-2": clock.now()}
    ((body, due),) = scheduled[desk.keys.retries(1)].items()
    again = msgspec.msgpack.decode(body, type=Envelope)
    assert again.id == "p2-1-7-0-1"
    assert again.attempts == (Attempt(START, "log", ok=False, reason="target_error", detail="503"),)
    assert due == clock.now() + 10.0


async def test_outcomes_have_a_ttl_that_only_grows_and_one_key_for_the_blocks_of_five_seconds(
    desk: Desk,
) -> None:
    blocks = [
        entry(*[Envelope(NOTE)] * 3),
        entry(Envelope(NOTE), id_="8-0"),
        entry(Envelope(NOTE), id_="5007-0"),
    ]
    pipe = staged(await desk.router.handle([*blocks, entry(Envelope(NOTE), partition=0)]))
    keys = [desk.keys.outcomes(1, "7-0"), desk.keys.outcomes(1, "5007-0"), desk.keys.outcomes(0, "7-0")]
    expiries = [call for call in pipe.calls if call[0] == "expire"]
    assert expiries == [("expire", (key, 60), only) for key in keys for only in ({"nx": True}, {"gt": True})]
    written = {call[1][0]: set(call[2]["mapping"]) for call in pipe.calls if call[0] == "hset"}
    assert written == {keys[0]: {"7-0", "8-0"}, keys[1]: {"7-0"}, keys[2]: {"7-0"}}


class SlowLookup:
    """A stage before the last: it takes as long as it is told, notification by notification."""

    def __init__(self) -> None:
        self.gates: dict[str, asyncio.Event] = {}
        self.broken: set[str] = set()

    async def __call__(self, batch: Sequence[Delivery], now: float) -> int:  # noqa: ARG002 (part of the port)
        for delivery in batch:
            if delivery.id in self.broken:
                raise StorageUnavailableError("the store does not answer")
            if (gate := self.gates.get(delivery.id)) is not None:
                await gate.wait()
        return 0


@pytest.fixture
def lookup(desk: Desk, clock: ManualClock) -> SlowLookup:
    found = SlowLookup()
    retry = RetryPolicy(max_attempts=3, base_s=10.0, cap_s=60.0)
    deliver = Deliver({"log": desk.inbox, "webhook": desk.inbox}, retry, clock)
    nowhere = cast("aioredis.Redis", None)
    desk.router = Router((found,), deliver, Ledger(desk.lane, nowhere, retention_s=60.0), desk.keys, clock)
    return found


async def test_a_block_does_not_overtake_one_that_is_still_looked_up(desk: Desk, lookup: SlowLookup) -> None:
    lookup.gates["p2-1-1-0-0"] = asyncio.Event()
    first = asyncio.ensure_future(desk.router.handle([entry(Envelope(NOTE), id_="1-0")]))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(desk.router.handle([entry(Envelope(NOTE), id_="2-0")]))
    for _ in range(5):
        await asyncio.sleep(0)
    assert desk.inbox.ids == []
    lookup.gates["p2-1-1-0-0"].set()
    await asyncio.gather(first, second)
    assert desk.inbox.ids == ["p2-1-1-0-0", "p2-1-2-0-0"]


async def test_a_block_for_one_channel_does_not_overtake_one_for_two(desk: Desk, lookup: SlowLookup) -> None:
    both = msgspec.structs.replace(NOTE, channels=("log", "webhook"))
    blocks = [[entry(Envelope(both), id_="1-0")], [entry(Envelope(NOTE), id_="2-0")]]
    await asyncio.gather(*(desk.router.handle(block) for block in blocks))
    assert desk.inbox.ids == ["p2-1-1-0-0", "p2-1-1-0-0", "p2-1-2-0-0"]


async def test_a_block_that_cannot_be_looked_up_holds_nobody_up(desk: Desk, lookup: SlowLookup) -> None:
    lookup.broken.add("p2-1-1-0-0")
    blocks = [[entry(Envelope(NOTE), id_="1-0")], [entry(Envelope(NOTE), id_="2-0")]]
    first, _ = await asyncio.gather(*(desk.router.handle(block) for block in blocks), return_exceptions=True)
    assert isinstance(first, StorageUnavailableError)
    assert desk.inbox.ids == ["p2-1-2-0-0"]
