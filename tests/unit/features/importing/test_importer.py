from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from features.importing.event_id import derive_event_id
from features.importing.importer import (
    BATCH_ROWS,
    ImportBatch,
    Reject,
    SourceFormat,
    count_rows,
    detect,
    read_activity,
    write_rejects,
)
from tocsin.errors import ConfigurationError, UnreadableFileError
from tocsin.wire.activity import Activity

NOW = datetime(2024, 6, 1, tzinfo=UTC).timestamp()
ANY_TIME = "RFC 3339, or a number since 1970; --time-format says what else"
JAN_1 = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
DAY_S = 86_400.0


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
    return path


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=3_000)
    return path


def whole(path: Path, mapping: dict[str, str] | None = None) -> ImportBatch:
    found = ImportBatch()
    for batch in read_activity(path, mapping, NOW):
        found.activities += batch.activities
        found.rejects += batch.rejects
    return found


def rejected(path: Path) -> list[tuple[int, str]]:
    return [(reject.line, reject.reason) for reject in whole(path).rejects]


# --------------------------------------------------------------------------- Google's weekly spend

GOOGLE = "Advertiser_ID,Advertiser_Name,Week_Start_Date,Spend_USD,Spend_EUR"


def test_googles_weekly_spend_is_known_by_its_columns(tmp_path: Path) -> None:
    assert detect(write(tmp_path / "a.csv", GOOGLE)) is SourceFormat.GOOGLE_WEEKLY_SPEND


def test_a_week_is_known_at_its_last_second_and_carries_its_date(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", GOOGLE, "AR1,x,2024-01-07,300,270", "AR1,x,2024-01-14,0,0")
    end = datetime(2024, 1, 13, 23, 59, 59, tzinfo=UTC).timestamp()
    assert whole(path).activities == [
        Activity("AR1", end, 300.0, "spend", "week:2024-01-07"),
        Activity("AR1", end + 7 * DAY_S, 0.0, "spend", "week:2024-01-14"),
    ]


def test_a_week_that_is_not_over_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", GOOGLE, "AR1,x,2024-05-26,3,2", "AR1,x,2024-05-27,3,2")
    assert rejected(path) == [(3, "Week_Start_Date the week is not over yet: ends at most 1 day from now")]


def test_a_mapping_overrules_detection(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", GOOGLE, "AR1,x,2024-01-07,300,270")
    mapping = {"advertiser_id": "Advertiser_ID", "event_time": "Week_Start_Date", "amount": "Spend_EUR"}
    assert [activity.amount for activity in whole(path, mapping).activities] == [270.0]


# --------------------------------------------------------------------------- any other table


def test_our_own_columns_need_no_mapping(tmp_path: Path) -> None:
    header = "event_id,kind,amount,event_time,advertiser_id"
    path = write(tmp_path / "a.csv", header, "e1,campaign,2.5,2024-01-01T00:00:00Z,a")
    assert detect(path) is SourceFormat.ACTIVITY
    assert whole(path).activities == [Activity("a", JAN_1, 2.5, "campaign", "e1")]


def test_campaign_currency_and_arrival_are_read_where_they_stand(tmp_path: Path) -> None:
    header = "advertiser_id,event_time,amount,campaign_id,currency,arrival"
    path = write(tmp_path / "a.csv", header, "a,2024-01-01,5,c1,EUR,2024-01-03", "a,2024-01-01,5,,,")
    first, second = whole(path).activities
    assert (first.campaign_id, first.currency, first.arrival) == ("c1", "EUR", JAN_1 + 2 * DAY_S)
    assert (second.campaign_id, second.currency, second.arrival) == ("", "", 0.0)
    assert first.event_id != second.event_id == derive_event_id("a", JAN_1, 5.0, "spend")


def test_other_columns_need_a_mapping_and_unmapped_fields_their_own_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "Account;Day;amount", "a;2024-01-01;2.5")
    assert detect(path) is None
    found = whole(path, {"advertiser_id": "Account", "event_time": "Day"}).activities
    assert found == [Activity("a", JAN_1, 2.5, "spend", derive_event_id("a", JAN_1, 2.5, "spend"))]


def test_absent_fields_have_defaults(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "advertiser_id,event_time", "a,2024-01-01")
    found = whole(path).activities[0]
    assert (found.amount, found.kind) == (0.0, "spend")


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-01",
        "20240101",
        " 2024-01-01T00:00 ",
        "2024-01-01 00:00:00",
        "2024-01-01T00:00:00Z",
        "2024-01-01T02:00:00+02:00",
        "1704067200",
        "1704067200.0",
    ],
)
def test_times_without_a_zone_are_utc(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.csv", "advertiser_id,event_time", f"a,{text}")
    assert [activity.event_time for activity in whole(path).activities] == [JAN_1]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([date(2024, 1, 1)]),
        pa.array([date(2024, 1, 1)], pa.date64()),
        pa.array([datetime(2024, 1, 1)], pa.timestamp("ns")),  # noqa: DTZ001 - the point
        pa.array([datetime(2024, 1, 1)], pa.timestamp("s")),  # noqa: DTZ001 - the point
        pa.array([datetime(2024, 1, 1, tzinfo=UTC)], pa.timestamp("ms", "Europe/Berlin")),
        pa.array(["2024-01-01"]),
        pa.array(["2024-01-01"]).dictionary_encode(),
        pa.array([int(JAN_1)]),
    ],
)
def test_every_parquet_time_is_understood(tmp_path: Path, column: Any) -> None:
    path = parquet(tmp_path / "a.parquet", advertiser_id=["a"], event_time=column)
    assert [activity.event_time for activity in whole(path).activities] == [JAN_1]


def test_numeric_ids_with_gaps_stay_integers(tmp_path: Path) -> None:
    ids = pa.array([7.0, None, 8.5])
    path = parquet(tmp_path / "a.parquet", advertiser_id=ids, event_time=["2024-01-01"] * 3)
    assert [activity.advertiser_id for activity in whole(path).activities] == ["7", "8.5"]


def test_a_byte_order_mark_tabs_and_line_ends_of_windows_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes("\ufeffadvertiser_id\tevent_time\r\na\t2024-01-01\r\n\r\nb\t2024-01-01".encode())
    assert [activity.advertiser_id for activity in whole(path).activities] == ["a", "b"]
    assert count_rows(path) == 3


# --------------------------------------------------------------------------- identity


def test_equal_rows_both_count_and_a_second_import_changes_nothing(tmp_path: Path) -> None:
    rows = ["a,2024-01-01,5", "a,2024-01-01,6", "a,2024-01-01,5", "a,2024-01-01T00:00Z,5.0", "b,2024-01-01,5"]
    path = write(tmp_path / "a.csv", "advertiser_id,event_time,amount", *rows)
    ids = [activity.event_id for activity in whole(path).activities]
    assert ids[2:4] == [f"{ids[0]}-2", f"{ids[0]}-3"]
    assert len(set(ids)) == 5
    assert [activity.event_id for activity in whole(path).activities] == ids


def test_a_given_id_is_kept_and_a_blank_one_derived(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "advertiser_id,event_time,event_id", "a,2024-01-01,x", "a,2024-01-01,")
    first, second = whole(path).activities
    assert first.event_id == "x"
    assert second.event_id == derive_event_id("a", JAN_1, 0.0, "spend")


def test_a_derived_id_is_stable_and_short() -> None:
    assert derive_event_id("a", JAN_1, 0.0, "spend") == derive_event_id("a", int(JAN_1), 0, "spend")
    assert len(derive_event_id("a", JAN_1, 0.0, "spend")) == 24
    assert derive_event_id("a", JAN_1, 0.0, "spend") == "e6d5384713efe3cc0d9018bd"


def test_minus_zero_is_zero(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "advertiser_id,event_time,amount", "a,2024-01-01,-0.0", "a,2024-01-01,0")
    first, second = whole(path).activities
    assert second.event_id == f"{first.event_id}-2"


# --------------------------------------------------------------------------- rejects


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (",2024-01-01,1,", "advertiser_id is blank: 1 to 128 characters"),
        ("  ,2024-01-01,1,", "advertiser_id is blank: 1 to 128 characters"),
        (f"{'x' * 129},2024-01-01,1,", "advertiser_id has 129 characters: at most 128"),
        ("a\x07,2024-01-01,1,", "advertiser_id has control characters: none allowed"),
        ('"a\nb",2024-01-01,1,', "advertiser_id has control characters: none allowed"),
        ("a,,1,", "event_time is blank: a date or time"),
        (
            "a,01/02/2024,1,",
            f"event_time '01/02/2024' is not a date or time: {ANY_TIME}",
        ),
        (
            "a,nan,1,",
            "event_time 'nan' is not a date or time: RFC 3339, or a number since 1970; --time-format says what else",
        ),
        ("a,1999-12-31,1,", "event_time is before the year 2000: 2000-01-01 or later"),
        ("a,17040672000000,1,", "event_time is in the future: at most 1 day from now"),
        (
            "a,2024-06-02T00:00:01Z,1,",
            "event_time is in the future: at most 1 day from now",
        ),
        ("a,2024-01-01,,", "amount is blank: a number"),
        ("a,2024-01-01,five,", "amount 'five' is not a number: digits and a decimal point or comma"),
        ("a,2024-01-01,nan,", "amount is nan: a finite number"),
        ("a,2024-01-01,inf,", "amount is inf: a finite number"),
        ("a,2024-01-01,-1,", "amount is negative (-1): at least 0"),
        ("a,2024-01-01,1.1e12,", "amount is 1.1e+12: at most 1e+12"),
        ("a,2024-01-01,1,refund", "kind 'refund' is unknown: one of spend, campaign"),
        ("a,2024-01-01,1", "3 fields, but the header has 4"),
        ("a,2024-01-01,1,,", "5 fields, but the header has 4"),
        ('a,"2024"x,1,', "lines 3 to 3 are not CSV: ',' expected after '\"'"),
    ],
)
def test_a_bad_row_is_refused_with_its_line_and_the_limit(tmp_path: Path, cells: str, reason: str) -> None:
    good = "a,2024-01-01,1,"
    path = write(tmp_path / "a.csv", "advertiser_id,event_time,amount,kind", good, cells, good)
    assert rejected(path) == [(3, reason)]
    assert len(whole(path).activities) == 2


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ("a,2024-01-01,eur,", "currency 'eur' is unknown: three capital letters, as in EUR"),
        (
            "a,2024-01-01,EUR,2025-01-01",
            "arrival is in the future: at most 1 day from now",
        ),
    ],
)
def test_a_bad_currency_or_arrival_is_refused(tmp_path: Path, cells: str, reason: str) -> None:
    path = write(tmp_path / "a.csv", "advertiser_id,event_time,currency,arrival", cells)
    assert rejected(path) == [(2, reason)]


def test_limits_are_inclusive(tmp_path: Path) -> None:
    rows = [f"{'x' * 128},2000-01-01,1e12", "é,2024-06-02T00:00:00Z,0"]
    path = write(tmp_path / "a.csv", "advertiser_id,event_time,amount", *rows)
    assert len(whole(path).activities) == 2


def test_a_campaign_needs_no_amount(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "advertiser_id,event_time,amount,kind", "a,2024-01-01,,campaign")
    assert whole(path).activities[0].amount == 0.0


def test_lines_are_physical_in_csv(tmp_path: Path) -> None:
    rows = ['"x', 'y",2024-01-01,n', "", "a,bad,n", "b,2024-01-01,n", "c,worse,n"]
    path = write(tmp_path / "a.csv", "advertiser_id,event_time,note", *rows)
    assert [line for line, _ in rejected(path)] == [2, 5, 7]


def test_lines_are_row_numbers_in_parquet_across_batches(tmp_path: Path) -> None:
    count = 2 * BATCH_ROWS + 1
    amounts = [1.0] * (count - 1) + [-1.0]
    amounts[0] = float("nan")
    path = parquet(
        tmp_path / "a.parquet", advertiser_id=["a"] * count, event_time=["2024-01-01"] * count, amount=amounts
    )
    batches = list(read_activity(path, None, NOW))
    assert [batch.rows for batch in batches] == [BATCH_ROWS, BATCH_ROWS, 1]
    assert [reject.line for batch in batches for reject in batch.rejects] == [1, count]
    assert count_rows(path) == count


def test_text_that_is_not_utf8_costs_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"advertiser_id,event_time\nZ\xfcrich,2024-01-01\nb,2024-01-01\n")
    found = whole(path)
    assert [activity.advertiser_id for activity in found.activities] == ["b"]
    assert found.rejects == [
        Reject(
            2,
            "advertiser_id is not UTF-8: UTF-8 text, or --encoding says which, such as latin-1",
            {"advertiser_id": "Z?rich", "event_time": "2024-01-01"},
        )
    ]


def test_parquet_values_python_cannot_hold_cost_one_row(tmp_path: Path) -> None:
    binary = pa.array([b"a", b"Z\xfcrich", b"c"])
    text = pa.Array.from_buffers(pa.string(), 3, binary.buffers())
    far = pa.array([int(JAN_1), int(JAN_1), 2**40], pa.timestamp("s"))
    path = parquet(tmp_path / "a.parquet", advertiser_id=text, event_time=far)
    found = whole(path)
    assert [activity.advertiser_id for activity in found.activities] == ["a"]
    assert [(reject.line, reject.reason.split(":")[0]) for reject in found.rejects] == [
        (2, "advertiser_id is not UTF-8"),
        (3, "event_time '1099511627776000000 us since 1970' is not a date or time"),
    ]


@pytest.mark.parametrize(
    ("field", "column"), [("amount", pa.array([True])), ("event_time", pa.array([True]))]
)
def test_a_boolean_is_no_number(tmp_path: Path, field: str, column: Any) -> None:
    columns: dict[str, Any] = {"advertiser_id": ["a"], "event_time": ["2024-01-01"], field: column}
    assert rejected(parquet(tmp_path / "a.parquet", **columns))[0][1].startswith(f"{field} True is not a")


def test_an_open_quote_says_which_lines_it_swallowed(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv", "advertiser_id,event_time", 'a,"2024-01-01', "b,2024-01-01", "c,2024-01-01"
    )
    assert rejected(path) == [(2, "lines 2 to 4 are not CSV: unexpected end of data")]


def test_rejects_are_written_as_json_lines_as_they_come(tmp_path: Path) -> None:
    def some() -> Iterator[Reject]:
        yield Reject(2, "amount is blank: a number", {"amount": "é"})
        assert target.exists()
        yield Reject(3, "…", {})

    target = tmp_path / "rejects.jsonl"
    assert write_rejects(target, some()) == 2
    assert write_rejects(target, [Reject(9, "x", {})], append=True) == 1
    lines = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert lines[0] == {"line": 2, "reason": "amount is blank: a number", "raw": {"amount": "é"}}
    assert [line["line"] for line in lines] == [2, 3, 9]


def test_rejects_that_cannot_be_written_say_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_rejects(tmp_path / "no" / "rejects.jsonl", [])


# --------------------------------------------------------------------------- files as a whole


def assert_unreadable(path: Path, message: str, mapping: dict[str, str] | None = None) -> None:
    with pytest.raises(UnreadableFileError, match=message) as caught:
        whole(path, mapping)
    assert caught.value.hint


def test_what_is_not_a_table_is_refused_with_a_hint(tmp_path: Path) -> None:
    assert_unreadable(tmp_path / "none.csv", "does not exist")
    (tmp_path / "folder.csv").mkdir()
    assert_unreadable(tmp_path / "folder.csv", "is a directory")
    assert_unreadable(tmp_path, "is a directory")
    assert_unreadable(write(tmp_path / "empty.csv"), "is empty")
    assert_unreadable(write(tmp_path / "blank.csv", "", ""), "is empty")
    assert_unreadable(write(tmp_path / "a.xlsx", "x"), "unknown extension '.xlsx'")
    assert_unreadable(write(tmp_path / "README", "x"), "no extension")
    assert_unreadable(write(tmp_path / "text.parquet", "a,b"), "is not a Parquet file")
    assert_unreadable(write(tmp_path / "rows.csv", "advertiser_id,event_time"), "no rows")
    empty: Sequence[str] = pa.array([], pa.string())
    assert_unreadable(parquet(tmp_path / "r.parquet", advertiser_id=empty, event_time=empty), "no rows")


def test_binary_files_are_no_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(bytes(range(256)) * 3)
    assert_unreadable(path, "not CSV text in UTF-8 or UTF-16")
    path.write_bytes(b"x" * 70_000)
    assert_unreadable(path, "no line ends")


def test_a_cut_parquet_file_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", advertiser_id=["a"] * 9, event_time=["2024-01-01"] * 9)
    path.write_bytes(path.read_bytes()[:-20])
    assert_unreadable(path, "is not a Parquet file")


def test_a_damaged_parquet_page_is_refused(tmp_path: Path) -> None:
    ids = [f"advertiser {number}" for number in range(500)]
    path = parquet(tmp_path / "a.parquet", advertiser_id=ids, event_time=["2024-01-01"] * 500)
    data = bytearray(path.read_bytes())
    data[4:2_000] = bytes(1_996)
    path.write_bytes(data)
    assert_unreadable(path, "cannot be read")


def test_a_missing_column_is_named_beside_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "Account,Day", "a,2024-01-01")
    with pytest.raises(UnreadableFileError, match="lacks event_time; its columns are Account, Day") as caught:
        read_activity(path, {"advertiser_id": "Account"}, NOW)
    assert "--map" in caught.value.hint
    assert_unreadable(path, "lacks advertiser_id, event_time")
    mapping = {"advertiser_id": "Account", "event_time": "Day", "amount": "Cost"}
    assert_unreadable(path, "lacks Cost", mapping)


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "advertiser_id,event_time,event_time", "a,2024-01-01,2024-01-02")
    assert_unreadable(path, "more than one column 'event_time'")


def test_a_mapping_of_an_unknown_field_is_a_mistake_of_configuration(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "advertiser_id,event_time", "a,2024-01-01")
    with pytest.raises(ConfigurationError, match="'cost' is not a field"):
        read_activity(path, {"cost": "Spend"}, NOW)


def test_parquet_and_csv_of_one_table_give_the_same(tmp_path: Path) -> None:
    table = pa.table({"advertiser_id": ["a", "b"], "event_time": ["2024-01-01"] * 2, "amount": [1.5, 2.0]})
    pq.write_table(table, tmp_path / "a.parquet")
    pa_csv.write_csv(table, tmp_path / "a.csv")
    assert whole(tmp_path / "a.parquet") == whole(tmp_path / "a.csv")


def test_counting_gives_up_where_it_is_not_cheap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.csv", "advertiser_id,event_time", "a,2024-01-01")
    assert count_rows(path) == 1
    monkeypatch.setattr("features.importing.tables._COUNT_BYTES", 10)
    assert count_rows(path) is None
