"""A file as `tocsin evaluate` reads it: times as they are written, and what was refused, counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from features.importing.activity_log import Log, read_log
from features.importing.options import ReadOptions
from tocsin.errors import UnreadableFileError

MAP = {"advertiser_id": "who", "event_time": "when", "amount": "paid"}
MOMENT = pd.Timestamp("2023-05-27T08:30:00Z").timestamp()


def _read(folder: Path, rows: Sequence[str], time_format: str = "", separator: str = ",") -> Log:
    path = folder / "log.csv"
    path.write_text("\n".join([separator.join(("who", "when", "paid")), *rows]) + "\n", encoding="utf-8")
    return read_log(path, None, MAP, ReadOptions(time_format=time_format), lambda _: None)


@pytest.mark.parametrize(
    ("cell", "time_format"),
    [
        ("2023-05-27T10:30:00+02:00", ""),
        ("27.05.2023 08:30", "%d.%m.%Y %H:%M"),
        ("05/27/2023 10:30 +0200", "%m/%d/%Y %H:%M %z"),
        (f"{MOMENT * 1000:.0f}", "ms"),
    ],
)
def test_times_are_read_as_they_are_written(tmp_path: Path, cell: str, time_format: str) -> None:
    log = _read(tmp_path, [f"a,{cell},1"], time_format)
    assert log.events["event_time"].tolist() == [MOMENT]
    assert log.refused.text == ""


def test_days_as_whole_numbers_and_of_the_last_century(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pd.DataFrame({"who": ["a", "b"], "when": [19970101, 19970102], "paid": [1.0, 2.0]}).to_parquet(path)
    log = read_log(path, None, MAP, ReadOptions(time_format="%Y%m%d"), lambda _: None)
    assert pd.to_datetime(log.events["event_time"], unit="s").dt.day.tolist() == [1, 2]


def test_refused_rows_are_counted_by_what_is_wrong(tmp_path: Path) -> None:
    good = [f"a,2023-05-{day:02d},1" for day in range(1, 9)]
    log = _read(tmp_path, [*good, "b,2023-05-27,", "c,2023-05-27,", "d,2023-05-27,-3.5", "e,2023-05-27,-1"])
    assert (log.refused.rows, log.refused.refused, len(log.events)) == (12, 4, 8)
    assert log.refused.reasons == {
        "line 10, amount is blank: a number": 2,
        "line 12, amount is negative (-3.5): at least 0": 2,
    }
    assert log.refused.text.startswith("4 of 12 rows were refused: 2 such as line 10, amount is blank")


@pytest.mark.parametrize(
    ("rows", "separator", "text", "hint"),
    [
        (["a;2023-05-27;free", "b;2023-05-27;2"], ";", "", ""),  # half of them is borne, and told
        (["a;2023-05-27;1.250", "b;2023-05-28;2.500"], ";", "2 of 2 rows were refused", "a decimal point"),
        (["a,27.05.2023,1"], ",", "event_time '27.05.2023' is not a date", "--time-format says how"),
        (["a,45073.35,1"], ",", "event_time is the number 45073.35, too small", "ms for milliseconds"),
    ],
)
def test_a_file_of_which_too_little_is_left_is_refused_with_the_next_step(
    tmp_path: Path, rows: Sequence[str], separator: str, text: str, hint: str
) -> None:
    if not text:
        assert _read(tmp_path, rows, separator=separator).refused.refused == 1
        return
    with pytest.raises(UnreadableFileError, match=text) as caught:
        _read(tmp_path, rows, separator=separator)
    assert hint in caught.value.hint


def test_reading_says_how_far_it_is(tmp_path: Path) -> None:
    path, said = tmp_path / "log.csv", list[str]()
    rows = [f"a,{MOMENT + at:.0f},1" for at in range(4_500)]
    path.write_text("\n".join(["who,when,paid", *rows]) + "\n", encoding="utf-8")
    read_log(path, None, MAP, ReadOptions(), said.append)
    assert said[0] == "reading log.csv: 2,000 rows of 4,500"
