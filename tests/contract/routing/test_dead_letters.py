"""Finding, replaying and purging dead letters on a real server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from redis import asyncio as aioredis

from routing.deliveries import Delivery, OutcomeReason
from routing.ledger.dead_letter_search import DeadLetterSearch
from routing.ledger.dead_letters import SCAN_PAGE, DeadLetters
from routing.ledger.ledger import Ledger
from tests.fakes import START, ManualClock
from tocsin.errors import NotFoundError
from tocsin.streams.lanes import Lane
from tocsin.streams.records import Record
from tocsin.wire.dead_letters import DeadLetterFilter, PurgeRequest, ReplayRequest
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import Attempt, Envelope, Notification, NotificationState

PARTITIONS = 2
encode = msgspec.msgpack.encode
decode = msgspec.msgpack.Decoder(list[Envelope]).decode


def note(recipient: str = "r", source: str = "shop") -> Notification:
    return Notification("reminder", "t", recipient, "", "", "", source, ("log",), "", 0.0, "", {}, START)


class Desk:
    """One lane whose notifications die at a word."""

    def __init__(self, client: aioredis.Redis, namespace: str, name: LaneName = LaneName.P2) -> None:
        self.lane = Lane(client, namespace=namespace, name=name, partitions=PARTITIONS, block_records=50)
        self.ledger = Ledger(self.lane, client, retention_s=3600.0)
        self.letters = DeadLetters(self.lane, client)
        self.search = DeadLetterSearch({name: self.letters}, ManualClock(), self._no_sleep)
        self._client = client

    @staticmethod
    async def _no_sleep(_seconds: float) -> None:
        await asyncio.sleep(0)

    async def accept(self, *notes: Notification) -> None:
        await self.lane.append([Record(n % PARTITIONS, encode(Envelope(one))) for n, one in enumerate(notes)])

    async def settle(
        self, state: NotificationState = NotificationState.DEAD, *, at: float = START, error: str = "410"
    ) -> list[str]:
        """Everything that waits comes to the same end; returns the ids."""
        entries = await self.lane.read("router", range(PARTITIONS), count=1000, block_ms=1)
        deliveries = []
        for entry in entries:
            for index, envelope in enumerate(decode(entry.block)):
                delivery = Delivery(envelope.id or entry.record_id(index), envelope)
                delivery.attempts = (Attempt(at, "log", ok=False, reason="refused", detail=error),)
                delivery.error = f"log: the target answered {error}"
                delivery.decide(state, OutcomeReason.REFUSED, at)
                deliveries.append(delivery)
        await self.lane.settle(entries, lambda pipe: self.ledger.stage(pipe, deliveries))
        return [delivery.id for delivery in deliveries]

    async def kill(
        self, number: int, *, at: float = START, error: str = "410", source: str = "shop"
    ) -> list[str]:
        await self.accept(*(note(f"r{n}", source) for n in range(number)))
        return await self.settle(at=at, error=error)

    async def counts(self) -> dict[str, int]:
        found: Any = await self._client.hgetall(self.lane.keys.counts)
        return {field.decode(): int(number) for field, number in found.items() if int(number)}


@pytest.fixture
async def desk(client: aioredis.Redis, namespace: str) -> Desk:
    made = Desk(client, namespace)
    await made.lane.ensure_groups()
    return made


async def test_letters_are_found_by_what_they_say(desk: Desk) -> None:
    old = await desk.kill(3, at=START, error="410", source="shop")
    new = await desk.kill(2, at=START + 100, error="503", source="alarm")
    later = datetime.fromtimestamp(START + 50, UTC)
    for wanted, expected in (
        (DeadLetterFilter(source="alarm"), new),
        (DeadLetterFilter(text="ANSWERED 41"), old),
        (DeadLetterFilter(since=later), new),
        (DeadLetterFilter(until=later), old),
        (DeadLetterFilter(reason="attempts_exhausted"), []),
        (DeadLetterFilter(), old + new),
    ):
        found = await desk.search.find(wanted, "", max_matches=100)
        assert {letter.id for letter in found.letters} == set(expected), wanted
        assert found.end is None


async def test_pages_cover_letters_that_died_in_the_same_moment(desk: Desk) -> None:
    dead = set(await desk.kill(2 * SCAN_PAGE + 5))
    seen: list[str] = []
    cursor = ""
    while True:
        found = await desk.search.find(DeadLetterFilter(), cursor, max_matches=SCAN_PAGE // 3)
        seen += [letter.id for letter in found.letters]
        if found.end is None:
            break
        cursor = str(found.end)
    assert len(seen) == len(set(seen))
    assert set(seen) == dead


async def test_a_page_stands_still_while_letters_above_it_are_replayed(desk: Desk) -> None:
    for second in range(6):
        await desk.kill(1, at=START + second)
    first = await desk.search.find(DeadLetterFilter(), "", max_matches=2)
    for letter in first.letters:
        await desk.letters.replay(letter)
    second_page = await desk.search.find(DeadLetterFilter(), str(first.end), max_matches=2)
    assert [letter.failed_at for letter in second_page.letters] == [START + 3, START + 2]


async def test_a_replay_of_many_moves_each_letter_once_and_the_sums_hold(desk: Desk) -> None:
    dead = await desk.kill(120)
    dry = await desk.search.replay(ReplayRequest(dry_run=True, limit=50))
    assert (len(dry.ids), dry.remaining) == (50, 70)
    assert await desk.letters.total() == 120
    done = await desk.search.replay(ReplayRequest(rate=1000.0))
    assert (set(done.ids), done.gone, done.remaining) == (set(dead), 0, 0)
    assert (await desk.lane.depth()).blocks == 120
    assert await desk.counts() == {"accepted": 120}
    assert set(await desk.settle(NotificationState.DELIVERED)) == set(dead)
    assert (await desk.counts())["delivered"] == 120


async def test_two_replays_at_once_move_nothing_twice(desk: Desk) -> None:
    dead = await desk.kill(60)
    one, two = await asyncio.gather(
        desk.search.replay(ReplayRequest(rate=1000.0)), desk.search.replay(ReplayRequest(rate=1000.0))
    )
    assert sorted(one.ids + two.ids) == sorted(dead)
    assert (await desk.lane.depth()).blocks == 60


async def test_a_replay_cut_short_is_simply_run_again(desk: Desk) -> None:
    dead = set(await desk.kill(40))
    moved = 0

    async def cut(_seconds: float) -> None:
        nonlocal moved
        moved += 1
        if moved == 15:
            raise asyncio.CancelledError

    broken = DeadLetterSearch({LaneName.P2: desk.letters}, ManualClock(), cut)
    with pytest.raises(asyncio.CancelledError):
        await broken.replay(ReplayRequest(rate=1000.0))
    assert ((await desk.lane.depth()).blocks, await desk.letters.total()) == (15, 25)
    await desk.search.replay(ReplayRequest(rate=1000.0))
    assert set(await desk.settle(NotificationState.DELIVERED)) == dead


async def test_what_dies_again_counts_its_replays_and_attempts_and_is_not_met_twice(desk: Desk) -> None:
    (sent,) = await desk.kill(1)
    for round_ in (1, 2):
        done = await desk.search.replay(ReplayRequest())
        await desk.settle(at=START + round_)
        letter = await desk.letters.get(sent)
        assert (letter.replays, letter.earlier_attempts, len(letter.attempts)) == (round_, round_, 1)
        assert done.cursor == ""
    assert await desk.counts() == {"accepted": 1, "dead": 1}


async def test_a_purge_deletes_for_good_and_the_sums_hold(desk: Desk) -> None:
    await desk.kill(5, source="shop")
    (kept,) = await desk.kill(1, source="alarm")
    wanted = DeadLetterFilter(source="shop")
    assert len((await desk.search.purge(PurgeRequest(filter=wanted, dry_run=True))).ids) == 5
    assert await desk.counts() == {"accepted": 6, "dead": 6}
    done = await desk.search.purge(PurgeRequest(filter=wanted))
    assert len(done.ids) == 5
    assert await desk.counts() == {"accepted": 6, "dead": 1, "purged": 5}
    assert not await desk.letters.purge(done.ids[0])
    assert (await desk.letters.get(kept)).id == kept
    with pytest.raises(NotFoundError):
        await desk.letters.get(done.ids[0])
    assert (await desk.ledger.status(done.ids[0])).state is NotificationState.DEAD


async def test_a_letter_of_another_lane_is_not_found(desk: Desk) -> None:
    (sent,) = await desk.kill(1)
    with pytest.raises(NotFoundError):
        await desk.letters.get(sent.replace("p2", "p1"))
