from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.ledger.dead_letter_search import MAX_SCANNED, DeadLetterSearch, merge
from routing.ledger.dead_letters import DeadLetters, LetterCursor, Scan, matches, view_dead_letter
from tests.fakes import START, ManualClock
from tocsin.errors import InvalidRecordError, NotFoundError
from tocsin.wire.dead_letters import DeadLetter, DeadLetterFilter, PurgeRequest, ReplayRequest
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import Attempt, Envelope, Notification

NOTE = Notification("reminder", "t", "anna", "", "", "", "shop", ("log",), "", 0.0, "", {}, START)
TRIED = (Attempt(START, "log", ok=False, reason="refused"),)


def letter(number: int, at: float = START, lane: str = "p2", **changes: Any) -> DeadLetter:
    made = DeadLetter(
        f"{lane}-0-{number}-0-0", lane, NOTE, "refused", "log: the target answered 410", at, TRIED
    )
    return msgspec.structs.replace(made, **changes)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, True),
        ({"lane": "p2", "reason": "refused", "source": "shop", "recipient": "anna"}, True),
        ({"lane": "p0"}, False),
        ({"reason": "attempts_exhausted"}, False),
        ({"source": "sho"}, False),
        ({"recipient": "Anna"}, False),
        ({"text": "ANSWERED 4"}, True),
        ({"text": "answered 5"}, False),
        ({"since": START, "until": START}, True),
        ({"since": START + 1}, False),
        ({"until": START - 1}, False),
    ],
)
def test_a_filter_holds_when_all_that_is_given_holds(wanted: dict[str, Any], expected: bool) -> None:
    times = {n: datetime.fromtimestamp(v, UTC) for n, v in wanted.items() if n in {"since", "until"}}
    assert matches(msgspec.convert(wanted | times, DeadLetterFilter), letter(1)) is expected


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 2**63))
def test_a_mark_survives_its_text(at: float, ms: int) -> None:
    mark = LetterCursor(at, f"p0-3-{ms}-0-17")
    assert LetterCursor.parse(str(mark)) == mark


@pytest.mark.parametrize(
    "bad", ["x", "_", "1.0_", "nan_p0-0-1-0-0", "inf_p0-0-1-0-0", "1.0_p0-0-1-0", "1,0_p0-0-1-0-0"]
)
def test_what_is_no_cursor_is_refused(bad: str) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        LetterCursor.parse(bad)
    assert caught.value.field == "cursor"


def test_lanes_merge_newest_first_and_nothing_a_later_look_would_miss_is_passed_over() -> None:
    ended = Scan(
        [letter(5, 50.0), letter(3, 30.0)], 2, LetterCursor(30.0, letter(3).id)
    )  # may hold more below 30
    whole = Scan([letter(4, 40.0, "p0"), letter(1, 10.0, "p0")], 2, None)
    found = merge([ended, whole], max_matches=10)
    assert [one.failed_at for one in found.letters] == [50.0, 40.0, 30.0]
    assert found.end == LetterCursor(30.0, letter(3).id)
    assert merge([ended, whole], max_matches=1).end == LetterCursor(50.0, letter(5).id)
    assert merge([whole], max_matches=2).end is None


class Shelf:
    """A lane's letters in memory."""

    def __init__(self, letters: Sequence[DeadLetter]) -> None:
        self.letters = {one.id: one for one in letters}
        self.replayed: list[str] = []

    async def total(self) -> int:
        return len(self.letters)

    async def scan(
        self,
        wanted: DeadLetterFilter,
        after: LetterCursor | None = None,
        *,
        max_matches: int,
        max_scanned: int,
    ) -> Scan:
        marks = sorted((LetterCursor(one.failed_at, one.id) for one in self.letters.values()), reverse=True)
        below = [mark for mark in marks if after is None or mark < after]
        seen: list[DeadLetter] = []
        for number, mark in enumerate(below, start=1):
            one = self.letters[mark.id]
            seen += [one] if matches(wanted, one) else []
            if len(seen) == max_matches or number == max_scanned:
                return Scan(seen, number, mark)
        return Scan(seen, len(below), None)

    async def replay(self, one: DeadLetter) -> bool:
        self.replayed.append(one.id)
        return self.letters.pop(one.id, None) is not None

    async def purge(self, letter_id: str) -> bool:
        return self.letters.pop(letter_id, None) is not None


class House:
    def __init__(self, *lanes: tuple[LaneName, Shelf]) -> None:
        self.clock = ManualClock()
        self.shelves = dict(lanes)
        self.search = DeadLetterSearch(
            cast("dict[LaneName, DeadLetters]", self.shelves), self.clock, self.sleep
        )

    async def sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)


@pytest.fixture
def house() -> House:
    urgent = Shelf([letter(n, START + n, "p0") for n in range(3)])
    many = Shelf([letter(n, START + n / 2, "p2") for n in range(20)])
    return House((LaneName.P0, urgent), (LaneName.P2, many))


async def test_a_dry_run_names_what_would_be_replayed_and_moves_nothing(house: House) -> None:
    done = await house.search.replay(ReplayRequest(filter=DeadLetterFilter(lane="p0"), dry_run=True))
    assert (len(done.ids), done.remaining, done.cursor, done.dry_run) == (3, 0, "", True)
    assert house.shelves[LaneName.P0].replayed == []


async def test_a_replay_keeps_its_rate_and_takes_p0_first(house: House) -> None:
    started = house.clock.monotonic()
    done = await house.search.replay(ReplayRequest(rate=10.0))
    assert house.clock.monotonic() - started == pytest.approx(2.3)
    assert [one.split("-")[0] for one in done.ids] == ["p0"] * 3 + ["p2"] * 20
    assert done.cursor == ""


async def test_a_request_takes_no_longer_than_five_seconds_and_says_what_remains(house: House) -> None:
    started = house.clock.monotonic()
    done = await house.search.replay(ReplayRequest(rate=2.0))
    assert house.clock.monotonic() - started == pytest.approx(5.0)
    assert (len(done.ids), done.remaining) == (10, 13)
    ids = list(done.ids)
    while done.cursor:
        done = await house.search.replay(ReplayRequest(rate=2.0, cursor=done.cursor))
        ids += done.ids
    assert len(set(ids)) == len(ids) == 23


async def test_what_somebody_else_replayed_meanwhile_is_counted_as_gone(house: House) -> None:
    found = await house.search.find(DeadLetterFilter(), "", max_matches=100)
    shelf = house.shelves[LaneName.P0]

    async def nothing_left(one: DeadLetter) -> bool:
        return False

    shelf.replay = nothing_left  # type: ignore[method-assign]
    done = await house.search.replay(ReplayRequest(rate=1000.0))
    assert (len(done.ids), done.gone) == (20, 3)
    assert len(found.letters) == 23


async def test_a_purge_is_bounded_and_goes_on_by_its_cursor(house: House) -> None:
    wanted = DeadLetterFilter(lane="p2")
    first = await house.search.purge(PurgeRequest(filter=wanted, limit=8))
    assert (len(first.ids), first.remaining) == (8, 12)
    rest = await house.search.purge(PurgeRequest(filter=wanted, cursor=first.cursor))
    assert (len(rest.ids), rest.remaining, rest.cursor) == (12, 0, "")
    assert await house.search.total(DeadLetterFilter()) == 3


async def test_one_look_is_bounded_and_says_where_it_ended() -> None:
    house = House((LaneName.P2, Shelf([letter(n, float(n)) for n in range(MAX_SCANNED + 10)])))
    rare = DeadLetterFilter(text="no such error")
    found = await house.search.find(rare, "", max_matches=1)
    assert (found.letters, found.scanned) == ([], MAX_SCANNED)
    assert found.end is not None
    assert (await house.search.find(rare, str(found.end), max_matches=1)).end is None


def test_an_id_of_no_lane_here_is_not_found(house: House) -> None:
    with pytest.raises(NotFoundError):
        house.search.lane_of("activity-0-1-0-0")


def test_attempts_add_up_over_replays_and_old_records_still_read() -> None:
    shown = view_dead_letter(letter(1, replays=2, earlier_attempts=10))
    assert (shown.attempt_count, shown.replays, len(shown.attempts)) == (11, 2, 1)
    old = msgspec.msgpack.encode(msgspec.structs.astuple(letter(1))[:7])
    assert msgspec.msgpack.decode(old, type=DeadLetter).replays == 0
    bare = msgspec.msgpack.encode([msgspec.structs.astuple(NOTE)])
    assert msgspec.msgpack.decode(bare, type=Envelope).earlier_attempts == 0
    assert math.isfinite(shown.failed_at.timestamp())
