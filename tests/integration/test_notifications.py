from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx2
import msgspec
import pytest

from launch.local_client import await_lane, lane_counts
from tests.support import Webhook, eventually
from tocsin import Client
from tocsin.errors import InvalidRecordError, NotFoundError
from tocsin.settings import Settings
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import NotificationRequest, NotificationState

pytestmark = pytest.mark.integration

FAR_EXPIRY = b'{"type": "a", "title": "b", "recipient": "r", "expires_at": "2999-01-01T00:00:00Z"}'
FTP_TARGET = b'{"type": "a", "title": "b", "recipient": "r", "webhook_url": "ftp://x.example"}'


def reminder(number: int = 0, **fields: object) -> dict[str, object]:
    return {"type": "reminder", "title": f"Reminder {number}", "recipient": f"r{number}", **fields}


def post(
    settings: Settings, content: bytes, kind: str = "application/json", query: str = ""
) -> httpx2.Response:
    return httpx2.post(
        f"{settings.base_url}/v1/notifications{query}", content=content, headers={"content-type": kind}
    )


@pytest.mark.parametrize(
    ("fields", "lane"),
    [
        ({"type": "emergency", "title": "Fire", "recipient": "a"}, "p0"),
        ({"type": "sensor", "alert_type": "smoke", "title": "Smoke", "recipient": "a"}, "p0"),
        ({"type": "device_alert", "alert_type": "low_battery", "title": "Battery", "recipient": "a"}, "p1"),
        ({"type": "weather", "title": "Rain", "recipient": "a"}, "p2"),
    ],
)
def test_a_notification_is_accepted_on_its_lane_and_delivered(
    client: Client, fields: dict[str, str], lane: str
) -> None:
    receipt = client.send(**fields)
    assert receipt.lane == lane
    assert receipt.durability == "fsynced"
    status = client.wait(receipt.id, timeout_s=20)
    assert status.state is NotificationState.DELIVERED
    assert [event.event for event in status.timeline] == ["accepted", "delivered"]


def test_the_bare_path_and_the_path_with_a_slash_are_the_same(settings: Settings) -> None:
    for path in ("/v1/notifications", "/v1/notifications/"):
        answer = httpx2.post(settings.base_url + path, json=reminder())
        assert answer.status_code == 202, answer.text


def test_ndjson_and_arrays_give_a_receipt_each(settings: Settings) -> None:
    lines = b"\n".join(msgspec.json.encode(reminder(i)) for i in range(3))
    answer = post(settings, lines, "application/x-ndjson")
    assert answer.status_code == 202
    assert [r["index"] for r in answer.json()["receipts"]] == [0, 1, 2]
    many = [reminder(i) for i in range(1500)]
    answer = post(settings, msgspec.json.encode(many))
    ids = [r["id"] for r in answer.json()["receipts"]]
    assert len(set(ids)) == 1500


def test_in_a_batch_good_records_are_accepted_and_bad_ones_reported_by_index(settings: Settings) -> None:
    batch = [
        reminder(0, source="mixed"),  # not that of the floods above: it may be over its share for a while
        {"type": "reminder", "title": "x"},
        reminder(2, title="y" * 300),
        reminder(3, surprise=1),
    ]
    answer = post(settings, msgspec.json.encode(batch))
    assert answer.status_code == 202
    body = answer.json()
    assert (body["accepted"], body["rejected"]) == (1, 3)
    assert [(e["index"], e["field"]) for e in body["errors"]] == [
        (1, "recipient"),
        (2, "title"),
        (3, "surprise"),
    ]
    assert body["errors"][1]["limit"] == "<= 256"


def test_an_atomic_batch_is_all_or_nothing(settings: Settings) -> None:
    before = lane_counts(settings, "p2").get("accepted", 0)
    answer = post(settings, msgspec.json.encode([reminder(0), {"type": "x"}]), query="?atomic=true")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["index"] == 1
    assert lane_counts(settings, "p2").get("accepted", 0) == before


@pytest.mark.parametrize(
    ("content", "kind", "status", "field"),
    [
        (b"{", "application/json", 422, ""),
        (b"", "application/json", 422, "body"),
        (b"[]", "application/json", 422, "body"),
        (b'{"type": "a", "title": "b", "recipient": 5}', "application/json", 422, "recipient"),
        (b'{"type": "a", "title": "\\u0007", "recipient": "r"}', "application/json", 422, "title"),
        (b'{"type": "a", "title": "b", "recipient": "r", "channels": ["fax"]}', "application/json", 422, "channels[0]"),
        (FAR_EXPIRY, "application/json", 422, "expires_at"),
        (FTP_TARGET, "application/json", 422, "webhook_url"),
        (b"x" * (9 * 1024 * 1024), "application/json", 413, "body"),
        (b"[" + b",".join([b"{}"] * 10_001) + b"]", "application/json", 422, "body"),
        (b"a=1", "application/x-www-form-urlencoded", 415, "content-type"),
    ],
)  # fmt: skip
def test_bad_input_is_a_problem_that_names_the_field(
    settings: Settings, content: bytes, kind: str, status: int, field: str
) -> None:
    answer = post(settings, content, kind)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json().get("field", "") == field
    assert answer.json()["status"] == status


def test_unknown_ids_and_lanes_are_not_found_or_invalid(settings: Settings, client: Client) -> None:
    for unknown in ("p0-0-1-0-0", "p9-0-1-0-0", "p0-250-1-0-0"):
        with pytest.raises(NotFoundError):
            client.status(unknown)
    with pytest.raises(InvalidRecordError):
        client.status("nonsense")
    assert httpx2.get(f"{settings.base_url}/v1/dead-letters?lane=p9").status_code == 422
    assert httpx2.get(f"{settings.base_url}/v1/nothing").status_code == 404
    assert httpx2.get(f"{settings.base_url}/v1/nothing").headers["content-type"] == "application/problem+json"
    assert httpx2.put(f"{settings.base_url}/v1/notifications").status_code == 405


def test_a_dedup_key_returns_the_first_receipt(client: Client) -> None:
    request = NotificationRequest(type="reminder", title="Once", recipient="d", dedup_key="only-once")
    first, second = client.send(request), client.send(request)
    assert (first.duplicate, second.duplicate) == (False, True)
    assert first.id == second.id


def test_an_idempotency_key_makes_a_repeated_send_safe(settings: Settings) -> None:
    body = msgspec.json.encode(
        [reminder(i) for i in range(5)] + [{"type": "emergency", "title": "!", "recipient": "z"}]
    )
    headers = {"idempotency-key": "send-1", "content-type": "application/json"}
    url = f"{settings.base_url}/v1/notifications"
    first = httpx2.post(url, content=body, headers=headers).json()
    second = httpx2.post(url, content=body, headers=headers).json()
    assert [r["id"] for r in first["receipts"]] == [r["id"] for r in second["receipts"]]
    assert all(r["duplicate"] for r in second["receipts"])
    other = httpx2.post(url, content=msgspec.json.encode([reminder(9)]), headers=headers)
    assert other.status_code == 409


def test_a_webhook_gets_the_notification_under_its_id(client: Client, webhook: Webhook) -> None:
    receipt = client.send(
        type="emergency",
        title="Intrusion",
        recipient="w",
        channels=["webhook", "log"],
        webhook_url=webhook.url + "/ok/one",
        data={"door": "back"},
    )
    assert client.wait(receipt.id, timeout_s=20).state is NotificationState.DELIVERED
    (seen,) = webhook.requests["/ok/one"]
    headers = {name.lower(): value for name, value in seen["headers"].items()}
    assert headers["webhook-id"] == receipt.id == seen["body"]["id"]
    assert seen["body"]["data"] == {"door": "back"}


def test_a_flaky_webhook_is_tried_again_and_only_the_failed_channel(client: Client, webhook: Webhook) -> None:
    receipt = client.send(
        type="emergency",
        title="Flaky",
        recipient="w",
        channels=["log", "webhook"],
        webhook_url=webhook.url + "/flaky/2",
    )
    status = client.wait(receipt.id, timeout_s=20)
    assert status.state is NotificationState.DELIVERED
    assert [(a.channel, a.ok) for a in status.attempts] == [
        ("log", True), ("webhook", False), ("webhook", False), ("webhook", True),
    ]  # fmt: skip


def test_what_cannot_be_delivered_is_dead_lettered_and_can_be_replayed(
    client: Client, webhook: Webhook, settings: Settings
) -> None:
    receipt = client.send(
        type="emergency",
        title="Refused",
        recipient="w",
        channels=["webhook"],
        webhook_url=webhook.url + "/fail/410",
    )
    assert client.wait(receipt.id, timeout_s=20).state is NotificationState.DEAD
    letter = client.dead_letter(receipt.id)
    assert (letter.reason, letter.attempt_count, letter.lane) == ("refused", 1, LaneName.P0)
    assert "410" in letter.error
    assert letter.notification.title == "Refused"
    assert receipt.id in {item.id for item in client.dead_letters(lane="p0").items}
    assert client.replay(receipt.id).replayed
    eventually(lambda: len(webhook.requests["/fail/410"]) == 2, what="the replayed attempt")
    again = eventually(lambda: client.dead_letter(receipt.id), what="dead again")
    assert again.failed_at > letter.failed_at
    with pytest.raises(NotFoundError):
        client.replay("p0-0-1-0-0")


def test_a_stale_p2_expires_and_a_stale_p0_is_told_late(client: Client) -> None:
    past = datetime.now(UTC) - timedelta(hours=1)
    p2 = client.send(type="reminder", title="Old", recipient="e", expires_at=past)
    p0 = client.send(type="emergency", title="Old", recipient="e", expires_at=past)
    assert client.wait(p2.id, timeout_s=20).reason == "stale"
    assert client.wait(p0.id, timeout_s=20).state is NotificationState.DELIVERED


def test_nothing_is_unaccounted_for(settings: Settings, client: Client) -> None:
    client.send_many(
        [NotificationRequest(type="reminder", title="n", recipient=f"n{i}") for i in range(3000)]
    )
    await_lane(settings, "p0", "p1", "p2")
    for lane in ("p0", "p1", "p2"):
        counts = lane_counts(settings, lane)
        finished = sum(
            counts.get(state, 0) for state in ("delivered", "suppressed", "expired", "dead", "purged")
        )
        assert counts.get("accepted", 0) == finished, (lane, counts)
