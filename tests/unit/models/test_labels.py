from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd
import pytest

from models.labels import DAY_S, LabelPolicy, label, observed_until, weekly_cutoffs

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
