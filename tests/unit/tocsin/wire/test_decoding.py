from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.intake.intake import check_notification
from tests.fakes import START
from tocsin.errors import InvalidRecordError
from tocsin.wire.activity import ActivityRequest
from tocsin.wire.dead_letters import ReplayRequest
from tocsin.wire.decoding import Decoded, RecordDecoder
from tocsin.wire.limits import MAX_BATCH_RECORDS, MAX_BODY_BYTES
from tocsin.wire.notifications import ChannelName, NotificationRequest
from tocsin.wire.problems import RecordError

DECODER = RecordDecoder(NotificationRequest, check_notification)
ACTIVITY = RecordDecoder(ActivityRequest, lambda _record, _now: None)
GOOD: dict[str, Any] = {"type": "reminder", "title": "t", "recipient": "r"}
EVENT: dict[str, Any] = {"advertiser_id": "a", "event_time": "2024-05-01T00:00:00Z"}


def decode(body: bytes | str, *, ndjson: bool = False) -> Decoded[NotificationRequest]:
    return DECODER.decode(body.encode() if isinstance(body, str) else body, ndjson=ndjson, now=START)


def one(**changes: Any) -> str:
    return json.dumps(GOOD | changes)


def only_error(body: bytes | str) -> RecordError:
    """The one complaint about a body of one record; the same as an object, an array and a line."""
    raw = body.encode() if isinstance(body, str) else body
    (error,) = decode(raw).errors
    assert decode(raw, ndjson=True).errors == [error]
    assert decode(b"[" + raw + b"]").errors == [error]
    return error


def refused(body: bytes | str, *, ndjson: bool = False) -> InvalidRecordError:
    with pytest.raises(InvalidRecordError) as caught:
        decode(body, ndjson=ndjson)
    assert caught.value.field == "body"
    return caught.value


# --------------------------------------------------------------------------- what is good


def test_an_object_an_array_and_lines_are_the_same_records() -> None:
    two = [GOOD | {"title": "a"}, GOOD | {"title": "b"}]
    array = decode(json.dumps(two))
    lines = decode("\r\n\n".join(json.dumps(record) for record in two) + "\n\n", ndjson=True)
    assert array == lines
    assert [(index, record.title) for index, record in array.records] == [(0, "a"), (1, "b")]
    assert array.total == 2
    assert decode(json.dumps(two[0])).records == array.records[:1]


def test_tab_and_newline_are_text() -> None:
    assert decode(one(body="a\tb\nc\rd")).errors == []


@pytest.mark.parametrize(
    "text", ["\u00e9", "\u4e16\u754c", "\U0001f525", "\u00a0", "\\u0041", "\\bold", 'a"b']
)
def test_text_of_any_language_arrives_as_it_was_sent(text: str) -> None:
    for ascii_only in (True, False):  # escaped or raw
        body = json.dumps([GOOD | {"body": text}], ensure_ascii=ascii_only)
        assert [record.body for _, record in decode(body).records] == [text]


def test_the_most_records_allowed_are_accepted() -> None:
    assert len(decode("[" + ",".join([one()] * MAX_BATCH_RECORDS) + "]").records) == MAX_BATCH_RECORDS


# --------------------------------------------------------------------------- one bad record

CHANNELS = f"one of {', '.join(sorted(get_args(ChannelName)))}"
FIELDS = f"one of {', '.join(NotificationRequest.__struct_fields__)}"
TIME = "RFC 3339 with an offset, e.g. 2026-01-31T00:00:00Z"


@pytest.mark.parametrize(
    ("changes", "field", "limit"),
    [
        ({"title": 5}, "title", ""),
        ({"title": None}, "title", ""),
        ({"title": ""}, "title", ">= 1"),
        ({"title": "x" * 257}, "title", "<= 256"),
        ({"type": "x" * 65}, "type", "<= 64"),
        ({"recipient": ""}, "recipient", ">= 1"),
        ({"alert_type": "x" * 129}, "alert_type", "<= 128"),
        ({"body": "x" * 4097}, "body", "<= 4096"),
        ({"source": ""}, "source", ">= 1"),
        ({"severity": "Catastrophic"}, "severity", "one of Extreme, Minor, Moderate, Severe, Unknown"),
        ({"channels": []}, "channels", ">= 1"),
        ({"channels": ["log"] * 9}, "channels", "<= 8"),
        ({"channels": ["log", "pigeon"]}, "channels[1]", CHANNELS),
        ({"channels": "log"}, "channels", ""),
        ({"webhook_url": "ftp://example.org"}, "webhook_url", "http:// or https://"),
        ({"webhook_url": "http://"}, "webhook_url", ">= 8"),
        ({"webhook_url": "http://exa mple.org"}, "webhook_url", "http:// or https://"),
        ({"expires_at": "2024-05-01T00:00:00"}, "expires_at", TIME),
        ({"expires_at": "tomorrow"}, "expires_at", TIME),
        ({"expires_at": 1700000000}, "expires_at", ""),
        ({"expires_at": "2030-01-01T00:00:00Z"}, "expires_at", "<= 366 days from now"),
        ({"expires_at": "1970-01-01T00:00:00Z"}, "expires_at", "> 1970-01-01T00:00:00Z"),
        ({"expires_at": "0001-01-01T00:00:00+14:00"}, "expires_at", "> 1970-01-01T00:00:00Z"),
        ({"dedup_key": ""}, "dedup_key", ">= 1"),
        ({"data": {"k": 5}}, "data[...]", ""),
        ({"data": {"k": "x" * 1025}}, "data[...]", "<= 1024"),
        ({"data": {"": "v"}}, "data", ">= 1"),
        ({"data": {str(i): "v" for i in range(33)}}, "data", "<= 32"),
        ({"data": [1]}, "data", ""),
        ({"urgency": "p0"}, "urgency", FIELDS),
        ({"priority": "P0"}, "priority", "one of p0, p1, p2"),
    ],
)
def test_a_fault_names_its_field_and_its_limit(changes: dict[str, Any], field: str, limit: str) -> None:
    error = only_error(one(**changes))
    assert (error.index, error.field, error.limit) == (0, field, limit)
    assert error.detail
    assert " - at " not in error.detail


@pytest.mark.parametrize("field", ["type", "title", "recipient"])
def test_a_missing_field_is_named(field: str) -> None:
    error = only_error(json.dumps({name: value for name, value in GOOD.items() if name != field}))
    assert error.field == field
    assert "missing" in error.detail


@pytest.mark.parametrize("body", ['"text"', "5", "null", "true", "[]"])
def test_what_is_no_object_is_no_record(body: str) -> None:
    (error,) = decode(f"[{body}]").errors
    assert "Expected `object`" in error.detail


@pytest.mark.parametrize("character", ["\x00", "\x08", "\x0c", "\x1f", "\x7f", "\x85", "\x9f"])
def test_a_control_character_is_refused_however_it_is_written(character: str) -> None:
    escaped = f"\\u{ord(character):04x}"
    for written in (escaped, escaped.upper().replace("U", "u")):
        error = only_error(one(body="@").replace("@", written))
        assert (error.field, error.limit) == ("body", "no control characters but tab and newline")
    if character >= "\x7f":  # below, raw ones are not even JSON
        assert only_error(one(body="@").replace("@", character)).field == "body"
    else:
        raw = one(body="@").replace("@", character)
        assert "not valid JSON" in decode(raw).errors[0].detail
        refused(f"[{raw}]")


@pytest.mark.parametrize("written", ["\\b", "\\f", "\\u0000"])
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"title": "@"}, "title"),
        ({"recipient": "@"}, "recipient"),
        ({"dedup_key": "@"}, "dedup_key"),
        ({"data": {"k": "@"}}, "data"),
        ({"data": {"@": "v"}}, "data"),
    ],
)
def test_no_text_of_a_record_holds_a_control_character(
    changes: dict[str, Any], field: str, written: str
) -> None:
    assert only_error(one(**changes).replace("@", written)).field == field


def test_not_a_number_is_not_json() -> None:
    for literal in ("NaN", "Infinity", "-Infinity"):
        body = json.dumps(EVENT | {"amount": 0})[:-2] + literal + "}"
        (error,) = ACTIVITY.decode(body.encode(), ndjson=True, now=START).errors
        assert error.detail.startswith("not valid JSON")


@pytest.mark.parametrize("literal", ["1e999", "-1e999", "-1", "1.1e12", '"5"', "null", "true"])
def test_an_amount_is_a_finite_number_in_its_bounds(literal: str) -> None:
    body = json.dumps(EVENT | {"amount": 0})[:-2] + literal + "}"
    for text in (body, f"[{body}]"):
        (error,) = ACTIVITY.decode(text.encode(), ndjson=False, now=START).errors
        assert error.field == "amount"


@pytest.mark.parametrize("written", ["\\ud800", "\\udc00", "\\ud800x", "\\ud800\\u0041"])
def test_half_a_surrogate_pair_is_refused(written: str) -> None:
    body = one(body="@").replace("@", written)
    assert len(decode(body).errors) == 1
    assert len(decode(body, ndjson=True).errors) == 1


@pytest.mark.parametrize("raw", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"])
def test_bytes_that_are_no_utf8_are_refused(raw: bytes) -> None:
    error = only_error(one(body="@").encode().replace(b"@", raw))
    assert error.detail.startswith("not valid JSON")


@pytest.mark.parametrize(
    "body", ["{", '{"type" "x"}', "{'type': 'x'}", "<xml/>", one() + one(), "\ufeff" + one(), "tru"]
)
def test_broken_json_is_a_fault_of_the_record(body: str) -> None:
    (error,) = decode(body).errors
    assert error.detail.startswith("not valid JSON")
    assert error.index == 0


# --------------------------------------------------------------------------- the body as a whole


@pytest.mark.parametrize("body", ["", " ", "\n\r\n\t", "[]", "[ ]"])
def test_nothing_is_refused(body: str) -> None:
    refused(body)
    if not body.startswith("["):
        refused(body, ndjson=True)


@pytest.mark.parametrize("body", ["[", "[{]", "[{},]", f"[{one()}", f"[{one()}] x", f"[{one()} {one()}]"])
def test_a_broken_array_is_refused_as_a_whole(body: str) -> None:
    assert "not valid JSON" in refused(body).message


@pytest.mark.parametrize("opening", ["[", '[{"data":[', '{"a":'])
def test_json_nested_without_end_is_refused(opening: str) -> None:
    depth = 100_000
    if opening == "[":
        assert "not valid JSON" in refused("[" * depth).message
        assert "not valid JSON" in refused("[" * depth + "]" * depth).message
    else:
        for ndjson in (False, True):
            try:
                assert decode(opening * depth, ndjson=ndjson).records == []
            except InvalidRecordError as error:
                assert error.field == "body"  # noqa: PT017 (either way of refusing is right)


def test_too_many_records_are_refused() -> None:
    many = [one()] * (MAX_BATCH_RECORDS + 1)
    for error in (refused("[" + ",".join(many) + "]"), refused("\n".join(many), ndjson=True)):
        assert error.limit == f"<= {MAX_BATCH_RECORDS} records"
        assert "10,001" in error.message


def test_a_body_over_the_limit_is_refused_and_one_at_it_is_not() -> None:
    error = refused(b" " * (MAX_BODY_BYTES + 1))
    assert error.limit == f"<= {MAX_BODY_BYTES} bytes"
    body = one().encode()
    assert decode(body + b" " * (MAX_BODY_BYTES - len(body))).errors == []


def test_a_broken_line_leaves_the_other_lines_good() -> None:
    found = decode(f"{one()}\n\n{{broken\n{one(title='last')}", ndjson=True)
    assert [(index, record.title) for index, record in found.records] == [(0, "t"), (2, "last")]
    assert [error.index for error in found.errors] == [1]
    assert found.total == 3


def test_a_mixed_batch_reports_each_fault_at_its_index() -> None:
    batch = [
        GOOD,
        GOOD | {"title": ""},
        GOOD,
        {"type": "x"},
        GOOD | {"colour": "red"},
        GOOD | {"body": "\x01"},
    ]
    found = decode(json.dumps(batch))
    assert [index for index, _ in found.records] == [0, 2]
    assert [(error.index, error.field, error.limit) for error in found.errors] == [
        (1, "title", ">= 1"),
        (3, "title", "required"),
        (4, "colour", FIELDS),
        (5, "body", "no control characters but tab and newline"),
    ]
    assert found.total == 6


# --------------------------------------------------------------------------- both ways to decode

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=[]), max_size=12) | st.sampled_from(
    ["", "x" * 300, "\x00", "a\x7fb", "\x85", "\\u0001", "\\b", "smoke"]
)
RECORD = st.fixed_dictionaries(
    {"type": TEXT, "title": TEXT, "recipient": TEXT},
    optional={
        "body": TEXT | st.integers(),
        "severity": st.sampled_from(["Severe", "bad"]),
        "data": st.dictionaries(TEXT, TEXT, max_size=1),
        "expires_at": st.sampled_from(["2024-12-01T00:00:00Z", "2031-12-01T00:00:00Z", "now"]),
        "other": st.none(),
    },
)


@settings(max_examples=40)
@given(st.lists(RECORD, min_size=1, max_size=3), st.booleans())
def test_one_pass_and_record_by_record_agree(batch: list[dict[str, Any]], ascii_only: bool) -> None:
    array = json.dumps(batch, ensure_ascii=ascii_only)
    lines = "\n".join(json.dumps(record, ensure_ascii=ascii_only) for record in batch)
    assert decode(array) == decode(lines, ndjson=True)


@given(st.binary(max_size=64), st.booleans())
def test_any_bytes_are_decoded_or_refused(body: bytes, ndjson: bool) -> None:
    try:
        found = decode(body, ndjson=ndjson)
    except InvalidRecordError:
        return
    assert len(found.records) + len(found.errors) == found.total > 0


# --------------------------------------------------------------------------- names given twice


@pytest.mark.parametrize(
    ("more", "name"),
    [
        (', "title": "t"', "title"),
        (', "t\\u0069tle": "t"', "title"),
        (', "data": {"k": "1", "k": "1"}', "k"),
    ],
)
def test_a_name_given_twice_is_refused_and_named(more: str, name: str) -> None:
    error = only_error(one()[:-1] + more + "}")
    assert (error.field, error.limit) == (name, "each name once in an object")


def test_the_other_records_of_an_array_stay_good() -> None:
    found = decode(f'[{one()}, {one()[:-1]}, "title": "u"}}, {one()}]')
    assert [index for index, _ in found.records] == [0, 2]
    assert [(error.index, error.field) for error in found.errors] == [(1, "title")]


def test_a_name_in_a_text_is_no_name() -> None:
    assert decode(one(body='"title": "a", "title": "b"', data={"title": "x"})).errors == []


def test_a_whole_number_may_be_written_with_a_point() -> None:
    decoder = RecordDecoder(ReplayRequest, lambda _record, _now: None)
    record, _ = decoder.decode_one(b'{"limit": 10.0, "rate": 2.5}', now=START)
    assert (record.limit, record.rate) == (10, 2.5)
    for wrong in (b'{"limit": 10.5}', b'{"limit": 1e9}', b'{"limit": 0.0}', b'{"limit": "10"}'):
        with pytest.raises(InvalidRecordError):
            decoder.decode_one(wrong, now=START)


def test_one_object_is_no_array() -> None:
    for body in (b"[]", b' [{"limit": 1}]'):
        with pytest.raises(InvalidRecordError, match="array"):
            RecordDecoder(ReplayRequest, lambda _record, _now: None).decode_one(body, now=START)
