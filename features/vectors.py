"""Online vectors: the features of one advertiser as of a moment, from its history alone.

Event time decides: a day counts when it *starts* before `as_of`, whatever has arrived since. A moment at midnight
UTC is therefore exact; within a day, the whole of that day's tile counts, as far as it is known. The same
function makes the training data (`features.offline`), so the two cannot differ.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from features.definitions import DAY_S, FEATURES, LOOKBACK_DAYS, VIEW_NAME, VIEW_VERSION
from features.tiles import HORIZON_DAYS, MICROS, AdvertiserHistory, Tile, week_of, week_start
from tocsin.clock import to_datetime
from tocsin.errors import NotFoundError
from tocsin.schemas import FeaturesAnswer, FeatureValue

_FOUR_WEEKS = 0b1111


class _Weeks(NamedTuple):
    """Active calendar weeks: how many, the first, the last; and what was spent in them."""

    active: int
    first: int
    last: int
    micros: int


class _Windows(NamedTuple):
    """Micros spent in the last so many days, and a bit for each of the last 12 weeks with activity."""

    last_7: int
    last_28: int
    last_56: int
    last_84: int
    last_168: int
    active_weeks: int


def compute(history: AdvertiserHistory, as_of: float) -> dict[str, float | None]:
    """The features as of `as_of` (epoch seconds), by name in the order of `FEATURE_NAMES`; None: not defined.

    Raises NotFoundError where the advertiser has no activity before `as_of`, or where that moment lies so far
    back that its days are already folded into weeks.
    """
    end, tiles = _covered(history, as_of)
    weeks = _calendar_weeks(history, tiles)
    windows = _recent(tiles, end)
    days_since = float(end - 1 - tiles[-1].day)
    lifetime_spend = weeks.micros / MICROS
    mean_gap = (weeks.last - weeks.first) / (weeks.active - 1) if weeks.active > 1 else None
    return {
        "days_since_last_campaign": days_since,
        "spend_7d": windows.last_7 / MICROS,
        "spend_28d": windows.last_28 / MICROS,
        "spend_56d": windows.last_56 / MICROS,
        "spend_84d": windows.last_84 / MICROS,
        "spend_trend_28d": _trend(windows.last_28, windows.last_56),
        "spend_trend_84d": _trend(windows.last_84, windows.last_168),
        "active_weeks_4w": float((windows.active_weeks & _FOUR_WEEKS).bit_count()),
        "active_weeks_12w": float(windows.active_weeks.bit_count()),
        "active_weeks_lifetime": float(weeks.active),
        "tenure_days": float(end - week_start(weeks.first)),
        "lifetime_spend": lifetime_spend,
        "weekly_spend_mean": lifetime_spend / weeks.active,
        "mean_gap_weeks": mean_gap,
        "gap_ratio": None if mean_gap is None else days_since / (7 * mean_gap),
    }


def answer(history: AdvertiserHistory, as_of: float) -> FeaturesAnswer:
    """The vector with what is needed to trust it: the newest event behind each feature, its age, its freshness.

    A feature over a window that saw no event has no event time and is not fresh. Raises NotFoundError as
    `compute` does.
    """
    values = compute(history, as_of)
    end, tiles = _covered(history, as_of)
    newest = tiles[-1]
    event_time = to_datetime(newest.last_event_time)
    newest_age_s = max(0.0, as_of - newest.last_event_time)
    features = {}
    for feature in FEATURES:
        saw_it = not feature.window_days or newest.day >= end - feature.window_days
        age_s = newest_age_s if saw_it else None
        features[feature.name] = FeatureValue(
            value=values[feature.name],
            unit=feature.unit,
            event_time=event_time if saw_it else None,
            age_s=age_s,
            fresh=age_s is not None and age_s <= feature.max_age_s,
        )
    return FeaturesAnswer(
        advertiser_id=history.advertiser_id,
        view=VIEW_NAME,
        view_version=VIEW_VERSION,
        as_of=to_datetime(as_of),
        features=features,
    )


def _covered(history: AdvertiserHistory, as_of: float) -> tuple[int, list[Tile]]:
    """The first day that is not covered, and the tiles with activity before it: at least one.

    Raises NotFoundError where there is none, or where a window or the newest activity lies in folded days.
    """
    end = math.ceil(as_of / DAY_S)
    tiles = [tile for tile in history.tiles if tile.day < end and tile.events > 0]
    if history.weeks and (not tiles or end - LOOKBACK_DAYS < history.tiles[-1].day - HORIZON_DAYS):
        raise NotFoundError(
            f"{history.advertiser_id} is no longer known day by day as of {to_datetime(as_of).isoformat()}",
            hint=f"the {HORIZON_DAYS} days before the newest activity are, and windows take {LOOKBACK_DAYS} of them",
        )
    if not tiles:
        raise NotFoundError(
            f"{history.advertiser_id} has no activity before {to_datetime(as_of).isoformat()}",
            hint="ask for a later as_of",
        )
    return end, tiles


def _calendar_weeks(history: AdvertiserHistory, tiles: list[Tile]) -> _Weeks:
    numbers = [week.week for week in history.weeks if week.events > 0]
    micros = sum(week.micros for week in history.weeks) + sum(tile.micros for tile in tiles)
    active = len(numbers)
    last = numbers[-1] if numbers else None
    first = numbers[0] if numbers else week_of(tiles[0].day)
    for tile in tiles:
        number = week_of(tile.day)
        if number != last:  # the horizon may cut a week in two
            last = number
            active += 1
    return _Weeks(active, first, week_of(tiles[-1].day), micros)


def _recent(tiles: list[Tile], end: int) -> _Windows:
    last_7 = last_28 = last_56 = last_84 = last_168 = active_weeks = 0
    for tile in reversed(tiles):
        days_back = end - 1 - tile.day
        if days_back >= 168:
            break
        micros = tile.micros
        last_168 += micros
        if days_back < 84:
            last_84 += micros
            active_weeks |= 1 << days_back // 7
            if days_back < 56:
                last_56 += micros
                if days_back < 28:
                    last_28 += micros
                    if days_back < 7:
                        last_7 += micros
    return _Windows(last_7, last_28, last_56, last_84, last_168, active_weeks)


def _trend(recent: int, both: int) -> float | None:
    """(a - b) / (a + b) for a recent window and the two windows together."""
    return (2 * recent - both) / both if both else None
