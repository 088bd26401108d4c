"""The features of many questions at once: `features.vectors.values` over columns, to the same last bit.

Every window of a question is a range of the sorted events, so counts, sums and days are differences of running
totals, minima and maxima are reductions over day tiles, and distinct campaigns are those whose last event before the
question lies in the window. All sums are int64; a quotient is taken in float64 where both sides are exact there, and
by Python's exact integers where not. Sums that could overflow are left to `features.vectors` (see `fits`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, Final

import numpy as np

from features import tiles
from features.definitions import DAY_S, HOUR_S, LIFETIME, Aggregation, Feature
from features.offline.timelines import Floats, Ints, Mask, Timelines, expand
from features.tiles import MICROS, SKETCH_K

_EXACT: Final = 2**53  # integers up to here are exact as float64
_LIMB: Final = 27  # bits: a day's micros are split in two such, so that their squares can be added
_week_of: Any = tiles.week_of  # of columns as of numbers
_week_start: Any = tiles.week_start
_PAIRS: Final = 4_000_000  # (question, campaign) pairs held at once


def fits(lines: Timelines) -> Mask:
    """Which questions stay within exact arithmetic here: those on timelines of less than 2^53 micros (9e9) in all."""
    count = int(max(lines.timeline.max(initial=-1), lines.asked.max(initial=-1))) + 1
    totals = np.bincount(lines.timeline, weights=np.abs(lines.amount) * MICROS, minlength=count)
    found: Mask = totals[lines.asked] < _EXACT / 2  # the totals are rounded themselves
    return found


def values(lines: Timelines, features: Sequence[Feature]) -> Floats:
    """The features of each question, in the order of both: (questions, features), NaN where not defined."""
    found = np.full((len(lines.row), len(features)), np.nan)
    seen = Seen(lines)
    if len(seen.keep):
        for column, feature in enumerate(features):
            found[seen.keep, column] = _READ[feature.aggregation](seen, feature.window_days)
    return found


class Seen:
    """The events that the questions see, for questions that see any; arrays are (questions,) unless stated otherwise.

    Events and day tiles are addressed by position: a window is the events [start(days), stop).
    """

    def __init__(self, lines: Timelines) -> None:
        self.lines = lines
        self._day = np.floor_divide(lines.time, DAY_S).astype(np.int64)  # (events,)
        first = np.searchsorted(lines.timeline, lines.asked)
        stop = bisect(
            lines.time, first, np.searchsorted(lines.timeline, lines.asked, side="right"), lines.as_of
        )
        self.keep: Ints = np.flatnonzero(stop > first)
        self.first: Ints = first[self.keep]
        self.stop: Ints = stop[self.keep]
        self.as_of: Floats = lines.as_of[self.keep]
        self.end: Ints = np.ceil(self.as_of / DAY_S).astype(np.int64)  # the first day after that of as_of
        self.last_day: Ints = self._day[self.stop - 1]
        self.first_week: Ints = _week_of(self._day[self.first])
        self.last_week: Ints = _week_of(self.last_day)
        self._starts: dict[int, Ints] = {LIFETIME: self.first}
        self._tile_starts: dict[int, Ints] = {}
        self._micros = np.rint(lines.amount * MICROS).astype(np.int64)  # (events,), as `tiles.micros_of`
        new = _changes(lines.timeline, self._day)
        self._tile = np.cumsum(new) - 1  # (events,): the day tile of each
        self._tile_first = np.append(np.flatnonzero(new), len(new))  # (tiles + 1,): events
        self._last_tile = self._tile[self.stop - 1]
        self._totals = _running(self._micros)

    def start(self, days: int) -> Ints:
        """The first event of a window."""
        if days not in self._starts:
            if days == 1:
                hours = np.floor_divide(self.lines.time, HOUR_S)
                begin = np.ceil(self.as_of / HOUR_S) - 24
                self._starts[days] = bisect(hours, self.first, self.stop, begin)
            else:
                self._starts[days] = np.minimum(self._tile_first[self._tile_start(days)], self.stop)
        return self._starts[days]

    def _tile_start(self, days: int) -> Ints:
        """The first day tile of a window of days, or the tile after the last that is seen."""
        if days not in self._tile_starts:
            begin = self._tile[self.first]
            if days != LIFETIME:
                tile_days = self._day[self._tile_first[:-1]]
                begin = bisect(tile_days, begin, self._last_tile + 1, self.end - days)
            self._tile_starts[days] = begin
        return self._tile_starts[days]

    def events(self, days: int) -> Ints:
        """How many events the window holds."""
        return self.stop - self.start(days)

    def micros(self, days: int) -> Ints:
        """Their sum."""
        return self._totals[self.stop] - self._totals[self.start(days)]

    def active_days(self, days: int) -> Ints:
        """How many days with activity it holds."""
        return self._last_tile + 1 - self._tile_start(days)

    def extreme(self, days: int, reduce: np.ufunc) -> Floats:
        """The smallest or largest amount in micros, over whole day tiles and then the events of the last day."""
        start = self.start(days)
        if days == 1:
            return _reduced(reduce, self._micros, start, self.stop)
        daily = reduce.reduceat(self._micros, self._tile_first[:-1])
        last = np.maximum(start, self._tile_first[self._last_tile])
        whole = _reduced(reduce, daily, self._tile_start(days), self._last_tile)
        found: Floats = _IGNORING_NAN[reduce](whole, _reduced(reduce, self._micros, last, self.stop))
        return found

    def squares(self, days: int) -> list[int]:
        """The sum of the squared daily micros, which needs more than 64 bits."""
        low, mid, high = (self._squares_of(limb, days) for limb in range(3))
        return [
            c + (b << _LIMB + 1) + (a << 2 * _LIMB)
            for a, b, c in zip(high.tolist(), mid.tolist(), low.tolist(), strict=True)
        ]

    def _squares_of(self, limb: int, days: int) -> Ints:
        begin, last = self._tile_start(days), self._last_tile
        totals = self._limb_totals[limb]
        seen = last >= begin
        partial_day = self._totals[self.stop] - self._totals[self._tile_first[last]]
        found: Ints = np.where(
            seen, totals[last] - totals[np.minimum(begin, last)] + _limbs(partial_day)[limb], 0
        )
        return found

    @cached_property
    def _limb_totals(self) -> tuple[Ints, Ints, Ints]:
        daily = np.diff(self._totals[self._tile_first])
        low, mid, high = (_running(limb) for limb in _limbs(daily))
        return low, mid, high

    @cached_property
    def calendar_weeks(self) -> Ints:
        """Calendar weeks with activity, ever."""
        new = _changes(self.lines.timeline, _week_of(self._day))
        number: Ints = np.cumsum(new)
        found: Ints = number[self.stop - 1] - number[self.first] + 1
        return found

    def campaigns(self, days: int) -> Ints:
        """Distinct campaigns of the window: exact up to SKETCH_K, above that as `tiles.distinct` estimates."""
        found = np.zeros(len(self.stop), dtype=np.int64)
        start = self.start(days)
        for inside, owner, newest, hashes in self._newest:
            there = newest >= start[owner]
            count = np.bincount(owner[there] - inside.start, minlength=inside.stop - inside.start)
            many = np.flatnonzero(count > SKETCH_K)
            if len(many):
                number = np.cumsum(there)
                before = (
                    number[np.searchsorted(owner, many + inside.start)]
                    - there[np.searchsorted(owner, many + inside.start)]
                )
                at = np.searchsorted(number, before + SKETCH_K + 1)
                count[many] = [(SKETCH_K << 64) // smallest for smallest in hashes[at].tolist()]
            found[inside] = count
        return found

    @cached_property
    def _newest(self) -> list[tuple[slice, Ints, Ints, Any]]:
        """For each question and campaign of its timeline: the newest event of that campaign it sees, -1 for none.

        In portions of questions: (which, the question of each pair, the event, the campaign's hash); the campaigns
        of a question ascend by hash.
        """
        lines = self.lines
        named = np.flatnonzero(lines.campaign >= 0)
        width, size = len(lines.campaigns.hashes), len(lines.time)
        if not len(named):
            return []
        pairs, code = np.unique(lines.timeline[named] * width + lines.campaign[named], return_inverse=True)
        events = np.sort(code * size + named)  # by timeline, campaign and time
        asked = lines.asked[self.keep]
        low = np.searchsorted(pairs, asked * width)
        length = np.searchsorted(pairs, (asked + 1) * width) - low
        found = []
        cuts = _cuts(length, _PAIRS)
        for begin, after in itertools.pairwise(cuts):
            pair, owner = expand(low[begin:after], length[begin:after])
            owner += begin
            at = np.searchsorted(events, pair * size + self.stop[owner]) - 1
            event = np.where(at >= 0, events[at], -1)
            newest = np.where(event // size == pair, event % size, -1)
            found.append((slice(begin, after), owner, newest, lines.campaigns.hashes[pairs[pair] % width]))
        return found


def bisect(sorted_values: Any, low: Ints, high: Ints, wanted: Any) -> Ints:
    """For each i, the first position in [low[i], high[i]) whose value is not below wanted[i], else high[i]."""
    low, high = low.copy(), high.copy()
    while (open_ := low < high).any():
        middle = (low + high) >> 1
        below = open_ & (sorted_values[np.minimum(middle, len(sorted_values) - 1)] < wanted)
        low = np.where(below, middle + 1, low)
        high = np.where(open_ & ~below, middle, high)
    return low


def _changes(*columns: Ints) -> Mask:
    """Where any of the columns differs from the row before; the first row does."""
    new = np.zeros(len(columns[0]), dtype=np.bool_)
    new[:1] = True
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return new


def _running(column: Ints) -> Ints:
    """Sums of all before each position: one longer than the column."""
    return np.concatenate([[0], np.cumsum(column)])


def _limbs(micros: Ints) -> tuple[Ints, Ints, Ints]:
    high, low = micros >> _LIMB, micros & ((1 << _LIMB) - 1)
    return low * low, low * high, high * high


def _reduced(reduce: np.ufunc, column: Ints, start: Ints, stop: Ints) -> Floats:
    """The reduction of each range [start, stop), NaN for an empty one."""
    padded = np.append(column, 0)
    bounds = np.stack([start, np.maximum(start, stop)], axis=1).ravel()
    found = reduce.reduceat(padded, bounds)[::2]
    return np.where(start < stop, found, np.nan)


def _cuts(sizes: Ints, most: int) -> list[int]:
    """Where to cut into portions of about `most` together; the first is 0, the last the length."""
    total = np.cumsum(sizes)
    cuts = [0]
    while cuts[-1] < len(sizes):
        done = int(total[cuts[-1] - 1]) if cuts[-1] else 0
        cuts.append(max(cuts[-1] + 1, int(np.searchsorted(total, done + most, side="right"))))
    return cuts


_IGNORING_NAN: Final[dict[Any, Any]] = {np.minimum: np.fmin, np.maximum: np.fmax}


# --------------------------------------------------------------------------- one function an aggregation


def _ratio(above: Ints, below: Ints | int) -> Floats:
    """The quotient of integers, rounded once; NaN where the divisor is 0."""
    divisor = np.broadcast_to(below, above.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(divisor == 0, np.nan, above / divisor)
    for at in np.flatnonzero((np.abs(above) > _EXACT) | (np.abs(divisor) > _EXACT)):
        found[at] = int(above[at]) / int(divisor[at]) if divisor[at] else math.nan
    return found


def _mean(seen: Seen, days: int) -> Floats:
    return _ratio(seen.micros(days), MICROS * seen.events(days))


def _extreme(seen: Seen, days: int, reduce: np.ufunc) -> Floats:
    return seen.extreme(days, reduce) / MICROS


def _trend_ratio(seen: Seen, days: int) -> Floats:
    recent, both = seen.micros(days), seen.micros(2 * days)
    return _ratio(2 * recent - both, both)


def _trend_slope(seen: Seen, days: int) -> Floats:
    weeks = days // 7
    back = [np.zeros_like(seen.stop), *(seen.micros(7 * (week + 1)) for week in range(weeks))]
    sums = [after - before for before, after in itertools.pairwise(back)][::-1]  # oldest first
    first = weeks * (weeks - 1) // 2
    weighted = sum(x * y for x, y in enumerate(sums))
    spread = weeks * (weeks * (weeks - 1) * (2 * weeks - 1) // 6) - first * first
    return _ratio(np.asarray(weeks * weighted - first * sum(sums)), spread * MICROS)


def _volatility(seen: Seen, days: int) -> Floats:
    micros = seen.micros(days).tolist()
    return np.array(
        [
            math.sqrt(days * square - total * total) / total if total else math.nan
            for square, total in zip(seen.squares(days), micros, strict=True)
        ]
    )


def _active_weeks(seen: Seen, days: int) -> Floats:
    found = np.zeros(len(seen.stop))
    after = seen.stop
    for week in range(1, days // 7 + 1):
        start = seen.start(7 * week)
        found += start < after
        after = start
    return found


def _mean_gap(seen: Seen, _days: int) -> Floats:
    return _ratio(seen.last_week - seen.first_week, seen.calendar_weeks - 1)


def _days_since(seen: Seen, _days: int) -> Floats:
    return (seen.end - 1 - seen.last_day).astype(np.float64)


Read = Callable[[Seen, int], Any]

_READ: Final[dict[Aggregation, Read]] = {
    Aggregation.COUNT: Seen.events,
    Aggregation.SUM: lambda seen, days: _ratio(seen.micros(days), MICROS),
    Aggregation.MEAN: _mean,
    Aggregation.MIN: partial(_extreme, reduce=np.minimum),
    Aggregation.MAX: partial(_extreme, reduce=np.maximum),
    Aggregation.DISTINCT_CAMPAIGNS: Seen.campaigns,
    Aggregation.DAYS_SINCE_LAST: _days_since,
    Aggregation.TREND_RATIO: _trend_ratio,
    Aggregation.TREND_SLOPE: _trend_slope,
    Aggregation.VOLATILITY: _volatility,
    Aggregation.ACTIVE_DAY_SHARE: lambda seen, days: _ratio(seen.active_days(days), days),
    Aggregation.ACTIVE_WEEKS: _active_weeks,
    Aggregation.CALENDAR_WEEKS: lambda seen, _: seen.calendar_weeks,
    Aggregation.TENURE: lambda seen, _: seen.end - _week_start(seen.first_week),
    Aggregation.WEEKLY_MEAN: lambda seen, _: _ratio(seen.micros(LIFETIME), MICROS) / seen.calendar_weeks,
    Aggregation.MEAN_GAP: _mean_gap,
    Aggregation.GAP_RATIO: lambda seen, days: _days_since(seen, days) / (7 * _mean_gap(seen, days)),
}
