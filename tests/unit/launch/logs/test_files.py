from __future__ import annotations

import json
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.logs import files as module
from launch.logs.files import LogFiles, part_of
from launch.logs.records import Wanted, read_records

START = datetime(2026, 1, 1, tzinfo=UTC)
ALL = Wanted()


def line(
    second: float, message: str, *, part: str = "router-p0-0", level: str = "INFO", request: str = ""
) -> str:
    at = (START + timedelta(seconds=second)).isoformat()
    record = {"at": at, "level": level, "part": part, "pid": 1, "logger": "x", "message": message}
    return json.dumps(record | ({"request_id": request} if request else {})) + "\n"


def put(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(lines)
    return path


def messages(folder: Path, wanted: Wanted = ALL, number: int = 100) -> list[str]:
    return [one.message for one in LogFiles([folder]).last(wanted, number)]


def test_the_logs_of_all_parts_are_one_newest_last(tmp_path: Path) -> None:
    put(tmp_path, "router-p0-0.1.jsonl", line(1, "a"), line(4, "d"))
    put(tmp_path, "run-2/churn.2.jsonl", line(2, "b", part="churn"), line(3, "c", part="churn"))
    assert messages(tmp_path) == ["a", "b", "c", "d"]
    assert messages(tmp_path, number=2) == ["c", "d"]
    assert messages(tmp_path, number=0) == []
    assert messages(tmp_path / "nowhere") == []


def test_they_are_picked_by_part_level_time_and_request(tmp_path: Path) -> None:
    put(tmp_path, "a.1.jsonl", line(1, "one"), line(2, "two", level="ERROR", request="r1"))
    put(tmp_path, "b.1.jsonl", line(3, "three", part="churn", level="WARNING"))
    put(tmp_path, "c.1.jsonl", line(4, "four", part="router-p01-0"))
    assert messages(tmp_path, Wanted(parts=("p0",))) == ["one", "two"]
    assert messages(tmp_path, Wanted(parts=("router",))) == ["one", "two", "four"]
    assert messages(tmp_path, Wanted(parts=("churn", "router-p01-0"))) == ["three", "four"]
    assert messages(tmp_path, Wanted(level="WARNING")) == ["two", "three"]
    assert messages(tmp_path, Wanted(since=START + timedelta(seconds=3))) == ["three", "four"]
    assert messages(tmp_path, Wanted(request_id="r1")) == ["two"]


def test_what_ray_and_serve_wrote_is_read_with_its_level_and_goes_on_over_lines(tmp_path: Path) -> None:
    request = "0f4a7a0e-6a39-4a0e-bb0c-3f6a0b6f4a11"
    put(
        tmp_path,
        "serve/replica_churn_churn_k3j2h1.log",
        f"ERROR 2026-01-01 10:00:00,250 churn_churn k3j2h1 {request} -- Request failed.\n",
        "Traceback (most recent call last):\n",
        "KeyError\n",
    )
    put(tmp_path, "raylet.out", "[2026-01-01 10:00:00,500 W 12 34] (raylet) node.cc:1: slow\n")
    put(
        tmp_path,
        "worker-6a0b6f4a116a0b6f4a11-01000000-99.err",
        "2026-01-01 10:00:00,750\tERROR a.py:1 -- bad\n",
    )
    found = LogFiles([tmp_path]).last(ALL, 10)
    assert [(one.part, one.level) for one in found] == [
        ("churn", "ERROR"),
        ("raylet", "WARNING"),
        ("worker", "ERROR"),
    ]
    assert found[0].message.endswith("Request failed.\nTraceback (most recent call last):\nKeyError")
    assert found[0].request_id == request


def test_only_the_end_of_a_huge_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TAIL_BYTES", 1_000)
    put(tmp_path, "a.1.jsonl", *(line(number, str(number)) for number in range(1_000)))
    found = messages(tmp_path, number=1_000)
    assert 1 < len(found) < 20
    assert found[-1] == "999"
    assert found == [
        str(number) for number in range(1_000 - len(found), 1_000)
    ]  # no half of a line among them


def test_a_line_cut_short_does_not_hide_the_others(tmp_path: Path) -> None:
    put(tmp_path, "a.1.jsonl", line(1, "a"), '{"at": "2026-01-01T00:0')
    (tmp_path / "b.1.jsonl").write_bytes(b"\xff\xfe\x00garbage\n" + line(2, "b").encode())
    found = messages(tmp_path)
    assert any(one.startswith("a\n{") for one in found)
    assert "b" in found


def test_following_shows_each_record_once_over_a_rotation(tmp_path: Path) -> None:
    path = put(tmp_path, "a.1.jsonl", line(1, "a"))
    logs = LogFiles([tmp_path])
    assert [one.message for one in logs.last(ALL, 10)] == ["a"]
    put(tmp_path, "a.1.jsonl", line(2, "b"), line(3, "c")[:20])
    assert [one.message for one in logs.added(ALL)] == ["b"]
    put(tmp_path, "a.1.jsonl", line(3, "c")[20:], line(4, "d"))
    path.rename(tmp_path / "a.1.jsonl.1")
    put(tmp_path, "a.1.jsonl", line(5, "e"))
    put(tmp_path, "new.1.jsonl", line(6, "f"))
    assert [one.message for one in logs.added(ALL)] == ["c", "d", "e", "f"]
    assert logs.added(ALL) == []
    os.truncate(path, 0)
    assert logs.added(ALL) == []
    put(tmp_path, "a.1.jsonl", line(7, "g"))
    assert [one.message for one in logs.added(ALL)] == ["g"]


def test_a_file_that_goes_away_is_passed_over(tmp_path: Path) -> None:
    path = put(tmp_path, "a.1.jsonl", line(1, "a"))
    logs = LogFiles([tmp_path])
    logs.last(ALL, 10)
    path.unlink()
    assert logs.added(ALL) == []


@given(st.lists(st.text(max_size=40), max_size=20))
def test_no_line_is_too_odd_to_be_read(lines: list[str]) -> None:
    for record in read_records(lines, "p", START):
        assert record.at.tzinfo is not None


@given(st.lists(st.integers(1, 30), min_size=1, max_size=10))
def test_a_file_that_grows_by_any_pieces_is_read_as_its_lines(sizes: list[int]) -> None:
    whole = "".join(line(number, f"m{number}") for number in range(3))
    with tempfile.TemporaryDirectory() as name:
        logs, found, at = LogFiles([Path(name)]), [], 0
        for size in [*sizes, len(whole)]:
            put(Path(name), "a.1.jsonl", whole[at : at + size])
            at += size
            found += logs.added(ALL)
    assert [one.message for one in found] == ["m0", "m1", "m2"]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("router-p0-0.123.jsonl", "router-p0-0"),
        ("router-p0-0.123.jsonl.1", "router-p0-0"),
        ("up.log", "platform"),
        ("ray.log", "ray"),
        ("replica_emergency-calls_emergency-calls_abc.log", "emergency-calls"),
        ("controller_1234.log", "serve-controller"),
        ("proxy_10.0.0.1.log", "serve-proxy"),
        ("raylet.out", "raylet"),
        ("gcs_server.err", "gcs_server"),
        ("worker-6a0b6f4a116a0b6f4a11-01000000-99.out", "worker"),
    ],
)
def test_a_part_is_known_by_its_files_name(name: str, part: str) -> None:
    assert part_of(Path(name)) == part
