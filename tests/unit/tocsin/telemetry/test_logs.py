from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import StorageUnavailableError
from tocsin.telemetry import logs
from tocsin.telemetry.logs import PACKAGES, request_id, safe_request_id, write_logs

log = logging.getLogger("serve_deployments.http.application")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = {name: (logging.getLogger(name).level, logging.getLogger(name).propagate) for name in PACKAGES}
    yield
    for name, (level, propagate) in before.items():
        logger = logging.getLogger(name)
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            handler.close()
        logger.level, logger.propagate = level, propagate


def written(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()
    ]


SOURCE_LINE = 'raise ValueError("+49 170 1234567 is no number")'


def fail() -> None:
    raise ValueError("+49 170 1234567 is no number") from StorageUnavailableError("storage is unavailable")


def test_a_failure_is_one_record_at_error_with_the_id_of_its_request(tmp_path: Path) -> None:
    write_logs("churn", tmp_path)
    token = request_id.set("req-1")
    try:
        fail()
    except ValueError:
        log.exception("Recipients: PUT /{id} failed")
    finally:
        request_id.reset(token)
    (record,) = written(tmp_path)
    assert {name: record[name] for name in ("level", "part", "request_id", "pid", "message")} == {
        "level": "ERROR",
        "part": "churn",
        "request_id": "req-1",
        "pid": os.getpid(),
        "message": "Recipients: PUT /{id} failed",
    }
    assert "StorageUnavailableError: storage is unavailable" in record["trace"]
    assert record["trace"].endswith("ValueError")
    assert "1234567 is" not in record["trace"].replace(SOURCE_LINE, "")
    assert "test_logs.py" in record["trace"]
    assert "\\n" not in record["trace"]  # lines, not their representation


@given(st.text(max_size=50))
def test_a_record_is_one_line_whatever_it_holds(text: str) -> None:
    line = logs.JsonLines("p").format(logging.LogRecord("tocsin", 20, "f", 1, "%s", (text,), None))
    assert "\n" not in line
    assert json.loads(line)["message"] == text


def test_set_up_again_it_writes_each_record_once(tmp_path: Path) -> None:
    write_logs("a", tmp_path)
    write_logs("a", tmp_path)
    log.warning("once")
    assert [one["message"] for one in written(tmp_path)] == ["once"]


def test_the_files_of_a_folder_are_bounded_in_number_and_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_FILES", 5)
    monkeypatch.setattr(logs, "MAX_BYTES", 1_000)
    for number in range(20):
        path = tmp_path / f"old.{number}.jsonl"
        path.write_text("{}\n")
        os.utime(path, (number, number))
    write_logs("new", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"old.{number}.jsonl" for number in range(16, 20)}
    for number in range(100):
        log.info("%d", number)
    ours = list(tmp_path.glob("new.*"))
    assert len(ours) == 3
    assert all(path.stat().st_size <= 1_000 for path in ours)


def test_a_folder_that_cannot_be_made_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    write_logs("a", tmp_path / "file" / "logs")
    log.warning("still here")


@pytest.mark.parametrize("given", ["8c1e6a2f-3b1d-4f6e-9a57-0c6d2f1e5b7a", "a.b_c-1:2", "x" * 128])
def test_a_usual_request_id_is_taken(given: str) -> None:
    assert safe_request_id(given) == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\nb", "é", '"', "{}"])
def test_a_callers_text_as_a_request_id_is_not_logged(given: str) -> None:
    assert safe_request_id(given) == ""
