"""The features by brute force: plain Python over raw events, from the words of their definitions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from fractions import Fraction

from features.definitions import FEATURES, Aggregation, Feature
from tocsin.wire.activity import Activity

DAY = 86_400
HOUR = 3_600


def surviving(told: Iterable[Activity]) -> list[Activity]:
    """Of each event id the version that arrived last; of several at that moment the greatest."""
    by_id: dict[str, list[Activity]] = {}
    for one in told:
        by_id.setdefault(one.event_id, []).append(one)
    return [
        max(
            versions,
            key=lambda a: (a.arrival, a.event_time, a.amount, a.kind, a.campaign_id, a.currency, a.backdated),
        )
        for versions in by_id.values()
    ]


def expected(told: Iterable[Activity], as_of: float) -> dict[str, float | None]:
    """Every feature as of a moment; sums as exact fractions of micros."""
    events = [one for one in surviving(told) if one.event_time < as_of]
    if not events:
        return {feature.name: None for feature in FEATURES}
    return {feature.name: _value(feature, events, as_of) for feature in FEATURES}


def _value(  # noqa: C901, PLR0911, PLR0912 (a table of definitions, one a case)
    feature: Feature, events: Sequence[Activity], as_of: float
) -> float | None:
    end = math.ceil(as_of / DAY) * DAY
    days = feature.window_days
    seen = _within(events, days, as_of)
    spend = sum(micros(one) for one in seen)
    weeks = sorted({_calendar_week(one) for one in events})
    since = float((end - DAY) // DAY - max(int(one.event_time // DAY) for one in events))
    gap = (weeks[-1] - weeks[0]) / (len(weeks) - 1) if len(weeks) > 1 else None
    match feature.aggregation:
        case Aggregation.COUNT:
            return float(len(seen))
        case Aggregation.SUM:
            return spend / 1_000_000
        case Aggregation.MEAN:
            return float(Fraction(spend, len(seen) * 1_000_000)) if seen else None
        case Aggregation.MIN:
            return min(micros(one) for one in seen) / 1_000_000 if seen else None
        case Aggregation.MAX:
            return max(micros(one) for one in seen) / 1_000_000 if seen else None
        case Aggregation.DISTINCT_CAMPAIGNS:
            return float(len({one.campaign_id for one in seen if one.campaign_id}))
        case Aggregation.DAYS_SINCE_LAST:
            return since
        case Aggregation.TREND_RATIO:
            both = sum(micros(one) for one in _within(events, 2 * days, as_of))
            before = both - spend
            return float(Fraction(spend - before, both)) if both else None
        case Aggregation.TREND_SLOPE:
            sums = [0] * (days // 7)
            for one in seen:
                sums[-1 - int((end - 1 - one.event_time // DAY * DAY) // (7 * DAY))] += micros(one)
            slope, _ = statistics.linear_regression(range(len(sums)), [Fraction(y, 1_000_000) for y in sums])
            return float(slope)
        case Aggregation.VOLATILITY:
            daily = [0] * days
            for one in seen:
                daily[int((end - 1 - one.event_time // 1) // DAY)] += micros(one)
            return statistics.pstdev(daily) / statistics.mean(daily) if spend else None
        case Aggregation.ACTIVE_DAY_SHARE:
            return len({one.event_time // DAY for one in seen}) / days
        case Aggregation.ACTIVE_WEEKS:
            return float(len({(end - 1 - one.event_time // 1) // (7 * DAY) for one in seen}))
        case Aggregation.CALENDAR_WEEKS:
            return float(len(weeks))
        case Aggregation.TENURE:
            return float(end // DAY - (weeks[0] * 7 - 4))
        case Aggregation.WEEKLY_MEAN:
            return spend / 1_000_000 / len(weeks)
        case Aggregation.MEAN_GAP:
            return gap
        case Aggregation.GAP_RATIO:
            return since / (7 * gap) if gap else None


def micros(one: Activity) -> int:
    return round(one.amount * 1_000_000)


def _within(events: Sequence[Activity], days: int, as_of: float) -> list[Activity]:
    if days == 0:
        return list(events)
    start = (math.ceil(as_of / DAY) - days) * DAY
    if days == 1:
        start = (math.ceil(as_of / HOUR) - 24) * HOUR
    return [one for one in events if one.event_time >= start]


def _calendar_week(one: Activity) -> int:
    return (int(one.event_time // DAY) + 4) // 7
