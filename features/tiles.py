"""Tiles that merge: an advertiser's activity as small exact sums by hour, day and week.

    events ──► fold ──► History ◄──► merge
                          hours: the HOURS_KEPT up to the newest event's
                          days:  the HORIZON_DAYS up to the newest event's (an hour is in its day as well)
                          weeks: what is older, by calendar week

A history is a function of the *set* of events: order, repeats and lateness have no effect. Money is whole micros
(millionths of the currency) and every aggregate can be added, so histories of different events merge in any order to
the same result. A minimum or a campaign cannot be subtracted: where an event is restated, the
history is folded again from the event log.

Of several versions of one event id, the last to arrive counts (`later`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from operator import attrgetter
from typing import Final

import msgspec
from msgspec import Struct

from features.definitions import DAY_S, HOUR_S
from tocsin.errors import InvalidRecordError
from tocsin.wire.activity import Activity

HISTORY_VERSION = 2
HORIZON_DAYS = 730
HOURS_KEPT = 48
MICROS = 1_000_000
SKETCH_K = 64  # campaigns are counted exactly up to here
INT64_MAX = 2**63 - 1  # the widest integer MessagePack carries; sums stop there
_HASH_BITS = 64
_DAYS_TO_SUNDAY = 4  # day 0, 1970-01-01, was a Thursday


class Tile(Struct, frozen=True, array_like=True, gc=False):
    """The activity of one hour, day or calendar week: at least one event.

    `start` counts such hours, days or weeks from the epoch (see `day_of`, `hour_of`, `week_of`). `low` and `high` are
    of single events. `campaigns` is a bottom-k sketch: the smallest SKETCH_K + 1 hashes, ascending.
    """

    start: int
    events: int
    micros: int
    low: int
    high: int
    last_event_time: float
    campaigns: tuple[int, ...] = ()


class History(Struct, frozen=True, array_like=True, gc=False):
    """All that features depend on, of one advertiser. Tiles ascend, without repeats; `days` is never empty."""

    advertiser_id: str
    days: tuple[Tile, ...]
    hours: tuple[Tile, ...]
    weeks: tuple[Tile, ...] = ()

    @property
    def newest_event_time(self) -> float:
        """Of the newest event, in epoch seconds."""
        return self.days[-1].last_event_time


_start: Final = attrgetter("start")
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(History)


def day_of(event_time: float) -> int:
    """The UTC day, counted from the epoch, of a moment in epoch seconds."""
    return int(event_time // DAY_S)


def hour_of(event_time: float) -> int:
    """The hour, counted from the epoch, of a moment in epoch seconds."""
    return int(event_time // HOUR_S)


def week_of(day: int) -> int:
    """The calendar week, Sunday to Saturday, of a day counted from the epoch."""
    return (day + _DAYS_TO_SUNDAY) // 7


def week_start(week: int) -> int:
    """The Sunday that opens a calendar week, as a day counted from the epoch."""
    return 7 * week - _DAYS_TO_SUNDAY


def micros_of(amount: float) -> int:
    """An amount in whole micros."""
    return round(amount * MICROS)


@lru_cache(maxsize=65_536)
def campaign_hash(campaign_id: str) -> int:
    """A 64-bit hash of a campaign, the same in every process and version."""
    return int.from_bytes(blake2b(campaign_id.encode(), digest_size=8).digest(), "big")


def distinct(hashes: Iterable[int]) -> int:
    """How many campaigns a union of sketches holds: exact up to SKETCH_K, a deterministic estimate above."""
    smallest = sorted(set(hashes))
    if len(smallest) <= SKETCH_K:
        return len(smallest)
    return (SKETCH_K << _HASH_BITS) // smallest[SKETCH_K]


def content(activity: Activity) -> tuple[object, ...]:
    """The fields of an event that a restatement changes: all but its ids, arrival and `backdated`."""
    return (
        activity.event_time,
        activity.amount,
        activity.kind,
        activity.campaign_id,
        activity.currency,
    )


def later(one: Activity, other: Activity) -> Activity:
    """The version that counts of two of one event id: the last to arrive, by content where that is a tie."""
    if one.arrival != other.arrival:
        return one if one.arrival > other.arrival else other
    return one if (content(one), one.backdated) >= (content(other), other.backdated) else other


def current(activities: Iterable[Activity]) -> dict[str, Activity]:
    """The version that counts of each event id; all of one advertiser."""
    found: dict[str, Activity] = {}
    for activity in activities:
        known = found.get(activity.event_id)
        found[activity.event_id] = activity if known is None else later(known, activity)
    return found


def fold(advertiser_id: str, events: Iterable[Activity]) -> History | None:
    """The history of different events of one advertiser; None without any."""
    days: dict[int, list[Activity]] = {}
    newest = 0.0
    for event in events:
        at = event.event_time
        newest = at if not days or at > newest else newest
        day = int(at // DAY_S)
        if day in days:
            days[day].append(event)
        else:
            days[day] = [event]
    if not days:
        return None
    first_hour = hour_of(newest) - HOURS_KEPT + 1
    hours: dict[int, list[Activity]] = {}
    for day in range(first_hour // 24, day_of(newest) + 1):
        for event in days.get(day, ()):
            hour = int(event.event_time // HOUR_S)
            if hour >= first_hour:
                hours.setdefault(hour, []).append(event)
    return _bounded(
        advertiser_id,
        [_tile(day, days[day]) for day in sorted(days)],
        [_tile(hour, hours[hour]) for hour in sorted(hours)],
        (),
    )


def merge(left: History, right: History) -> History:
    """The history of the events of both, which must be different ones; commutative and associative.

    Raises ValueError where they are of two advertisers.
    """
    if left.advertiser_id != right.advertiser_id:
        raise ValueError(f"histories of two advertisers: {left.advertiser_id} and {right.advertiser_id}")
    days = _united(left.days, right.days)
    hours = _united(left.hours, right.hours)
    weeks = _united(left.weeks, right.weeks) if right.weeks else left.weeks
    return _bounded(left.advertiser_id, days, hours, weeks)


def encode(history: History) -> bytes:
    """One version byte, then MessagePack."""
    return b"%c%b" % (HISTORY_VERSION, _encoder.encode(history))


def decode(data: bytes) -> History:
    """The history in `data`. Raises InvalidRecordError where it is of another version or malformed."""
    if not data or data[0] != HISTORY_VERSION:
        found = data[0] if data else "none"
        raise InvalidRecordError(f"history of version {found}, expected {HISTORY_VERSION}", field="version")
    try:
        return _decoder.decode(memoryview(data)[1:])
    except msgspec.DecodeError as error:
        raise InvalidRecordError(f"malformed history: {error}") from error


def _tile(start: int, events: Sequence[Activity]) -> Tile:
    amounts = [round(event.amount * MICROS) for event in events]
    named = {event.campaign_id for event in events if event.campaign_id}
    return Tile(
        start,
        len(events),
        min(sum(amounts), INT64_MAX),
        min(amounts),
        max(amounts),
        max([event.event_time for event in events]),
        tuple(sorted(map(campaign_hash, named))[: SKETCH_K + 1]) if named else (),
    )


def _sum_of(left: Tile, right: Tile) -> Tile:
    campaigns = left.campaigns
    if right.campaigns and right.campaigns != campaigns:
        campaigns = tuple(sorted({*campaigns, *right.campaigns})[: SKETCH_K + 1])
    return Tile(
        left.start,
        left.events + right.events,
        min(left.micros + right.micros, INT64_MAX),
        min(left.low, right.low),
        max(left.high, right.high),
        max(left.last_event_time, right.last_event_time),
        campaigns,
    )


def _united(left: Sequence[Tile], right: Sequence[Tile]) -> list[Tile]:
    tiles = list(left)
    for tile in right:
        if not tiles or tiles[-1].start < tile.start:  # the usual case: newer than all
            tiles.append(tile)
            continue
        at = bisect_left(tiles, tile.start, key=_start)
        if tiles[at].start == tile.start:
            tiles[at] = _sum_of(tiles[at], tile)
        else:
            tiles.insert(at, tile)
    return tiles


def _bounded(advertiser_id: str, days: list[Tile], hours: list[Tile], weeks: Sequence[Tile]) -> History:
    """Hours and days as far back as they are kept; older days go into their weeks."""
    newest = days[-1]
    first_hour = hour_of(newest.last_event_time) - HOURS_KEPT + 1
    if hours[0].start < first_hour:
        hours = hours[bisect_left(hours, first_hour, key=_start) :]
    first_day = newest.start - HORIZON_DAYS
    if days[0].start < first_day:
        cut = bisect_left(days, first_day, key=_start)
        folded: list[Tile] = list(weeks)
        for day in days[:cut]:
            folded = _united(folded, (msgspec.structs.replace(day, start=week_of(day.start)),))
        days, weeks = days[cut:], folded
    return History(advertiser_id, tuple(days), tuple(hours), tuple(weeks))
