"""The real weekly spend of 1,290 advertisers; skips where the development data is not beside the project."""

from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd
import pytest

from features.importing.importer import SourceFormat, count_rows, detect, read_activity
from features.offline.point_in_time import event_frame, point_in_time
from tests.paths import DATA
from tocsin.wire.activity import Activity

PATH = DATA / "google_ads_spend" / "advertiser_weekly_spend.parquet"
NOW = datetime(2024, 1, 1, tzinfo=UTC).timestamp()

pytestmark = pytest.mark.skipif(not PATH.exists(), reason="../shared/data is not beside the project")


def imported() -> list[Activity]:
    batches = list(read_activity(PATH, None, NOW))
    assert not any(batch.rejects for batch in batches)
    return [activity for batch in batches for activity in batch.activities]


def test_all_of_it_is_imported_and_a_second_time_alike() -> None:
    assert detect(PATH) is SourceFormat.GOOGLE_WEEKLY_SPEND
    first = imported()
    assert len(first) == count_rows(PATH) == 12_042
    assert len({activity.advertiser_id for activity in first}) == 1_290
    assert len({(activity.advertiser_id, activity.event_id) for activity in first}) == 12_042
    assert sum(activity.amount == 0 for activity in first) == 2_105
    assert imported() == first


def test_a_week_shows_from_the_midnight_after_it() -> None:
    events = event_frame(imported())
    midnight = datetime(2018, 6, 3, tzinfo=UTC).timestamp()
    names = events["advertiser_id"].unique()
    before, after = (
        point_in_time(events, pd.DataFrame({"advertiser_id": names, "as_of": moment}))
        for moment in (midnight - 1, midnight)
    )
    assert before["events_lifetime"].isna().all()
    assert after["events_lifetime"].sum() == (events["event_time"] < midnight).sum() > 0
    assert set(after["days_since_last_campaign"].dropna()) == {0}
