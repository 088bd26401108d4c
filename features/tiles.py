"""Windows that merge: an advertiser's activity as sums by UTC day.

    changes ──► apply ──► AdvertiserHistory ◄──► merge
                              tiles: one a day, the last HORIZON_DAYS behind the newest
                              weeks: what is older, one sum a calendar week

Adding is exact: money is whole micros (millionths of the currency), so sums do not depend on order and a
restated event is taken out again to the last digit. Histories therefore merge in any order to the same result.

A tile's `last_event_time` is the latest ever seen on that day and is not taken back, because a maximum cannot be
undone. A tile emptied by a restatement stays, with zero events, for the same reason; no feature counts it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Final

import msgspec
from msgspec import Struct

from features.definitions import DAY_S
from tocsin.errors import InvalidRecordError
from tocsin.schemas import Activity

HISTORY_VERSION = 1
HORIZON_DAYS = 730
MICROS = 1_000_000
_INT64_MAX = 2**63 - 1  # the widest integer MessagePack carries
_DAYS_TO_SUNDAY = 4  # day 0, 1970-01-01, was a Thursday

Change = tuple[Activity | None, Activity]
"""What an event was before, where it is restated, and what it is now."""


class Tile(Struct, frozen=True, array_like=True, gc=False):
    """The activity of one UTC day (days since the epoch). Sums saturate at 9.2e12 in the currency."""

    day: int
    micros: int
    events: int
    last_event_time: float

    @property
    def amount(self) -> float:
        """Spend, in the currency of the source."""
        return self.micros / MICROS


class Week(Struct, frozen=True, array_like=True, gc=False):
    """The activity of one calendar week beyond the horizon (see `week_of`)."""

    week: int
    micros: int
    events: int


class AdvertiserHistory(Struct, frozen=True, array_like=True, gc=False):
    """All that features need to know of one advertiser. `tiles` and `weeks` ascend, without repeats."""

    advertiser_id: str
    tiles: tuple[Tile, ...] = ()
    weeks: tuple[Week, ...] = ()

    @property
    def lifetime_amount(self) -> float:
        """Spend ever, in the currency of the source."""
        return (sum(tile.micros for tile in self.tiles) + sum(week.micros for week in self.weeks)) / MICROS

    @property
    def lifetime_events(self) -> int:
        """Events ever."""
        return sum(tile.events for tile in self.tiles) + sum(week.events for week in self.weeks)

    @property
    def last_event_time(self) -> float | None:
        """Of the newest day with activity, in epoch seconds; None where nothing is left within the horizon."""
        return next((tile.last_event_time for tile in reversed(self.tiles) if tile.events > 0), None)


_day: Final = attrgetter("day")
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(AdvertiserHistory)


def day_of(event_time: float) -> int:
    """The UTC day, counted from the epoch, of a moment in epoch seconds."""
    return int(event_time // DAY_S)


def week_of(day: int) -> int:
    """The calendar week, Sunday to Saturday, of a day counted from the epoch."""
    return (day + _DAYS_TO_SUNDAY) // 7


def week_start(week: int) -> int:
    """The Sunday that opens a calendar week, as a day counted from the epoch."""
    return 7 * week - _DAYS_TO_SUNDAY


def apply(history: AdvertiserHistory | None, changes: Sequence[Change]) -> AdvertiserHistory:
    """Add events to a history, and take out what they restate.

    All changes are of one advertiser. Raises ValueError where they are not, or where there is neither a history
    nor a change.
    """
    if not changes:
        if history is None:
            raise ValueError("no history and no change: nothing to tell the advertiser by")
        return history
    advertiser_id = changes[0][1].advertiser_id
    days: dict[int, Tile] = {}
    for previous, current in changes:
        if current.advertiser_id != advertiser_id:
            raise ValueError(f"changes of two advertisers: {advertiser_id} and {current.advertiser_id}")
        if previous is not None:
            _count(days, previous, -1)
        _count(days, current, 1)
    delta = AdvertiserHistory(advertiser_id, tuple(days[day] for day in sorted(days)))
    return merge(history or AdvertiserHistory(advertiser_id), delta)


def merge(left: AdvertiserHistory, right: AdvertiserHistory) -> AdvertiserHistory:
    """The sum of two histories of one advertiser; commutative and associative.

    Raises ValueError where they are of two advertisers.
    """
    if left.advertiser_id != right.advertiser_id:
        raise ValueError(f"histories of two advertisers: {left.advertiser_id} and {right.advertiser_id}")
    tiles = list(left.tiles)
    for tile in right.tiles:
        at = bisect_left(tiles, tile.day, key=_day)
        if at < len(tiles) and tiles[at].day == tile.day:
            tiles[at] = _sum_of(tiles[at], tile)
        else:
            tiles.insert(at, tile)
    beyond = bisect_left(tiles, tiles[-1].day - HORIZON_DAYS, key=_day) if tiles else 0
    weeks = left.weeks
    if beyond or right.weeks:
        weeks = _fold((*left.weeks, *right.weeks), tiles[:beyond])
    return AdvertiserHistory(left.advertiser_id, tuple(tiles[beyond:]), weeks)


def encode(history: AdvertiserHistory) -> bytes:
    """One version byte, then MessagePack."""
    return bytes((HISTORY_VERSION,)) + _encoder.encode(history)


def decode(data: bytes) -> AdvertiserHistory:
    """The history in `data`. Raises InvalidRecordError where it is of another version or malformed."""
    if not data or data[0] != HISTORY_VERSION:
        found = data[0] if data else "none"
        raise InvalidRecordError(
            f"advertiser history of version {found}, expected {HISTORY_VERSION}", field="version"
        )
    try:
        return _decoder.decode(memoryview(data)[1:])
    except msgspec.DecodeError as error:
        raise InvalidRecordError(f"malformed advertiser history: {error}") from error


def _count(days: dict[int, Tile], activity: Activity, sign: int) -> None:
    day = day_of(activity.event_time)
    tile = Tile(day, sign * round(activity.amount * MICROS), sign, activity.event_time)
    days[day] = _sum_of(days[day], tile) if day in days else tile


def _sum_of(left: Tile, right: Tile) -> Tile:
    return Tile(
        left.day,
        _saturate(left.micros + right.micros),
        left.events + right.events,
        max(left.last_event_time, right.last_event_time),
    )


def _fold(weeks: Iterable[Week], tiles: Iterable[Tile]) -> tuple[Week, ...]:
    sums: dict[int, Week] = {}
    for found in (*weeks, *(Week(week_of(tile.day), tile.micros, tile.events) for tile in tiles)):
        known = sums.get(found.week, Week(found.week, 0, 0))
        sums[found.week] = Week(
            found.week, _saturate(known.micros + found.micros), known.events + found.events
        )
    return tuple(sums[week] for week in sorted(sums) if sums[week].events or sums[week].micros)


def _saturate(micros: int) -> int:
    return max(-_INT64_MAX, min(_INT64_MAX, micros))
