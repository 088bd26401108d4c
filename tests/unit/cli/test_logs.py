from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli.app import app
from cli.operating.logs import show, wanted_of
from cli.output import console
from launch.logs.records import LogRecord, Wanted
from tests.unit.launch.logs.test_files import line, put
from tocsin.settings import Settings

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("since", "moment"),
    [
        ("10m", NOW - timedelta(minutes=10)),
        ("1d", NOW - timedelta(days=1)),
        ("2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
        ("", None),
    ],
)
def test_since_is_a_span_or_a_time(since: str, moment: datetime | None) -> None:
    assert wanted_of((), "", since, "", NOW).since == moment


@pytest.mark.parametrize("since", ["yesterday", "10", "m", "2026-01-01", "2026-01-01T00:00:00", "9999999d"])
def test_what_is_neither_is_refused(since: str) -> None:
    with pytest.raises(typer.BadParameter, match="--since is a span"):
        wanted_of((), "", since, "", NOW)


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="--level is one of DEBUG"):
        wanted_of((), "loud", "", "", NOW)


def test_the_command_prints_lines_for_people_and_objects_for_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOCSIN_DATA_DIR", str(tmp_path))
    put(tmp_path / "logs", "a.1.jsonl", line(1, "[b]a", request="r-1", level="ERROR"), line(2, "b"))
    shown = CliRunner().invoke(app, ["logs", "--level", "error"])
    assert shown.exit_code == 0
    assert "ERROR" in shown.output
    assert "[b]a" in shown.output
    assert "request=r-1" in shown.output
    answered = CliRunner().invoke(app, ["logs", "--json", "-n", "1"])
    assert [json.loads(one)["message"] for one in answered.output.splitlines()] == ["b"]
    assert "nothing logged" in CliRunner().invoke(app, ["logs", "--request", "none"]).output


def test_following_goes_on_until_it_is_interrupted(tmp_path: Path) -> None:
    put(tmp_path / "logs", "a.1.jsonl", line(1, "a"))
    found: list[str] = []

    def pause(_seconds: float) -> None:
        if len(found) > 2:
            raise KeyboardInterrupt
        put(tmp_path / "logs", "a.1.jsonl", line(len(found) + 1, f"more {len(found)}"))

    def emit(record: object) -> None:
        assert isinstance(record, LogRecord)
        found.append(record.message)

    settings = Settings(data_dir=str(tmp_path))
    show(settings, console(), Wanted(), 10, follow=True, json=True, emit=emit, pause=pause)
    assert found == ["a", "more 1", "more 2"]
