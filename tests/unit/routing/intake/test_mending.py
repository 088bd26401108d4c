from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.intake.intake import check_notification
from routing.intake.mending import NotificationMender
from routing.intake.priority import Classifier
from routing.intake.text import clean
from tests.fakes import START
from tocsin.errors import InvalidRecordError
from tocsin.wire.decoding import Decoded, RecordDecoder
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import NotificationRequest

CLASSIFIER = Classifier()
DECODER = RecordDecoder(NotificationRequest, check_notification, NotificationMender(CLASSIFIER))
URGENT: dict[str, Any] = {"type": "emergency", "title": "Smoke", "recipient": "r"}
LATER: dict[str, Any] = {"type": "reminder", "title": "Tea", "recipient": "r"}
BELL = "\x1b[31mFire\x1b[0m\x07"


def decode(body: bytes | str, *, ndjson: bool = False) -> Decoded[NotificationRequest]:
    return DECODER.decode(body.encode() if isinstance(body, str) else body, ndjson=ndjson, now=START)


def raw(record: dict[str, Any]) -> str:
    """JSON with its control characters as they are, which is none."""
    return json.dumps(record).replace("\\u001b", "\x1b").replace("\\u0007", "\x07").replace("\\n", "\n")


def changes(found: Decoded[NotificationRequest], index: int = 0) -> list[tuple[str, str]]:
    return [(one.field, one.change) for one in found.changes.get(index, ())]


@pytest.mark.parametrize(
    ("given", "field", "change", "kept"),
    [
        ({"title": "x" * 300}, "title", "cut", "x" * 255 + "…"),
        ({"title": BELL}, "title", "cleaned", "Fire"),
        ({"title": ""}, "title", "replaced", "emergency"),
        ({"title": "\x07", "alert_type": "smoke"}, "title", "replaced", "smoke"),
        ({"body": "y" * 5000}, "body", "cut", "y" * 4095 + "…"),
        ({"body": "one\x0btwo\x00"}, "body", "cleaned", "one two"),
        ({"alert_type": "smoke" + "\x7f"}, "alert_type", "cleaned", "smoke"),
        ({"severity": "extreme"}, "severity", "replaced", "Extreme"),
        ({"severity": "CRITICAL"}, "severity", "replaced", "Unknown"),
    ],
)
def test_a_p0_is_mended_and_says_what_was_changed(
    given: dict[str, Any], field: str, change: str, kept: str
) -> None:
    body = json.dumps(URGENT | given)
    for text, ndjson in ((body, False), (f"[{body}]", False), (body, True)):
        found = decode(text, ndjson=ndjson)
        ((index, record),) = found.records
        assert (index, found.errors) == (0, [])
        assert getattr(record, field) == kept
        assert (field, change) in changes(found)


def test_what_is_said_of_a_change_does_not_repeat_what_was_sent() -> None:
    found = decode(json.dumps(URGENT | {"title": "secret " * 60, "data": {"key": "v" * 2000}}))
    said = " ".join(one.detail for one in found.changes[0])
    assert "cut to 256" in said
    assert "cut to 1,024" in said
    assert "secret" not in said


@pytest.mark.parametrize("record", [URGENT | {"title": BELL}, URGENT | {"body": "one\ntwo"}])
def test_raw_control_characters_do_not_stop_a_p0(record: dict[str, Any]) -> None:
    for text, ndjson in ((raw(record), False), (f"[{raw(record)}]", False)):
        ((_, taken),) = decode(text, ndjson=ndjson).records
        assert (taken.title, taken.body) in {("Fire", ""), ("Smoke", "one\ntwo")}


@pytest.mark.parametrize("written", [b"\xff", b"\xc3", b"\\ud800"])
def test_broken_text_becomes_the_replacement_character(written: bytes) -> None:
    found = decode(json.dumps(URGENT | {"title": "a@b"}).encode().replace(b"@", written))
    ((_, record),) = found.records
    assert record.title == "a\ufffdb"
    assert changes(found) == [("title", "cleaned")]


def test_of_a_batch_the_p0s_are_mended_and_the_others_stay_refused() -> None:
    batch = [LATER, LATER | {"title": BELL}, URGENT | {"title": BELL}, URGENT]
    found = decode(json.dumps(batch))
    assert [index for index, _ in found.records] == [0, 2, 3]
    assert [(error.index, error.field) for error in found.errors] == [(1, "title")]
    assert changes(found, 2) == [("title", "cleaned")]
    assert changes(found, 3) == []


def test_of_a_batch_that_is_no_json_the_p0s_are_taken() -> None:
    found = decode(f"[{raw(LATER | {'title': BELL})}, {json.dumps(LATER)}, {raw(URGENT | {'title': BELL})}]")
    assert [(index, record.title) for index, record in found.records] == [(2, "Fire")]
    assert [(error.index, error.field) for error in found.errors] == [(0, "body"), (1, "body")]
    with pytest.raises(InvalidRecordError, match="not valid JSON"):
        decode(f"[{raw(LATER | {'title': BELL})}]")


@pytest.mark.parametrize(
    "given",
    [
        {"recipient": "r\x07"},
        {"recipient": "r" * 300},
        {"recipient": "\ud800"},
        {"source": "s" * 65},
        {"source": "tocsin"},
        {"dedup_key": "\x07"},
        {"webhook_url": "https://example.org/\x07"},
        {"channels": ["pigeon"]},
        {"expires_at": "tomorrow"},
        {"data": {"\x07": "v"}},
        {"data": {"k": 5}},
        {"type": "emergency\x07"},
        {"colour": "red"},
        {"title": 5},
    ],
)
def test_who_is_told_and_where_is_never_guessed(given: dict[str, Any]) -> None:
    found = decode(json.dumps(URGENT | {"title": BELL} | given))
    assert (found.records, len(found.errors)) == ([], 1)


@pytest.mark.parametrize("given", [{"title": "Note\x07"}, {"title": "x" * 300}, {"severity": "CRITICAL"}])
def test_p1_and_p2_stay_refused(given: dict[str, Any]) -> None:
    for record in (LATER, LATER | {"type": "device_alert"}):
        found = decode(json.dumps(record | given))
        assert (found.records, [error.field for error in found.errors]) == ([], list(given))


def test_priority_is_judged_after_cleaning() -> None:
    found = decode(json.dumps(LATER | {"alert_type": "smo\x00ke", "title": BELL}))
    ((_, record),) = found.records
    assert CLASSIFIER.lane(record.type, record.alert_type, record.severity) is LaneName.P0


def test_a_name_given_twice_is_not_mended() -> None:
    body = json.dumps(URGENT | {"title": BELL})[:-1] + ', "title": "other"}'
    assert decode(body).records == []


@given(st.text(st.characters(exclude_categories=[])))
def test_a_cleaned_text_can_be_written_and_holds_no_control_character(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode()
    assert not {chr(code) for code in (*range(9), 11, 12, *range(14, 32), *range(127, 160))} & set(cleaned)
    assert clean(cleaned) == cleaned


@given(
    st.dictionaries(
        st.sampled_from([*URGENT, "body", "alert_type", "data", "severity"]), st.text() | st.none()
    )
)
def test_whatever_is_sent_is_taken_or_refused(given: dict[str, Any]) -> None:
    found = decode(json.dumps(URGENT | given))
    assert len(found.records) + len(found.errors) == 1


@pytest.mark.parametrize(("asked", "read"), [("AAA", ""), (" P1", "p1"), ("high\x07", "")])
def test_a_priority_that_is_none_does_not_refuse_a_p0(asked: str, read: str) -> None:
    found = decode(json.dumps(URGENT | {"priority": asked}))
    assert [(record.priority, record.type) for _, record in found.records] == [(read, URGENT["type"])]
    assert found.errors == []
    later = decode(json.dumps(LATER | {"priority": asked}))
    assert [error.field for error in later.errors] == ["priority"]
