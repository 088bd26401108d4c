"""Label tables as data scientists bring them: every row is answered, or the first that cannot be is named."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from features.columns import SchemaMismatchError
from features.event_table import event_frame, event_table
from features.offline.point_in_time import point_in_time
from tocsin.wire.activity import Activity

AT = datetime(2026, 3, 1, tzinfo=UTC)
AS_OF = AT.timestamp()
EVENTS = event_table(
    [Activity("17850", AS_OF - 3_600, 2.0, "spend", "1"), Activity("b", AS_OF - 3_600, 3.0, "spend", "1")]
)
WANTED = ["events_lifetime"]


def counted(rows: pa.Table | pd.DataFrame) -> list[float]:
    return [float(one) for one in np.asarray(point_in_time(EVENTS, rows, features=WANTED)["events_lifetime"])]


@pytest.mark.parametrize(
    "moment",
    [
        AS_OF,
        int(AS_OF),
        int(AS_OF) * 1_000,
        int(AS_OF) * 10**6,
        int(AS_OF) * 10**9,
        20260301,
        AT,
        date(2026, 3, 1),
        Decimal(int(AS_OF)),
        "2026-03-01",
        "2026-03-01T01:00:00+01:00",
        pd.Timestamp(int(AS_OF) * 10**9 + 1, tz="UTC"),
    ],
)
@pytest.mark.parametrize("ids", [["17850", "b"], ["b", "b"]])
def test_a_moment_may_be_of_any_kind(moment: Any, ids: list[str]) -> None:
    assert counted(pd.DataFrame({"advertiser_id": ids, "as_of": [moment] * 2})) == [1.0, 1.0]


@pytest.mark.parametrize(
    "kind",
    [pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("us", "America/New_York"), pa.date32(), pa.date64()],
)
def test_a_moment_may_be_of_any_arrow_type(kind: pa.DataType) -> None:
    moments = pa.array([AT.replace(tzinfo=None)] * 2, pa.timestamp("us")).cast(kind)
    assert counted(pa.table({"advertiser_id": ["17850", "b"], "as_of": moments})) == [1.0, 1.0]


def test_nanoseconds_are_cut_and_never_see_what_comes_after() -> None:
    moments = pa.array([int((AS_OF - 3_600) * 1e9) + 999], pa.timestamp("ns"))
    assert math.isnan(counted(pa.table({"advertiser_id": ["b"], "as_of": moments}))[0])


@pytest.mark.parametrize(
    "ids",
    [
        [17850, 17850],
        [17850.0, 17850.0],
        pa.array([17850, 17850], pa.int32()),
        pa.array(["17850", "17850"], pa.large_string()),
        pa.array([b"17850", b"17850"]),
        pa.array([Decimal("17850.00")] * 2),
        pa.array(["17850", "17850"]).dictionary_encode(),
        pa.array([17850.0, 17850.0]).dictionary_encode(),
    ],
)
def test_an_id_may_be_of_any_kind(ids: Any) -> None:
    assert counted(pa.table({"advertiser_id": ids, "as_of": [AS_OF] * 2})) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        (["b", None], r"advertiser_id in row 1 is null"),
        (["b", math.nan], r"advertiser_id in row 1 is null"),
        ([1.0, math.nan], r"advertiser_id in row 1 is (null|NaN)"),
        (["b", " "], r"advertiser_id in row 1 is blank"),
        (["b", "nan"], r"advertiser_id in row 1 is blank, or stands for nothing"),
        ([1.0, 1.5], r"advertiser_id in row 1 is no whole number"),
        ([True, False], r"advertiser_id is bool, expected text"),
        ([["a"], ["b"]], r"advertiser_id is list<.*>, expected text"),
        ([AT, AT], r"advertiser_id is timestamp.*, expected text"),
        ([1, "a"], r"advertiser_id holds values of several types: (int|str) in row [01]"),
        ([None, None], r"advertiser_id in row 0 is null, and so are 1 more"),
    ],
)
def test_a_row_without_an_id_is_named(ids: list[Any], text: str) -> None:
    with pytest.raises(SchemaMismatchError, match=f"^{text}"):
        counted(pd.DataFrame({"advertiser_id": ids, "as_of": [AS_OF] * 2}))


def test_nan_in_a_column_of_floats_is_named() -> None:
    ids = pa.array([1.0, math.nan], from_pandas=False)
    with pytest.raises(SchemaMismatchError, match=r"^advertiser_id in row 1 is NaN"):
        counted(pa.table({"advertiser_id": ids, "as_of": [AS_OF] * 2}))


@pytest.mark.parametrize(
    ("moments", "text"),
    [
        ([AT, None], "as_of has nulls or infinite values, the first in row 1"),
        ([AS_OF, math.inf], "as_of has nulls or infinite values, the first in row 1"),
        ([20_513, 20_513], "as_of in row 0 is 20513, which is 1970-01-01"),
        ([datetime(9999, 12, 31), datetime(9999, 12, 31)], "as_of in row 0 is 9999-12-31"),  # noqa: DTZ001
        (["2026-03-01", "01/03/2026"], "as_of in row 1 is '01/03/2026'"),
        ([True, True], "as_of is bool, expected"),
    ],
)
def test_a_row_without_a_moment_is_named(moments: list[Any], text: str) -> None:
    with pytest.raises(SchemaMismatchError, match=f"^{text}") as caught:
        counted(pd.DataFrame({"advertiser_id": ["b", "b"], "as_of": moments}))
    assert caught.value.hint


def test_a_label_named_as_a_feature_is_refused() -> None:
    rows = pd.DataFrame({"advertiser_id": ["b"], "as_of": [AS_OF], "events_lifetime": [1.0]})
    with pytest.raises(SchemaMismatchError, match=r"^entities have a column events_lifetime") as caught:
        counted(rows)
    assert "rename" in caught.value.hint
    point_in_time(EVENTS, rows, features=["lifetime_spend"])
    with pytest.raises(SchemaMismatchError, match=r"^features names lifetime_spend twice"):
        point_in_time(EVENTS, rows, features=["lifetime_spend", "lifetime_spend"])
    double = pd.concat([rows, rows[["as_of"]]], axis=1)
    with pytest.raises(SchemaMismatchError, match=r"^entities have the column as_of 2 times"):
        point_in_time(EVENTS, double, features=["lifetime_spend"])


def test_other_columns_may_hold_anything() -> None:
    rows = pd.DataFrame(
        {"advertiser_id": ["b"], "as_of": [AS_OF], "mixed": pd.Series([{1, 2}], dtype=object)}
    )
    assert counted(rows) == [1.0]


@pytest.mark.parametrize(
    ("column", "value"), [("event_time", 1_000), ("event_time", 10**9), ("arrival", 10**6)]
)
def test_events_in_a_frame_may_count_in_other_units(column: str, value: int) -> None:
    frame = event_frame([Activity("b", AS_OF - 3_600, 3.0, "spend", "1", arrival=AS_OF - 3_000)])
    frame[column] = (frame[column] * value).astype("int64")
    rows = pd.DataFrame({"advertiser_id": ["b"], "as_of": [AS_OF]})
    assert point_in_time(frame, rows)["events_lifetime"].tolist() == [1.0]


def test_events_in_a_frame_without_a_moment_are_named() -> None:
    rows = pd.DataFrame({"advertiser_id": ["b"], "as_of": [AS_OF]})
    frame = event_frame([Activity("b", AS_OF - 3_600, 3.0, "spend", "1")])
    with pytest.raises(SchemaMismatchError, match=r"^event_time in row 0 is 20513"):
        point_in_time(frame.assign(event_time=20_513), rows)
    with pytest.raises(SchemaMismatchError, match=r"^advertiser_id is bool"):
        point_in_time(frame.assign(advertiser_id=True), rows)
    days = frame.assign(event_time=20260228, advertiser_id=17850.0)
    ids = rows.assign(advertiser_id=17850)
    assert point_in_time(days, ids)["events_lifetime"].tolist() == [1.0]
