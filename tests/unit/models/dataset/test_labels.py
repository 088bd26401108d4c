from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dataset.labels import (
    DAY_S,
    LabelPolicy,
    count_labels,
    data_end,
    dated_by_day,
    label,
    observed_until,
    weekly_cutoffs,
    with_population,
)
from tocsin.errors import ConfigurationError

T = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
POLICY = LabelPolicy()


def _events(*rows: tuple[str, float]) -> pd.DataFrame:
    return pd.DataFrame(
        [(who, T + days * DAY_S, f"e{at}") for at, (who, days) in enumerate(rows)],
        columns=["advertiser_id", "event_time", "event_id"],
    )


def _answers(frame: pd.DataFrame) -> dict[str, int]:
    return dict(zip(frame["advertiser_id"], frame["churned"], strict=True))


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ((-28.0,), {"a": 1}),  # the active window includes its start
        ((-28.001,), {}),
        ((-0.001,), {"a": 1}),
        ((0.0,), {}),  # the cutoff itself is future
        ((-1.0, 0.0), {"a": 0}),
        ((-1.0, 27.999), {"a": 0}),
        ((-1.0, 28.0), {"a": 1}),  # the label window excludes its end
    ],
)
def test_windows_are_half_open(days: tuple[float, ...], expected: dict[str, int]) -> None:
    assert _answers(label(_events(*[("a", day) for day in days]), [T])) == expected


def test_each_cutoff_asks_again() -> None:
    events = _events(("a", -1), ("b", -1), ("b", 40))
    frame = label(events, [T, T + 14 * DAY_S])
    assert frame["as_of"].tolist() == [T, T, T + 14 * DAY_S, T + 14 * DAY_S]
    assert frame["churned"].tolist() == [1, 1, 1, 0]


def test_a_restated_event_counts_where_it_was_restated_to() -> None:
    events = _events(("a", -1), ("a", 5), ("a", 50))
    events["event_id"] = ["e0", "e1", "e1"]
    assert _answers(label(events, [T])) == {"a": 1}


def test_no_cutoffs_no_rows() -> None:
    assert label(_events(("a", 1)), []).empty


def test_a_week_that_ends_in_its_last_second_is_complete() -> None:
    assert observed_until(T - 1.0) == T
    assert observed_until(T - 2.0) == T - DAY_S
    assert observed_until(T + 5.0) == T


def test_cutoffs_lie_on_the_week_ends_of_the_data() -> None:
    first, last = T - 1.0, T + 70 * DAY_S - 1.0
    cutoffs = weekly_cutoffs(first, last, POLICY)
    assert cutoffs[-1] == T + 42 * DAY_S
    assert cutoffs[0] - POLICY.active_window_s >= first - DAY_S
    assert {(cutoff - T) % (7 * DAY_S) for cutoff in cutoffs} == {0.0}
    assert all(cutoff + POLICY.horizon_s <= observed_until(last) for cutoff in cutoffs)


def test_data_shorter_than_both_windows_has_no_cutoff() -> None:
    assert weekly_cutoffs(T, T + 55 * DAY_S, POLICY) == []
    assert len(weekly_cutoffs(T, T + 56 * DAY_S, POLICY)) == 1


def test_the_grid_runs_through_its_anchor() -> None:
    first, last = T, T + 100 * DAY_S
    anchor = T + 45 * DAY_S
    cutoffs = weekly_cutoffs(first, last, POLICY, anchor=anchor)
    assert anchor in cutoffs
    assert all(cutoff + POLICY.horizon_s <= observed_until(last) for cutoff in cutoffs)
    assert cutoffs[0] - POLICY.active_window_s >= first


def test_a_horizon_that_is_no_whole_week_leaves_the_grid_where_the_data_ends() -> None:
    cutoffs = weekly_cutoffs(T, T + 100 * DAY_S - 1, LabelPolicy(horizon_days=30))
    assert {(cutoff - (T + 100 * DAY_S)) % (7 * DAY_S) for cutoff in cutoffs} == {0.0}


def test_the_last_of_dates_without_times_is_a_whole_day() -> None:
    assert dated_by_day(np.array([T, T + DAY_S]))
    assert not dated_by_day(np.array([T, T + 1.0]))
    assert not dated_by_day(np.array([]))
    assert observed_until(T, dates_only=True) == T + DAY_S
    assert len(weekly_cutoffs(T, T + 55 * DAY_S, POLICY, dates_only=True)) == 1


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"horizon_days": 0}, "horizon_days is 0"),
        ({"active_window_days": 400}, "active_window_days is 400"),
        ({"embargo_days": -1}, "embargo_days is -1"),
    ],
)
def test_windows_out_of_range_are_refused(wrong: dict[str, int], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        LabelPolicy(**wrong)


def test_counts_say_how_the_weeks_differ() -> None:
    counts = count_labels(np.array([1.0, 0, 1, 1]), np.array([1.0, 1, 2, 2]), np.array([0, 1, 0, 1]))
    assert (counts.cutoffs, counts.rows, counts.advertisers, counts.churned) == (2, 4, 2, 3)
    assert (counts.base_rate, counts.lowest_week, counts.highest_week) == (0.75, 0.5, 1.0)
    assert count_labels(np.array([]), np.array([]), np.array([], dtype=np.int64)).rows == 0


moments = st.integers(-60 * 24, 60 * 24).map(lambda hours: T + hours * 3_600.0)


@settings(max_examples=150, deadline=None)
@given(
    events=st.lists(st.tuples(st.sampled_from("abcd"), moments), max_size=25),
    active=st.integers(1, 40),
    horizon=st.integers(1, 40),
    weeks=st.lists(st.integers(-4, 4), unique=True, max_size=4),
)
def test_labels_are_what_brute_force_says(
    events: list[tuple[str, float]], active: int, horizon: int, weeks: list[int]
) -> None:
    policy = LabelPolicy(active, horizon)
    frame = pd.DataFrame(
        [(who, at, f"e{number}") for number, (who, at) in enumerate(events)],
        columns=["advertiser_id", "event_time", "event_id"],
    )
    cutoffs = [T + week * 7 * DAY_S for week in sorted(weeks)]
    expected = []
    for cutoff in cutoffs:
        for who in sorted({name for name, _ in events}):
            own = [at for name, at in events if name == who]
            if any(cutoff - active * DAY_S <= at < cutoff for at in own):
                gone = not any(cutoff <= at < cutoff + horizon * DAY_S for at in own)
                expected.append((who, cutoff, int(gone)))
    found = label(frame, cutoffs, policy)
    assert list(found.itertuples(index=False, name=None)) == expected


def test_weeks_in_which_nobody_is_asked_about_are_no_weeks() -> None:
    stray, first = T - 3_000 * DAY_S, T - 60 * DAY_S
    times = np.array([T, first, stray])
    cutoffs = weekly_cutoffs(stray, T + 56 * DAY_S, POLICY)
    kept = with_population(times, cutoffs, POLICY)
    for cutoff in cutoffs:
        asked = bool(((times >= cutoff - POLICY.active_window_s) & (times < cutoff)).any())
        assert (cutoff in kept) == asked
    assert len(kept) <= 12 < len(cutoffs)


def test_one_record_years_ahead_does_not_move_the_end_of_the_data() -> None:
    rows = [(f"a{number}", -float(number)) for number in range(20)]
    found = data_end(_events(*rows, ("stray", 2_000.0)))
    assert (found.moment, found.newest, found.ahead) == (T, T + 2_000 * DAY_S, 1)
    assert data_end(_events(*rows)).ahead == 0
    with pytest.raises(ValueError, match="no events"):
        data_end(_events())
