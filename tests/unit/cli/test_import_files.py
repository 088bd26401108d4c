"""`tocsin import`: one reader and one set of options with `evaluate`, and refused alerts by position."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from cli.app import app
from cli.import_files import rejected_alerts
from routing.intake.cap import AlertFeed, AlertReject
from tocsin.wire.notifications import NotificationRequest
from tocsin.wire.problems import RecordError


@pytest.mark.parametrize("command", [["import", "activity"], ["evaluate"]])
def test_whatever_reads_a_table_takes_the_same_options(command: list[str]) -> None:
    shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).stdout
    for option in ("--map", "--time-format", "--decimal", "--encoding", "--delimiter"):
        assert option in shown


def test_alerts_refused_here_and_there_are_listed_by_their_position() -> None:
    sent = [
        NotificationRequest(type="weather_alert", title=name, recipient="area:1", dedup_key=name)
        for name in "ac"
    ]
    feed = AlertFeed(sent, [AlertReject(1, "b", "title is missing")], [0, 2])
    errors = [RecordError(index=1, detail="`expires_at` is too long ago", limit="> 1970-01-01T00:00:00Z")]
    assert rejected_alerts(feed, errors) == [
        {"position": 1, "id": "b", "reason": "title is missing"},
        {"position": 2, "id": "c", "reason": "`expires_at` is too long ago: > 1970-01-01T00:00:00Z"},
    ]
