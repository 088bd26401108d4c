from __future__ import annotations

from collections import Counter
from statistics import mean, median, quantiles

import pandas as pd

from features.definitions import DAY_S
from features.offline.point_in_time import event_frame, point_in_time
from features.simulator import WEEK_S, simulate

END = 17_500 * DAY_S


def test_the_same_seed_gives_the_same_advertisers() -> None:
    assert simulate(advertisers=20, end=END) == simulate(advertisers=20, end=END)
    assert simulate(advertisers=20, end=END) != simulate(advertisers=20, seed=8, end=END)


def test_all_is_within_the_weeks_and_in_order() -> None:
    found = simulate(advertisers=50, weeks=30, end=END)
    times = [activity.event_time for activity in found.activities]
    assert times == sorted(times)
    assert times[0] > END - 30 * WEEK_S
    assert times[-1] < END
    assert len(found.churned_at) == 50


def test_nothing_follows_churn_and_ids_are_unique() -> None:
    found = simulate(end=END)
    for activity in found.activities:
        churned = found.churned_at[activity.advertiser_id]
        assert churned is None or activity.event_time < churned
    ids = Counter((activity.advertiser_id, activity.event_id) for activity in found.activities)
    assert max(ids.values()) == 1


def test_spend_has_a_heavy_tail_and_many_churn() -> None:
    found = simulate(end=END)
    amounts = [activity.amount for activity in found.activities]
    assert quantiles(amounts, n=100)[98] > 10 * median(amounts)
    assert 100 < sum(churned is not None for churned in found.churned_at.values()) < 350


def test_decline_tells_churn_where_recency_is_equal() -> None:
    found = simulate(end=END)
    cutoffs = [END - week * WEEK_S for week in range(4, 40, 4)]
    names = {activity.advertiser_id for activity in found.activities}
    rows = pd.DataFrame(
        [(name, as_of) for name in sorted(names) for as_of in cutoffs], columns=["advertiser_id", "as_of"]
    )
    frame = point_in_time(event_frame(found.activities), rows)
    recent = frame[(frame["days_since_last_campaign"] == 0) & frame["spend_trend_28d"].notna()]
    trends: dict[bool, list[float]] = {True: [], False: []}
    for row in recent.to_dict("records"):
        churned = found.churned_at[row["advertiser_id"]]
        trends[churned is not None and churned < row["as_of"] + 4 * WEEK_S].append(row["spend_trend_28d"])
    assert mean(trends[True]) < mean(trends[False]) - 0.2
