from __future__ import annotations

import math
from typing import Any

import pytest

from features.definitions import DAY_S, FEATURE_NAMES, FEATURES, HOUR_S
from features.tiles import HORIZON_DAYS, History, fold, week_of, week_start
from features.vectors import at, compute, covers, step_of, values
from tocsin.errors import NotFoundError
from tocsin.wire.activity import Activity

DAY = 17_000  # 2016-07-18, a Monday


def event(day: float, amount: float = 1.0, campaign_id: str = "") -> Activity:
    return Activity("a", day * DAY_S, amount, "spend", "e", campaign_id)


def history_of(*events: tuple[Any, ...]) -> History:
    history = fold("a", [event(*found) for found in events])
    assert history is not None
    return history


def test_values_stand_in_the_order_of_the_definitions() -> None:
    history = history_of((DAY, 1.0))
    as_of = (DAY + 1) * DAY_S
    assert len(values(history, as_of)) == len(FEATURES)
    assert tuple(compute(history, as_of)) == FEATURE_NAMES


def test_a_week_reported_at_its_last_second_counts_from_midnight_on() -> None:
    history = history_of((DAY, 1.0), (DAY + 7 - 1 / DAY_S, 100.0))
    assert compute(history, (DAY + 7) * DAY_S)["spend_7d"] == 101.0
    assert compute(history, (DAY + 6) * DAY_S)["spend_7d"] == 1.0


@pytest.mark.parametrize("days", [7, 28, 56, 84])
def test_a_window_holds_its_first_day_and_not_the_one_before(days: int) -> None:
    history = history_of((DAY, 4.0))
    assert compute(history, (DAY + days) * DAY_S)[f"spend_{days}d"] == 4.0
    assert compute(history, (DAY + days) * DAY_S + 1)[f"spend_{days}d"] == 0.0


def test_the_window_of_a_day_is_cut_on_the_hour() -> None:
    history = history_of((DAY + 0.5, 4.0))
    noon = (DAY + 1.5) * DAY_S
    assert compute(history, noon)["spend_1d"] == 4.0
    assert compute(history, noon + 1)["spend_1d"] == 0.0
    assert compute(history, noon + HOUR_S)["spend_1d"] == 0.0


def test_an_event_counts_after_its_time_and_not_at_it() -> None:
    events = [event(DAY, 1.0), event(DAY + 0.5, 2.0), event(DAY + 0.9, 4.0)]
    history = fold("a", events)
    assert history is not None
    noon = (DAY + 0.5) * DAY_S
    assert not covers(history, noon)
    with pytest.raises(NotFoundError, match="do not cover"):
        compute(history, noon)
    assert compute(at(history, events, noon), noon)["spend_7d"] == 1.0
    assert compute(at(history, events, noon + 1), noon + 1)["spend_7d"] == 3.0
    assert at(history, events, (DAY + 1) * DAY_S) is history


def test_later_events_change_nothing() -> None:
    early = history_of((DAY, 1.0), (DAY + 30, 2.0))
    late = history_of((DAY, 1.0), (DAY + 30, 2.0), (DAY + 31, 5.0), (DAY + 400, 9.0))
    assert compute(early, (DAY + 31) * DAY_S) == compute(late, (DAY + 31) * DAY_S)


def test_a_zero_amount_is_activity() -> None:
    vector = compute(history_of((DAY, 0.0)), (DAY + 1) * DAY_S)
    assert vector["days_since_last_campaign"] == 0.0
    assert vector["active_weeks_4w"] == 1.0
    assert vector["spend_min_7d"] == vector["spend_max_7d"] == vector["spend_mean_7d"] == 0.0
    assert vector["spend_trend_28d"] is None
    assert vector["spend_volatility_28d"] is None
    assert vector["gap_ratio"] is None


def test_the_trend_is_bounded() -> None:
    def trend(*events: tuple[float, float]) -> float | None:
        return compute(history_of(*events), (DAY + 56) * DAY_S)["spend_trend_28d"]

    assert trend((DAY, 10.0)) == -1.0
    assert trend((DAY + 50, 10.0)) == 1.0
    assert trend((DAY, 10.0), (DAY + 50, 10.0)) == 0.0
    assert trend((DAY, 10.0), (DAY + 50, 5.0)) == pytest.approx(-1 / 3)


def test_the_slope_is_what_spend_gains_a_week() -> None:
    rising = history_of(*((DAY + 7 * week, 100.0 + 10 * week) for week in range(12)))
    vector = compute(rising, (DAY + 84) * DAY_S)
    assert vector["spend_slope_28d"] == vector["spend_slope_84d"] == 10.0


def test_steady_spend_has_no_volatility_and_one_day_has_much() -> None:
    steady = history_of(*((DAY + day, 5.0) for day in range(28)))
    assert compute(steady, (DAY + 28) * DAY_S)["spend_volatility_28d"] == 0.0
    assert compute(history_of((DAY, 5.0)), (DAY + 28) * DAY_S)["spend_volatility_28d"] == pytest.approx(
        math.sqrt(27)
    )


def test_campaigns_count_once_over_the_days_of_a_window() -> None:
    history = history_of((DAY, 1.0, "x"), (DAY + 6, 1.0, "x"), (DAY + 6.5, 1.0, "y"), (DAY + 6.6, 1.0))
    vector = compute(history, (DAY + 7) * DAY_S)
    assert (vector["campaigns_1d"], vector["campaigns_7d"], vector["campaigns_lifetime"]) == (2.0, 2.0, 2.0)


def test_a_week_cut_by_the_horizon_counts_once() -> None:
    sunday = week_start(week_of(DAY))
    newest = sunday + 3 + HORIZON_DAYS  # Sunday to Tuesday are folded
    history = history_of(*((sunday + day, 1.0) for day in range(7)), (newest, 1.0))
    assert len(history.weeks) == 1
    vector = compute(history, (newest + 1) * DAY_S)
    assert vector["active_weeks_lifetime"] == 2.0
    assert vector["lifetime_spend"] == 8.0
    assert vector["tenure_days"] == newest + 1 - sunday


def test_before_the_first_event_nothing_is_defined() -> None:
    history = history_of((DAY, 1.0))
    assert set(compute(history, DAY * DAY_S).values()) == {None}
    assert compute(history, DAY * DAY_S + 1)["spend_7d"] == 1.0
    assert set(compute(None, DAY * DAY_S).values()) == {None}


def test_a_midnight_whose_days_are_folded_needs_the_events() -> None:
    history = history_of((DAY, 1.0), (DAY + 300, 1.0), (DAY + 1_000, 1.0))
    kept = HORIZON_DAYS - 168
    assert covers(history, (DAY + 1_000 - kept) * DAY_S)
    assert not covers(history, (DAY + 1_000 - kept - 1) * DAY_S)


def test_a_step_is_numbered_by_its_end() -> None:
    assert [step_of(moment, HOUR_S) for moment in (0.0, 0.1, 3_600.0, 3_600.1)] == [0, 1, 1, 2]
