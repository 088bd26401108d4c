"""The features of one advertiser as of any moment, from its history alone: one function for serving and training.

    History ──► Facts (sums by window, one pass over the tiles) ──► one number a feature, NaN where not defined

Tiles are exact where `as_of` lies after the newest event, which is the usual case, or on a midnight within the
horizon (`covers`). Any other moment cuts through a tile: then the events before it are folded (`at`), which is exact as
well. Sums are integers until the last division, so the order of events has no effect.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from msgspec import Struct

from features.definitions import DAY_S, FEATURE_NAMES, FEATURES, HOUR_S, LOOKBACK_DAYS, Aggregation
from features.tiles import (
    HORIZON_DAYS,
    MICROS,
    History,
    Tile,
    day_of,
    distinct,
    fold,
    week_of,
    week_start,
)
from tocsin.errors import NotFoundError
from tocsin.wire.activity import Activity

NAN: Final = math.nan
_BY_WEEKS: Final = (Aggregation.TREND_SLOPE, Aggregation.ACTIVE_WEEKS)
_WEEKS: Final = max(f.window_days for f in FEATURES if f.aggregation in _BY_WEEKS) // 7

_DAY_WINDOWS: Final = tuple(
    sorted(
        {feature.window_days for feature in FEATURES if feature.window_days > 1}
        | {2 * f.window_days for f in FEATURES if f.aggregation is Aggregation.TREND_RATIO}
    )
)


class Window(NamedTuple):
    """The activity of one window. `low` and `high` are 0 where there is none."""

    events: int
    micros: int
    low: int
    high: int
    campaigns: int
    active_days: int
    squares: int  # of the daily micros


class Facts(Struct, frozen=True, gc=False):
    """The inputs of all features. Days and weeks count from the epoch; `end` is the first day after that of `as_of`."""

    windows: dict[int, Window]
    end: int
    last_day: int
    weekly: list[int]  # micros by week counted back from the end, newest first
    active: int  # a bit for each such week with activity, newest lowest
    calendar_weeks: int
    first_week: int
    last_week: int


def step_of(as_of: float, step_s: float) -> int:
    """The number of the step (hour, day) that `as_of` falls into, ends included: where windows are cut."""
    return math.ceil(as_of / step_s)


def covers(history: History, as_of: float) -> bool:
    """Whether the tiles alone determine the features as of `as_of`."""
    if history.newest_event_time < as_of:
        return True
    if as_of % DAY_S:
        return False
    return not history.weeks or as_of / DAY_S - LOOKBACK_DAYS >= history.days[-1].start - HORIZON_DAYS


def at(history: History, events: Iterable[Activity], as_of: float) -> History | None:
    """The history as it counts at `as_of`: itself where it covers that moment, else of the events before it.

    `events` are all of the advertiser's, each once. None: there is none before `as_of`.
    """
    if covers(history, as_of):
        return history
    return fold(history.advertiser_id, [event for event in events if event.event_time < as_of])


def values(history: History | None, as_of: float) -> tuple[float, ...]:
    """The features as of `as_of` (epoch seconds), in the order of `FEATURES`; NaN where not defined.

    All are NaN where there is no activity before `as_of`. Raises NotFoundError where the history does not cover that
    moment; `at` gives one that does.
    """
    facts = None if history is None else _facts(history, as_of)
    if facts is None:
        return _UNDEFINED
    return tuple([read(facts, days) for read, days in _PLAN])


def compute(history: History | None, as_of: float) -> dict[str, float | None]:
    """The same by name; None where not defined."""
    return named(values(history, as_of))


def named(vector: Sequence[float]) -> dict[str, float | None]:
    """Values in the order of `FEATURES` by name; NaN becomes None."""
    return {
        name: value if value == value else None  # noqa: PLR0124 (NaN is not itself)
        for name, value in zip(FEATURE_NAMES, vector, strict=True)
    }


def _facts(history: History, as_of: float) -> Facts | None:
    """The sums of every window; None without activity before `as_of`."""
    if not covers(history, as_of):
        raise NotFoundError(
            f"the tiles of {history.advertiser_id} do not cover {as_of:.3f}",
            hint="fold the events before that moment",
        )
    end = step_of(as_of, DAY_S)
    days, weeks = history.days, history.weeks
    starts = [tile.start for tile in days]
    if history.newest_event_time >= as_of:
        stop = bisect_left(starts, end)
        days, starts = days[:stop], starts[:stop]
    if not days and not weeks:
        return None
    windows = {1: _window(_last_day(history, days, as_of, end))}
    _day_windows(windows, days, weeks, starts, end)
    weekly = [0] * _WEEKS
    active = 0
    for tile in days[bisect_left(starts, end - 7 * _WEEKS) :]:
        back = (end - 1 - tile.start) // 7
        weekly[back] += tile.micros
        active |= 1 << back
    numbers = {(start + 4) // 7 for start in starts}  # `week_of`, inline
    numbers.update([tile.start for tile in weeks])
    return Facts(
        windows=windows,
        end=end,
        last_day=starts[-1] if starts else day_of(weeks[-1].last_event_time),
        weekly=weekly,
        active=active,
        calendar_weeks=len(numbers),
        first_week=weeks[0].start if weeks else week_of(starts[0]),
        last_week=week_of(starts[-1]) if starts else weeks[-1].start,
    )


def _last_day(history: History, days: Sequence[Tile], as_of: float, end: int) -> Sequence[Tile]:
    """The tiles of the last 24 hours: one day at midnight, else hours."""
    if as_of % DAY_S == 0:
        return days[-1:] if days and days[-1].start == end - 1 else ()
    first = step_of(as_of, HOUR_S) - 24
    return [tile for tile in history.hours if tile.start >= first]


def _window(tiles: Sequence[Tile]) -> Window:
    if not tiles:
        return _EMPTY
    hashes = [found for tile in tiles for found in tile.campaigns]
    return Window(
        sum([tile.events for tile in tiles]),
        sum([tile.micros for tile in tiles]),
        min([tile.low for tile in tiles]),
        max([tile.high for tile in tiles]),
        distinct(hashes) if hashes else 0,
        0,
        0,
    )


def _day_windows(
    windows: dict[int, Window], days: Sequence[Tile], weeks: Sequence[Tile], starts: Sequence[int], end: int
) -> None:
    """Every window of whole days and the lifetime, each from the one within it and the tiles between them."""
    events = total = low = high = squares = counted = 0
    hashes: set[int] = set()
    stop = count = len(days)
    for length in (*_DAY_WINDOWS, 0):
        start = bisect_left(starts, end - length, 0, stop) if length else 0
        tiles: Sequence[Tile] = days[start:stop] if length else (*weeks, *days[:stop])
        if tiles:
            micros = [tile.micros for tile in tiles]
            lowest, highest = min([tile.low for tile in tiles]), max([tile.high for tile in tiles])
            low = lowest if not events or lowest < low else low
            high = max(high, highest)
            events += sum([tile.events for tile in tiles])
            total += sum(micros)
            if length:
                squares += sum([found * found for found in micros])
            before = len(hashes)
            for tile in tiles:
                if tile.campaigns:
                    hashes.update(tile.campaigns)
            if len(hashes) != before:
                counted = distinct(hashes)
        stop = start
        windows[length] = Window(events, total, low, high, counted, count - start, squares)


# --------------------------------------------------------------------------- one function an aggregation


def _mean(facts: Facts, days: int) -> float:
    window = facts.windows[days]
    return window.micros / (MICROS * window.events) if window.events else NAN


def _trend_ratio(facts: Facts, days: int) -> float:
    recent, both = facts.windows[days].micros, facts.windows[2 * days].micros
    return (2 * recent - both) / both if both else NAN


def _trend_slope(facts: Facts, days: int) -> float:
    """Least squares over weekly sums: x counts weeks from the oldest; all integers until the division."""
    weeks = days // 7
    sums = facts.weekly[weeks - 1 :: -1]
    first = weeks * (weeks - 1) // 2  # the sum of x
    weighted = sum([x * y for x, y in enumerate(sums)])
    spread = weeks * (weeks * (weeks - 1) * (2 * weeks - 1) // 6) - first * first
    return (weeks * weighted - first * sum(sums)) / (spread * MICROS)


def _volatility(facts: Facts, days: int) -> float:
    window = facts.windows[days]
    if not window.micros:
        return NAN
    return math.sqrt(days * window.squares - window.micros * window.micros) / window.micros


def _mean_gap(facts: Facts, _days: int) -> float:
    if facts.calendar_weeks < 2:
        return NAN
    return (facts.last_week - facts.first_week) / (facts.calendar_weeks - 1)


def _gap_ratio(facts: Facts, days: int) -> float:
    return (facts.end - 1 - facts.last_day) / (7 * _mean_gap(facts, days))


Read = Callable[[Facts, int], float]

_READ: Final[dict[Aggregation, Read]] = {
    Aggregation.COUNT: lambda facts, days: float(facts.windows[days].events),
    Aggregation.SUM: lambda facts, days: facts.windows[days].micros / MICROS,
    Aggregation.MEAN: _mean,
    Aggregation.MIN: lambda f, days: f.windows[days].low / MICROS if f.windows[days].events else NAN,
    Aggregation.MAX: lambda f, days: f.windows[days].high / MICROS if f.windows[days].events else NAN,
    Aggregation.DISTINCT_CAMPAIGNS: lambda facts, days: float(facts.windows[days].campaigns),
    Aggregation.DAYS_SINCE_LAST: lambda facts, _: float(facts.end - 1 - facts.last_day),
    Aggregation.TREND_RATIO: _trend_ratio,
    Aggregation.TREND_SLOPE: _trend_slope,
    Aggregation.VOLATILITY: _volatility,
    Aggregation.ACTIVE_DAY_SHARE: lambda facts, days: facts.windows[days].active_days / days,
    Aggregation.ACTIVE_WEEKS: lambda f, days: float((f.active & ((1 << days // 7) - 1)).bit_count()),
    Aggregation.CALENDAR_WEEKS: lambda facts, _: float(facts.calendar_weeks),
    Aggregation.TENURE: lambda facts, _: float(facts.end - week_start(facts.first_week)),
    Aggregation.WEEKLY_MEAN: lambda f, _: f.windows[0].micros / MICROS / f.calendar_weeks,
    Aggregation.MEAN_GAP: _mean_gap,
    Aggregation.GAP_RATIO: _gap_ratio,
}
_PLAN: Final = tuple((_READ[feature.aggregation], feature.window_days) for feature in FEATURES)
_UNDEFINED: Final = (NAN,) * len(FEATURES)
_EMPTY: Final = Window(0, 0, 0, 0, 0, 0, 0)
