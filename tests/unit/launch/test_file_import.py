from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from features.importing.importer import ImportBatch
from launch import local_client
from launch.file_import import refused, send_notifications
from tocsin.errors import RequestFailedError
from tocsin.settings import Settings
from tocsin.wire.activity import Activity
from tocsin.wire.notifications import NotificationRequest
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


class _Platform:
    """Answers as the client does: receipts for what is accepted, errors by index for the rest."""

    def __init__(self, refuse: set[str], code: str = "invalid-record") -> None:
        self.refuse = refuse
        self.code = code
        self.sent: list[str] = []

    def send_many(self, notifications: list[NotificationRequest]) -> Any:
        errors, receipts = [], []
        for index, one in enumerate(notifications):
            if one.title in self.refuse:
                error = RecordError(
                    index=index, detail="`expires_at` is too long ago", limit="> 1970", code=self.code
                )
                errors.append(error)
            else:
                self.sent.append(one.title)
                receipts.append(SimpleNamespace(duplicate=False, lane="p1", id=one.title))
        return SimpleNamespace(errors=errors, receipts=receipts)


def _many(count: int) -> list[NotificationRequest]:
    return [
        NotificationRequest(type="weather_alert", title=f"{at}", recipient="area:1") for at in range(count)
    ]


def test_what_is_refused_of_many_holds_up_none_of_the_others() -> None:
    platform, said = _Platform({"0", "1500"}), list[int]()
    result = send_notifications(platform, _many(2_500), said.append)  # type: ignore[arg-type]  # as much as is used
    assert (result["accepted"], len(platform.sent), said[-1]) == (2_498, 2_498, 2_498)
    assert [error.index for error in result["refused"]] == [0, 1_500]


def test_a_platform_that_cannot_take_one_of_many_is_no_fault_of_it() -> None:
    with pytest.raises(RequestFailedError, match="record 3 was not accepted") as caught:
        send_notifications(_Platform({"3"}, "overloaded"), _many(5), lambda _: None)  # type: ignore[arg-type]
    assert caught.value.hint


def test_a_row_of_a_folder_that_the_platform_refuses_names_its_file() -> None:
    batch = msgspec.structs.replace(BATCH, files=["a.parquet", "b.parquet"])
    errors = [RecordError(index=1, detail="`currency` is EUR", field="currency", limit="only USD")]
    assert refused(batch, errors)[0].place == "line 9 of b.parquet"
