from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from benchmarks.features import feast_peer, google, offline
from features.definitions import FEATURE_NAMES
from features.importing.importer import read_activity
from features.offline.archive import Archive
from features.offline.point_in_time import event_frame, point_in_time


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://:a%2Fb@127.0.0.1:7001/0", "127.0.0.1:7001,db=0,password=a/b"),
        ("redis://localhost:6379/3", "localhost:6379,db=3"),
    ],
)
def test_feast_is_told_the_server_in_its_own_words(url: str, expected: str) -> None:
    assert feast_peer._connection_string(url) == expected


def test_both_sides_get_the_same_events_and_labels(tmp_path: Path) -> None:
    case = offline.make_case(tmp_path, 5_000, 200, seed=3)
    ours = pd.concat(table.to_pandas() for table in Archive(case.archive).read())
    theirs = pq.read_table(case.feast_events).to_pandas()
    assert len(ours) == len(theirs) == 5_000
    assert sorted(ours["amount"]) == sorted(theirs["amount"])
    assert sorted(ours["event_time"]) == sorted(theirs["event_timestamp"].astype("int64") / 1e6)
    labels, feast_labels = pq.read_table(case.labels_file), pq.read_table(case.feast_labels)
    assert labels["advertiser_id"].equals(feast_labels["advertiser_id"])
    assert len(labels) == 200


def test_feast_gets_fewer_labels_where_it_would_join_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline, "MAX_PAIRS", 50)
    case = offline.make_case(tmp_path, 5_000, 200, seed=3)
    assert len(pq.read_table(case.feast_labels)) == 50


@pytest.mark.skipif(not google.FILE.exists(), reason="needs ../shared/data, which is not here")
def test_pandas_makes_the_same_features() -> None:
    path = google.FILE
    frame, as_of = google.with_pandas(path)
    told = [one for batch in read_activity(str(path), None, 1.8e9) for one in batch.activities]
    rows = pd.DataFrame({"advertiser_id": frame.index, "as_of": as_of})
    ours = point_in_time(event_frame(told), rows)[list(FEATURE_NAMES)].to_numpy()
    theirs = frame[list(FEATURE_NAMES)].to_numpy(dtype=float, na_value=np.nan)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-6)
