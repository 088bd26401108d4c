from __future__ import annotations

import itertools
import timeit
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.definitions import DAY_S, FEATURE_NAMES
from features.tiles import HORIZON_DAYS, AdvertiserHistory, apply, week_of, week_start
from features.vectors import answer, compute
from tocsin.errors import NotFoundError
from tocsin.schemas import Activity

DAY = 17_000  # 2016-07-18, a Monday


def history_of(*events: tuple[float, float]) -> AdvertiserHistory:
    return apply(None, [(None, Activity("a", day * DAY_S, amount, "spend", "e")) for day, amount in events])


def expected(events: list[tuple[int, int]], end: int) -> dict[str, float | None]:
    """Every feature from its definition, the slow way; `end` is the first day not covered."""
    seen = [(day, amount) for day, amount in events if day < end]

    def spend(start: int, stop: int = 0) -> float:
        return float(sum(amount for day, amount in seen if end - start <= day < end - stop))

    def trend(days: int) -> float | None:
        recent, before = spend(days), spend(2 * days, days)
        return (recent - before) / (recent + before) if recent + before else None

    def active(weeks: int) -> float:
        return float(len({(end - 1 - day) // 7 for day, _ in seen} & set(range(weeks))))

    weeks = sorted({week_of(day) for day, _ in seen})
    since = float(end - 1 - max(day for day, _ in seen))
    total = float(sum(amount for _, amount in seen))
    gaps = [later - earlier for earlier, later in itertools.pairwise(weeks)]
    mean_gap = sum(gaps) / len(gaps) if gaps else None
    return {
        "days_since_last_campaign": since,
        **{f"spend_{days}d": spend(days) for days in (7, 28, 56, 84)},
        "spend_trend_28d": trend(28),
        "spend_trend_84d": trend(84),
        "active_weeks_4w": active(4),
        "active_weeks_12w": active(12),
        "active_weeks_lifetime": float(len(weeks)),
        "tenure_days": float(end - week_start(weeks[0])),
        "lifetime_spend": total,
        "weekly_spend_mean": total / len(weeks),
        "mean_gap_weeks": mean_gap,
        "gap_ratio": since / (7 * mean_gap) if mean_gap else None,
    }


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(DAY, DAY + 1_200), st.integers(0, 1_000)), min_size=1, max_size=40),
    st.integers(0, HORIZON_DAYS - 168),
)
def test_every_feature_is_what_its_definition_says(events: list[tuple[int, int]], back: int) -> None:
    end = max(day for day, _ in events) + 1 - back
    history = history_of(*events)
    newest_before = max((day for day, _ in events if day < end), default=None)
    if newest_before is None or newest_before < max(day for day, _ in events) - HORIZON_DAYS:
        with pytest.raises(NotFoundError):
            compute(history, end * DAY_S)
        return
    vector = compute(history, end * DAY_S)
    assert vector == pytest.approx(expected(events, end))
    assert tuple(vector) == FEATURE_NAMES


def test_a_week_reported_at_its_last_second_counts_from_midnight_on() -> None:
    history = history_of((DAY, 1.0), (DAY + 7 - 1 / DAY_S, 100.0))
    assert compute(history, (DAY + 7) * DAY_S)["spend_7d"] == 101.0
    assert compute(history, (DAY + 6) * DAY_S)["spend_7d"] == 1.0


@pytest.mark.parametrize("days", [7, 28, 56, 84])
def test_a_window_holds_its_first_day_and_not_the_one_before(days: int) -> None:
    history = history_of((DAY, 4.0))
    assert compute(history, (DAY + days) * DAY_S)[f"spend_{days}d"] == 4.0
    assert compute(history, (DAY + days + 1) * DAY_S)[f"spend_{days}d"] == 0.0


def test_within_a_day_its_tile_counts_whole() -> None:
    history = history_of((DAY, 1.0), (DAY + 1.9, 2.0))
    assert compute(history, (DAY + 1.1) * DAY_S)["spend_7d"] == 3.0
    assert compute(history, (DAY + 1) * DAY_S)["spend_7d"] == 1.0


def test_later_events_change_nothing() -> None:
    early = history_of((DAY, 1.0), (DAY + 30, 2.0))
    late = history_of((DAY, 1.0), (DAY + 30, 2.0), (DAY + 31, 5.0), (DAY + 400, 9.0))
    assert compute(early, (DAY + 31) * DAY_S) == compute(late, (DAY + 31) * DAY_S)


def test_a_zero_amount_is_activity() -> None:
    vector = compute(history_of((DAY, 0.0)), (DAY + 1) * DAY_S)
    assert vector["days_since_last_campaign"] == 0.0
    assert vector["active_weeks_4w"] == 1.0
    assert vector["spend_trend_28d"] is None
    assert vector["gap_ratio"] is None


def test_an_emptied_tile_is_no_activity() -> None:
    wrong, right = (
        Activity("a", DAY * DAY_S, 5.0, "spend", "e"),
        Activity("a", (DAY - 50) * DAY_S, 5.0, "spend", "e"),
    )
    history = apply(None, [(None, wrong), (wrong, right)])
    vector = compute(history, (DAY + 1) * DAY_S)
    assert vector["days_since_last_campaign"] == 50.0
    assert vector["active_weeks_lifetime"] == 1.0


def test_the_trend_is_bounded() -> None:
    def trend(*events: tuple[float, float]) -> float | None:
        return compute(history_of(*events), (DAY + 56) * DAY_S)["spend_trend_28d"]

    assert trend((DAY, 10.0)) == -1.0
    assert trend((DAY + 50, 10.0)) == 1.0
    assert trend((DAY, 10.0), (DAY + 50, 10.0)) == 0.0
    assert trend((DAY, 10.0), (DAY + 50, 5.0)) == pytest.approx(-1 / 3)


def test_a_week_cut_by_the_horizon_counts_once() -> None:
    sunday = week_start(week_of(DAY))
    newest = sunday + 3 + HORIZON_DAYS  # Sunday to Tuesday are folded
    history = history_of(*((sunday + day, 1.0) for day in range(7)), (newest, 1.0))
    assert len(history.weeks) == 1
    vector = compute(history, (newest + 1) * DAY_S)
    assert vector["active_weeks_lifetime"] == 2.0
    assert vector["lifetime_spend"] == 8.0
    assert vector["tenure_days"] == newest + 1 - sunday


def test_before_the_first_event_there_is_nothing() -> None:
    history = history_of((DAY, 1.0))
    with pytest.raises(NotFoundError, match="no activity before"):
        answer(history, DAY * DAY_S)
    assert answer(history, DAY * DAY_S + 1).features["spend_7d"].value == 1.0


def test_a_moment_whose_days_are_folded_is_refused() -> None:
    history = history_of((DAY, 1.0), (DAY + 300, 1.0), (DAY + 1_000, 1.0))
    kept = HORIZON_DAYS - 168
    assert compute(history, (DAY + 1_000 - kept) * DAY_S)
    with pytest.raises(NotFoundError, match="no longer known day by day"):
        compute(history, (DAY + 1_000 - kept - 1) * DAY_S)


def test_a_last_activity_that_is_folded_is_not_guessed() -> None:
    history = history_of((DAY, 1.0), (DAY + HORIZON_DAYS + 1, 1.0))
    with pytest.raises(NotFoundError, match="no longer known day by day"):
        compute(history, (DAY + HORIZON_DAYS) * DAY_S)


def test_an_answer_says_how_old_it_is() -> None:
    history = history_of((DAY + 0.5, 1.0))
    found = answer(history, (DAY + 8.5) * DAY_S)
    assert (found.advertiser_id, found.view, found.view_version) == ("a", "advertiser_activity", 1)
    assert found.as_of == datetime.fromtimestamp((DAY + 8.5) * DAY_S, tz=UTC)
    assert tuple(found.features) == FEATURE_NAMES
    since = found.features["days_since_last_campaign"]
    assert (since.value, since.unit, since.age_s, since.fresh) == (8.0, "days", 8 * DAY_S, True)
    assert since.event_time == datetime.fromtimestamp((DAY + 0.5) * DAY_S, tz=UTC)


def test_a_feature_goes_stale_after_its_age() -> None:
    found = answer(history_of((DAY + 0.5, 1.0)), (DAY + 8.5) * DAY_S + 1).features
    assert not found["spend_28d"].fresh
    assert found["tenure_days"].fresh


def test_a_window_without_events_has_no_event_time() -> None:
    found = answer(history_of((DAY, 1.0)), (DAY + 8) * DAY_S).features
    week = found["spend_7d"]
    assert (week.value, week.event_time, week.age_s, week.fresh) == (0.0, None, None, False)
    assert found["spend_28d"].event_time is not None
    assert answer(history_of((DAY, 1.0)), (DAY + 7) * DAY_S).features["spend_7d"].fresh


def test_an_event_later_the_same_day_has_no_negative_age() -> None:
    found = answer(history_of((DAY + 0.9, 1.0)), (DAY + 0.1) * DAY_S).features
    assert found["spend_7d"].age_s == 0.0


def test_a_vector_takes_microseconds() -> None:
    history = history_of(*((DAY + 7 * week, 12.5) for week in range(60)))
    as_of = (DAY + 420) * DAY_S
    best_s = min(timeit.repeat(lambda: compute(history, as_of), number=100, repeat=5)) / 100
    assert best_s < 100e-6
