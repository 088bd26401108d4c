"""Files as spreadsheets, billing systems and data lakes write them: read alike, or refused with the next step."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.importing.importer import ImportBatch, read_activity
from features.importing.options import ReadOptions
from features.importing.tables import count_rows, open_table
from tocsin.errors import ConfigurationError, UnreadableFileError

NOW = datetime(2024, 6, 1, tzinfo=UTC).timestamp()
DAY = datetime(2019, 1, 5, tzinfo=UTC).timestamp()
TEXT = "advertiser_id,event_time,amount\nCafé,2019-01-05,2\nb,2019-01-06,3.5\n"


def whole(path: Path, mapping: dict[str, str] | None = None, **options: str) -> ImportBatch:
    found = ImportBatch()
    for batch in read_activity(path, mapping, NOW, options=ReadOptions(**options)):
        found.activities += batch.activities
        found.lines += batch.lines
        found.files += batch.files
        found.rejects += batch.rejects
    return found


def amounts(folder: Path, *cells: str, delimiter: str = ",", **options: str) -> list[float | str]:
    """What becomes of amounts, in order: the number, or the reason."""
    path = folder / "amounts.csv"
    rows = [delimiter.join((f"a{at}", "2019-01-05", f'"{cell}"')) for at, cell in enumerate(cells)]
    header = delimiter.join(("advertiser_id", "event_time", "amount"))
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    found = whole(path, None, **options)
    by_line: dict[int, float | str] = {
        line: one.amount for line, one in zip(found.lines, found.activities, strict=True)
    }
    by_line |= {reject.line: reject.reason for reject in found.rejects}
    return [by_line[line] for line in sorted(by_line)]


def zipped(data: bytes, path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names or ("spend.csv",):
            archive.writestr(name, data)


# --------------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        (".csv.gz", gzip.compress),
        (".csv.bz2", bz2.compress),
        (".csv.xz", lzma.compress),
        (".csv.zst", lambda data: pa.Codec("zstd").compress(data, asbytes=True)),
        (".csv", gzip.compress),  # named as if it were not
        (".gz", gzip.compress),
    ],
)
def test_compressed_text_is_text(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"spend{suffix}"
    path.write_bytes(pack(TEXT.encode()))
    assert [one.advertiser_id for one in whole(path).activities] == ["Café", "b"]
    assert count_rows(path) is None


def test_a_zip_of_one_table_is_that_table_and_of_more_is_refused(tmp_path: Path) -> None:
    zipped(TEXT.encode(), tmp_path / "one.zip")
    assert len(whole(tmp_path / "one.zip").activities) == 2
    zipped(TEXT.encode(), tmp_path / "two.zip", "a.csv", "b.csv")
    with pytest.raises(UnreadableFileError, match="holds 2 files"):
        whole(tmp_path / "two.zip")
    zipped(TEXT.encode(), tmp_path / "other.zip", "a.exe")
    with pytest.raises(UnreadableFileError, match=r"holds a\.exe"):
        whole(tmp_path / "other.zip")


def test_a_cut_off_archive_is_refused_with_the_next_step(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    packed = gzip.compress((TEXT + "c,2019-01-07,1\n" * 50_000).encode())
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UnreadableFileError, match="cannot be read") as caught:
        whole(path)
    assert "cut off" in caught.value.hint
    path.write_bytes(gzip.compress(gzip.compress(TEXT.encode())))
    with pytest.raises(UnreadableFileError, match="packed or binary"):
        whole(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_of_any_width_shows_itself(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(TEXT.encode(encoding))
    found = whole(path)
    assert [one.advertiser_id for one in found.activities] == ["Café", "b"]
    assert found.lines == [2, 3]


def test_an_8_bit_encoding_is_an_option_that_the_reason_names(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(TEXT.encode("latin-1"))
    (reject,) = whole(path).rejects
    assert (reject.line, "--encoding" in reject.reason) == (2, True)
    assert [one.advertiser_id for one in whole(path, encoding="latin-1").activities] == ["Café", "b"]
    path.write_bytes("Société,date\nx,2019-01-05\n".encode("cp1252"))
    with pytest.raises(UnreadableFileError, match="its columns are Soci") as caught:
        whole(path, {"advertiser_id": "Société", "event_time": "date"})
    assert "--encoding" in caught.value.hint
    assert whole(path, {"advertiser_id": "Société", "event_time": "date"}, encoding="cp1252").activities


def test_utf16_that_ends_in_the_middle_of_a_character_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(TEXT.encode("utf-16")[:-1])
    with pytest.raises(UnreadableFileError, match="cannot be read"):
        whole(path)


@pytest.mark.parametrize(
    "text",
    [
        "advertiser_id;event_time;amount\nb;2019-01-05;1\n",
        "advertiser_id|event_time|amount\nb|2019-01-05|1\n",
        "sep=;\nadvertiser_id;event_time;amount\nb;2019-01-05;1\n",
        '"advertiser_id";"event_time";"amount, with commas, in it";"amount"\nb;2019-01-05;;1\n',
        "advertiser_id\tevent_time\tamount\r\nb\t2019-01-05\t1\r\n",
    ],
)
def test_columns_may_be_split_at_any_usual_mark(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8", newline="")
    (activity,) = whole(path).activities
    assert (activity.advertiser_id, activity.event_time, activity.amount) == ("b", DAY, 1.0)


def test_another_delimiter_is_an_option(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("advertiser_id^event_time\nb^2019-01-05\n", encoding="utf-8")
    with pytest.raises(UnreadableFileError, match="lacks advertiser_id"):
        whole(path)
    assert whole(path, delimiter="^").activities


@pytest.mark.parametrize(
    ("name", "value"), [("decimal", ";"), ("encoding", "klingon"), ("encoding", "rot13"), ("delimiter", "ab")]
)
def test_an_option_that_cannot_be_is_refused_by_its_name(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"--{name}"):
        ReadOptions(**{name: value})


# --------------------------------------------------------------------------- money


@pytest.mark.parametrize(
    ("cell", "amount"),
    [
        ("$1,200.50", 1200.5),
        ("1.234,50", 1234.5),
        ("12,50", 12.5),
        ("0,125", 0.125),
        ("1 234,50", 1234.5),
        ("1\u202f234,50", 1234.5),
        ("1'234.50", 1234.5),
        ("1,234,567", 1234567.0),
        ("1.234.567", 1234567.0),
        ("12,34,567.89", 1234567.89),
        ("US$ 5", 5.0),
        ("+5", 5.0),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1.250", 1.25),
    ],
)
def test_amounts_as_people_write_them(tmp_path: Path, cell: str, amount: float) -> None:
    assert amounts(tmp_path, cell) == [amount]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("(12.00)", "amount is negative (-12): at least 0"),
        ("12.00-", "amount is negative (-12): at least 0"),
        ("$-3", "amount is negative (-3): at least 0"),
        ("\u22123", "amount is negative (-3): at least 0"),
        ("1e400", "amount is inf: a finite number"),
        ("1,2,3", "amount '1,2,3' is not a number: digits and a decimal point or comma"),
        ("12%", "amount '12%' is not a number: digits and a decimal point or comma"),
        ("1,200", "amount '1,200' may be two amounts: --decimal , or --decimal . says which"),
        ("NULL", "amount 'NULL' is not a number: digits and a decimal point or comma"),
    ],
)
def test_what_is_no_amount_or_two_is_refused(tmp_path: Path, cell: str, reason: str) -> None:
    assert amounts(tmp_path, cell) == [reason]


def test_the_first_rows_show_which_mark_is_the_decimal_one(tmp_path: Path) -> None:
    assert amounts(tmp_path, "1,200", "$9.99") == [1200.0, 9.99]
    assert amounts(tmp_path, "1.200", "9,99") == [1200.0, 9.99]
    assert amounts(tmp_path, "1.200", "7", delimiter=";")[1] == 7.0
    assert "--decimal" in str(amounts(tmp_path, "1.200", "7", delimiter=";")[0])
    assert amounts(tmp_path, "1.200", "7", delimiter=";", decimal=",") == [1200.0, 7.0]
    assert amounts(tmp_path, "1.200", "7", delimiter=";", decimal=".") == [1.2, 7.0]
    assert "does not fit" in str(amounts(tmp_path, "12.5", decimal=",")[0])


def test_a_currency_written_with_an_amount_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "advertiser_id,event_time,amount,currency\na,2019-01-05,€5,\na,2019-01-05,5 EUR,EUR\na,2019-01-05,£5,USD\n",
        encoding="utf-8",
    )
    found = whole(path)
    assert [one.currency for one in found.activities] == ["EUR", "EUR"]
    assert [(r.line, r.reason) for r in found.rejects] == [
        (4, "amount is in GBP: the currency of the row is USD")
    ]


# --------------------------------------------------------------------------- folders


def part(path: Path, ids: list[str], when: list[datetime] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"advertiser_id": ids, "amount": [1.0] * len(ids)}
    table = pa.table(columns | ({"event_time": pa.array(when)} if when else {}))
    pq.write_table(table, path)


def test_a_folder_of_parts_is_one_table(tmp_path: Path) -> None:
    where = tmp_path / "spend"
    day = datetime(2019, 1, 5, tzinfo=UTC)
    part(where / "year=2019" / "part-0.parquet", ["a", ""], [day, day])
    part(where / "year=2020" / "part-0.parquet", ["b"], [day.replace(year=2020)])
    (where / "_SUCCESS").touch()
    (where / "year=2020" / ".part-0.parquet.crc").write_bytes(b"crc")
    found = whole(where)
    assert [one.advertiser_id for one in found.activities] == ["a", "b"]
    assert found.lines == [1, 1]
    assert found.files == ["year=2019/part-0.parquet", "year=2020/part-0.parquet"]
    assert [(r.line, r.file) for r in found.rejects] == [(2, "year=2019/part-0.parquet")]
    assert found.rejects[0].place == "line 2 of year=2019/part-0.parquet"
    assert count_rows(where) == 3
    assert "year" in open_table(where).columns


def test_folders_may_say_what_their_rows_share(tmp_path: Path) -> None:
    where = tmp_path / "spend"
    part(where / "event_time=2019-01-05" / "x.parquet", ["a"])
    part(where / "event_time=__HIVE_DEFAULT_PARTITION__" / "x.parquet", ["b"])
    found = whole(where)
    assert [(one.advertiser_id, one.event_time) for one in found.activities] == [("a", DAY)]
    assert [r.reason for r in found.rejects] == ["event_time is blank: a date or time"]


def test_a_folder_of_text_parts_is_one_table(tmp_path: Path) -> None:
    where = tmp_path / "spend"
    where.mkdir()
    for name in ("part-0.csv", "part-1.csv.gz"):
        data = TEXT.encode()
        (where / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    (where / "part-2.csv").touch()  # a part without rows
    found = whole(where)
    assert [one.advertiser_id for one in found.activities] == ["Café", "b"] * 2
    assert found.activities[2].event_id == f"{found.activities[0].event_id}-2"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "without Parquet or CSV files"),
        (["a.json"], "without Parquet or CSV files"),
        (["a.csv", "b.parquet"], "both Parquet and text files"),
        (["_delta_log/0.json", "a.parquet"], "is a Delta Lake table"),
    ],
)
def test_a_folder_that_is_no_table_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    where = tmp_path / "spend"
    where.mkdir()
    for name in names:
        (where / name).parent.mkdir(exist_ok=True)
        (where / name).write_bytes(b"x")
    with pytest.raises(UnreadableFileError, match=message) as caught:
        whole(where)
    assert caught.value.hint


def test_a_part_that_lacks_a_column_is_named(tmp_path: Path) -> None:
    where = tmp_path / "spend"
    part(where / "a.parquet", ["a"], [datetime(2019, 1, 5, tzinfo=UTC)])
    part(where / "b.parquet", ["b"])
    with pytest.raises(UnreadableFileError, match=r"b\.parquet lacks event_time"):
        whole(where)


@pytest.mark.parametrize("suffix", [".xlsx", ".json"])
def test_other_kinds_of_files_are_refused_with_what_to_do(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"x")
    with pytest.raises(UnreadableFileError, match="unknown extension") as caught:
        whole(path)
    assert "CSV" in caught.value.hint
