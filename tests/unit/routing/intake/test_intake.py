from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from routing.intake.intake import Intake, check_notification, to_notification, to_request
from routing.intake.priority import Classifier
from tests.fakes import START
from tocsin.errors import InvalidRecordError
from tocsin.streams.records import partition_of
from tocsin.wire.lanes import LaneName
from tocsin.wire.limits import MAX_EXPIRY_S
from tocsin.wire.notifications import Envelope, NotificationRequest

FULL = NotificationRequest(
    type="device_alert",
    title="t",
    recipient="home-7",
    alert_type="low_battery",
    severity="Minor",
    body="b",
    source="s",
    channels=("log", "webhook"),
    webhook_url="https://example.org/hook",
    expires_at=datetime(2024, 12, 1, tzinfo=UTC),
    dedup_key="k",
    data={"a": "b"},
)
PARTITIONS = {LaneName.P0: 4, LaneName.P1: 5, LaneName.P2: 6}


def note(**changes: object) -> NotificationRequest:
    return msgspec.convert(
        {"type": "reminder", "title": "t", "recipient": "r"} | changes, NotificationRequest
    )


def test_a_request_travels_and_comes_back_as_it_was_sent() -> None:
    for request in (FULL, note()):
        assert to_request(to_notification(request, now=START, traceparent="")) == request


def test_a_notification_is_stamped() -> None:
    sent = to_notification(FULL, now=START, traceparent="00-trace-span-01")
    assert (sent.accepted_at, sent.traceparent) == (START, "00-trace-span-01")
    assert sent.expires_at == datetime(2024, 12, 1, tzinfo=UTC).timestamp()


def test_a_channel_named_twice_is_used_once() -> None:
    sent = to_notification(note(channels=("webhook", "log", "webhook")), now=START, traceparent="")
    assert sent.channels == ("webhook", "log")


def test_each_record_goes_to_its_lane_and_the_partition_of_its_recipient() -> None:
    requests = [note(type="fire", recipient="a"), note(recipient="b"), note(type="offline", recipient="c")]
    admitted = Intake(Classifier(), PARTITIONS).admit(list(zip((3, 5, 8), requests, strict=True)), now=START)
    assert [(one.index, one.lane) for one in admitted] == [
        (3, LaneName.P0),
        (5, LaneName.P2),
        (8, LaneName.P1),
    ]
    assert [one.record.partition for one in admitted] == [
        partition_of("a", 4),
        partition_of("b", 6),
        partition_of("c", 5),
    ]


def test_a_record_is_an_envelope_on_its_first_pass() -> None:
    (admitted,) = Intake(Classifier(), PARTITIONS).admit([(0, FULL)], now=START, traceparent="tp")
    envelope = msgspec.msgpack.decode(admitted.record.body, type=Envelope)
    assert envelope == Envelope(to_notification(FULL, now=START, traceparent="tp"))
    assert (envelope.id, envelope.attempts) == ("", ())
    assert admitted.record.dedup_key == "k"


@pytest.mark.parametrize("offset_s", [MAX_EXPIRY_S + 1, MAX_EXPIRY_S * 20])
def test_an_expiry_too_far_ahead_is_refused(offset_s: float) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        check_notification(note(expires_at=datetime.fromtimestamp(START + offset_s, UTC)), START)
    assert (caught.value.field, caught.value.limit) == ("expires_at", "<= 366 days from now")


@pytest.mark.parametrize(
    "moment", ["1970-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "1969-12-31T23:00:00Z"]
)
def test_an_expiry_that_cannot_travel_is_refused(moment: str) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        check_notification(note(expires_at=moment), START)
    assert caught.value.field == "expires_at"


def test_an_expiry_in_the_past_or_a_year_ahead_is_taken() -> None:
    check_notification(note(expires_at="1970-01-01T00:00:01Z"), START)
    check_notification(note(expires_at=datetime.fromtimestamp(START + MAX_EXPIRY_S, UTC)), START)


@pytest.mark.parametrize("url", ["https://example.org/a?b=c", "http://10.0.0.1:8080"])
def test_http_urls_are_taken(url: str) -> None:
    check_notification(note(webhook_url=url), START)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org",
        "file:///etc/passwd",
        "HTTP://x.org/",
        "//example.org",
        "http://a b",
        "http://é.org",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        check_notification(note(webhook_url=url), START)
    assert caught.value.field == "webhook_url"


def test_title_and_priority_reach_the_rules_and_a_replay_asks_for_the_same() -> None:
    requests = [
        NotificationRequest(type="device_alert", title="Smoke in the kitchen", recipient="r"),
        NotificationRequest(type="note", title="t", recipient="r", priority="p1"),
        NotificationRequest(type="note", title="t", recipient="r"),
    ]
    admitted = Intake(Classifier(), PARTITIONS).admit(list(enumerate(requests)), now=START)
    assert [item.lane for item in admitted] == ["p0", "p1", "p2"]
    sent = to_notification(requests[1], now=START, traceparent="")
    assert to_request(sent) == requests[1]
