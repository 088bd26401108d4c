"""Ids and times in cells: one thing has one value in whichever file it stands, and nothing is guessed in silence."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.importing.identifiers import identifier
from features.importing.importer import read_activity
from features.importing.options import ReadOptions
from features.importing.records import moment
from tocsin.errors import InvalidRecordError

NOW = datetime(2027, 1, 2, tzinfo=UTC).timestamp()
DAY = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
SECOND = datetime(2026, 3, 1, 8, 30, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (17850, "17850"),
        (17850.0, "17850"),
        ("17850.0", "17850"),
        (Decimal("17850.00"), "17850"),
        (b"17850", "17850"),
        (" A1 ", "A1"),
        ("007", "007"),
        ("007.0", "007.0"),
        ("0", "0"),
        ("0.0", "0"),
        (8.5, "8.5"),
        ("na", "na"),
        (uuid.UUID(int=1), str(uuid.UUID(int=1))),
    ],
)
def test_an_id_has_one_text(value: Any, text: str) -> None:
    assert identifier(value, "id") == text


@pytest.mark.parametrize(
    "value",
    [
        None,
        float("nan"),
        float("inf"),
        Decimal("nan"),
        "",
        " ",
        "nan",
        "NaN",
        "NULL",
        "None",
        "\\N",
        "NA",
        "N/A",
        "<NA>",
        "NaT",
        True,
        False,
        ["a"],
        {"a": 1},
        date(2026, 3, 1),
        1e17,
        "1.23457E+11",
    ],
)
def test_what_is_no_id_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRecordError, match=r"^id "):
        identifier(value, "id")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (1_772_323_200, DAY),
        (1_772_323_200_000, DAY),
        (1_772_323_200_000_000, DAY),
        (1_772_323_200_000_000_000, DAY),
        ("1772323200000", DAY),
        (
            "1512103000000",
            datetime(2017, 12, 1, 4, 36, 40, tzinfo=UTC).timestamp(),
        ),  # no day of the year 1512
        (1_772_323_200_000.0, DAY),
        (20260301, DAY),
        (20260301.0, DAY),
        ("20260301", DAY),
        (20260301083000, SECOND),
        ("20260301083000", SECOND),
        (date(2026, 3, 1), DAY),
        ("2026-W09-7", DAY),
        ("2026-03-01 08:30:00 UTC", SECOND),
        ("2026-03-01T08:30:00.000000001Z", SECOND),
        ("2026-03-01T08:29:60Z", SECOND),
        ("2026-03-01T09:30:00+01:00", SECOND),
    ],
)
def test_a_moment_is_read_whatever_it_counts_in(value: Any, seconds: float) -> None:
    assert moment(value, "t") == seconds


@pytest.mark.parametrize(
    "value", ["2026-W09", "12/1/2010 8:26", "2026-03-01T25:00:00Z", True, "9" * 400, [1]]
)
def test_what_is_no_moment_is_refused_with_the_option(value: Any) -> None:
    with pytest.raises(InvalidRecordError, match="--time-format"):
        moment(value, "t")


def in_parquet(folder: Path, **columns: Any) -> list[tuple[int, str]]:
    path = folder / "a.parquet"
    pq.write_table(pa.table(columns), path, use_deprecated_int96_timestamps="when" in columns)
    mapping = {"event_time": "when"} if "when" in columns else None
    return [
        (reject.line, reject.reason)
        for batch in read_activity(path, mapping, NOW)
        for reject in batch.rejects
    ]


@pytest.mark.parametrize("number", [20_513, 40_513.35, 2010, 0])
def test_a_small_number_is_no_moment_of_1970(tmp_path: Path, number: float) -> None:
    ((line, reason),) = in_parquet(tmp_path, advertiser_id=["a"], event_time=[number])
    assert (line, "too small for seconds since 1970" in reason, "--time-format" in reason) == (1, True, True)


def test_int96_reaches_as_far_as_spark_wrote_it(tmp_path: Path) -> None:
    when = pa.array([datetime(9999, 12, 31), datetime(2026, 3, 1)], pa.timestamp("us"))  # noqa: DTZ001 - as int96 is
    rejects = in_parquet(tmp_path, advertiser_id=["a", "b"], when=when)
    assert rejects == [(1, "event_time is in the future: at most 1 day from now")]


def test_rows_of_a_parquet_file_without_an_id_or_an_amount_are_refused_by_line(tmp_path: Path) -> None:
    rejects = in_parquet(
        tmp_path,
        advertiser_id=[1.0, float("nan"), None, 4.0],
        event_time=[1_546_646_400_000] * 4,
        amount=[1.0, 1.0, 1.0, float("nan")],
    )
    assert rejects == [
        (2, "advertiser_id is blank: 1 to 128 characters"),
        (3, "advertiser_id is blank: 1 to 128 characters"),
        (4, "amount is nan: a finite number"),
    ]


@pytest.mark.parametrize(("unit", "number"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_a_unit_may_be_named(tmp_path: Path, unit: str, number: int) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"advertiser_id": ["a"], "event_time": [int(DAY) * number]}), path)
    (batch,) = read_activity(path, None, NOW, options=ReadOptions(time_format=unit))
    assert [one.event_time for one in batch.activities] == [DAY]
