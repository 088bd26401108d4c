from __future__ import annotations

from typing import Any

import pytest

from features.importing.importer import ImportBatch
from launch import local_client
from launch.file_import import refused
from tocsin.errors import RequestFailedError
from tocsin.settings import Settings
from tocsin.wire.activity import Activity
from tocsin.wire.problems import RecordError

BATCH = ImportBatch(
    activities=[
        Activity("a", 86_400.0, 1.0, "spend", "1", "", "USD"),
        Activity("b", 86_400.0, 2.0, "spend", "2", "", "EUR"),
    ],
    lines=[3, 9],
)


def test_a_row_that_only_the_platform_refuses_is_a_reject_with_its_line_field_and_limit() -> None:
    errors = [RecordError(index=1, detail="`currency` is EUR", field="currency", limit="only USD")]
    (reject,) = refused(BATCH, errors)
    assert (reject.line, reject.reason) == (9, "`currency` is EUR: only USD")
    assert reject.raw["advertiser_id"] == "b"
    assert reject.raw["event_time"] == "1970-01-02T00:00:00Z"
    assert "campaign_id" not in reject.raw
    assert refused(BATCH, []) == []


def test_a_busy_moment_of_the_platform_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [
        RequestFailedError("busy", status=503),
        {"lanes": [{"lane": "p1", "counts": {"a": 1}}]},
    ]

    def fetch(_settings: object) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(local_client, "fetch", fetch)
    monkeypatch.setattr(local_client, "POLL_S", 0.0)
    settings = Settings.from_env({})
    assert local_client.lane_counts(settings, "p1") == {"a": 1}
    answers.append(RequestFailedError("broken", status=500))
    with pytest.raises(RequestFailedError, match="broken"):
        local_client.lane_counts(settings, "p1")
    monkeypatch.setattr(local_client, "PATIENCE_S", -1.0)
    answers.append(RequestFailedError("still busy", status=503))
    with pytest.raises(RequestFailedError, match="still busy"):
        local_client.lane_counts(settings, "p1")


def test_a_platform_that_could_not_take_a_row_is_no_fault_of_the_row() -> None:
    errors = [RecordError(index=0, detail="the lane is full", field="", limit="", code="overloaded")]
    with pytest.raises(RequestFailedError, match="line 3 was not accepted: the lane is full"):
        refused(BATCH, errors)
