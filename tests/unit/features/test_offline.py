from __future__ import annotations

import math
import random

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from features import tiles
from features.definitions import DAY_S, FEATURE_NAMES
from features.offline import EVENT_COLUMNS, event_frame, point_in_time
from features.simulator import simulate
from features.vectors import compute
from tocsin.schemas import Activity

END = 17_500 * DAY_S
CUTOFFS = [END - 7 * DAY_S * week for week in range(0, 20, 3)]
ACTIVITIES = simulate(advertisers=30, weeks=40, end=END).activities


def rows_by_key(frame: pd.DataFrame) -> dict[tuple[str, float], dict[str, float]]:
    return {
        (row["advertiser_id"], row["as_of"]): {name: row[name] for name in FEATURE_NAMES}
        for row in frame.to_dict("records")
    }


def test_offline_equals_online_exactly() -> None:
    histories: dict[str, tiles.History] = {}
    arrivals = random.Random(1).sample(ACTIVITIES, len(ACTIVITIES))  # noqa: S311 - shuffling
    for activity in arrivals:
        new = tiles.fold(activity.advertiser_id, [activity])
        assert new is not None
        known = histories.get(activity.advertiser_id)
        histories[activity.advertiser_id] = new if known is None else tiles.merge(known, new)
    found = rows_by_key(point_in_time(event_frame(ACTIVITIES), CUTOFFS))
    for history in histories.values():
        for as_of in CUTOFFS:
            key = (history.advertiser_id, as_of)
            online = compute(history, as_of)
            if set(online.values()) == {None}:
                assert key not in found
                continue
            offline = {name: None if math.isnan(value) else value for name, value in found.pop(key).items()}
            assert offline == online
    assert not found


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(CUTOFFS), st.floats(0, 300), st.floats(0, 1e6), st.sampled_from(["x", "sim:0003"]))
def test_nothing_at_or_after_a_cutoff_changes_its_rows(
    cutoff: float, later_days: float, amount: float, event_id: str
) -> None:
    past = [activity for activity in ACTIVITIES if activity.event_time < cutoff]
    leaks = [
        Activity(name, cutoff + later_days * DAY_S, amount, "spend", event_id)
        for name in ("sim-00001", "new")
    ]
    assert_frame_equal(
        point_in_time(event_frame(past), [cutoff]),
        point_in_time(event_frame([*ACTIVITIES, *leaks]), [cutoff]),
    )


def test_a_cutoff_within_a_day_sees_only_what_came_before() -> None:
    events = event_frame(
        [
            Activity("a", END + 3_600, 1.0, "spend", "1"),
            Activity("a", END + 7_200, 2.0, "spend", "2"),
        ]
    )
    frame = point_in_time(events, [END + 7_200, END + 7_201])
    assert frame["spend_7d"].tolist() == [1.0, 3.0]


def test_a_restated_event_counts_once_as_last_told() -> None:
    told = [
        Activity("a", END, 1.0, "spend", "1"),
        Activity("a", END + DAY_S, 5.0, "spend", "2"),
        Activity("a", END, 10.0, "spend", "1"),
    ]
    assert point_in_time(event_frame(told), [END + 2 * DAY_S])["spend_7d"].tolist() == [15.0]


def test_a_restatement_to_an_earlier_day_is_not_undone_by_its_past() -> None:
    told = [Activity("a", END + 9 * DAY_S, 1.0, "spend", "1"), Activity("a", END, 2.0, "spend", "1")]
    frame = point_in_time(event_frame(told), [END + DAY_S, END + 10 * DAY_S])
    assert frame["lifetime_spend"].tolist() == [2.0, 2.0]
    assert frame["days_since_last_campaign"].tolist() == [0.0, 9.0]


def test_the_frame_has_a_row_for_each_advertiser_already_there() -> None:
    events = event_frame(
        [
            Activity("b", END, 1.0, "spend", "1"),
            Activity("a", END + DAY_S, 1.0, "spend", "1"),
        ]
    )
    frame = point_in_time(events, [END + 2 * DAY_S, END + DAY_S, END, END + DAY_S])
    assert frame.columns.tolist() == ["advertiser_id", "as_of", *FEATURE_NAMES]
    assert list(zip(frame["as_of"], frame["advertiser_id"], strict=True)) == [
        (END + DAY_S, "b"),
        (END + 2 * DAY_S, "a"),
        (END + 2 * DAY_S, "b"),
    ]


@pytest.mark.parametrize("cutoffs", [[], [END]])
def test_no_events_give_an_empty_frame_of_the_same_shape(cutoffs: list[float]) -> None:
    events = event_frame([])
    assert events.columns.tolist() == list(EVENT_COLUMNS)
    frame = point_in_time(events, cutoffs)
    assert len(frame) == 0
    assert frame.dtypes["spend_7d"] == "float64"
