from __future__ import annotations

import codecs
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from routing.intake.cap import MAX_FILE_BYTES, AlertFeed, parse_alerts, read_alerts
from routing.intake.text import clip
from tests.paths import DATA
from tocsin.errors import UnreadableFileError
from tocsin.wire.limits import MAX_EXPIRY_S

REAL_FEED = DATA / "nws_alerts" / "atom_feed_2018-08-15.xml"
NOW = datetime(2018, 8, 15, tzinfo=UTC).timestamp()

ENTRY = {
    "id": "https://alerts.example/1",
    "title": "High Wind Warning issued by NWS",
    "summary": "Winds 30 to 40 mph.",
    "event": "High Wind Warning",
    "expires": "2018-08-16T07:00:00-08:00",
    "status": "Actual",
    "msgType": "Alert",
    "urgency": "ExpectedDifference",
    "severity": "Severe",
    "certainty": "Likely",
    "areaDesc": "Eastern Beaufort Sea Coast",
    "geocode": "<valueName>FIPS6</valueName><value>002185 002186</value>"
    "<valueName>UGC</valueName><value>AKZ204</value>",
}


def entry(**changes: str) -> str:
    fields = {name: text for name, text in (ENTRY | changes).items() if text}
    atom = {"id", "title", "summary"}
    tags = {name: name if name in atom else f"cap:{name}" for name in fields}
    return "<entry>" + "".join(f"<{tags[n]}>{text}</{tags[n]}>" for n, text in fields.items()) + "</entry>"


def feed(*entries: str, version: str = "1.2") -> AlertFeed:
    head = (
        f"<feed xmlns='http://www.w3.org/2005/Atom' xmlns:cap='urn:oasis:names:tc:emergency:cap:{version}'>"
    )
    author = "<author><name>w-nws.webmaster@noaa.gov</name></author>"
    return parse_alerts((head + author + "".join(entries) + "</feed>").encode(), NOW)


def document(
    infos: str, *, status: str = "Actual", msg_type: str = "Alert", version: str = "1.2"
) -> AlertFeed:
    return parse_alerts(
        f"<?xml version='1.0' encoding='UTF-8'?><alert xmlns='urn:oasis:names:tc:emergency:cap:{version}'>"
        f"<identifier>KSTO1055887203</identifier><sender>KSTO@NWS.NOAA.GOV</sender><sent>2003-06-17T14:57:00-07:00</sent>"
        f"<status>{status}</status><msgType>{msg_type}</msgType><scope>Public</scope>{infos}</alert>".encode(),
        NOW,
    )


INFO = """<info><language>{language}</language><event>SEVERE THUNDERSTORM</event><urgency>Immediate</urgency>
<severity>Severe</severity><certainty>ObservationStore</certainty><expires>2003-06-17T16:00:00-07:00</expires>
<headline>{headline}</headline><description>At 254 PM
hail was seen.</description><area><areaDesc>Extreme North Central Tuolumne</areaDesc>
<geocode><valueName>SAME</valueName><value>006109</value></geocode></area>
<area><areaDesc>Alpine</areaDesc></area></info>"""


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_an_index_entry_becomes_a_notification(version: str) -> None:
    found = feed(entry(), version=version)
    assert found.rejects == []
    (alert,) = found.alerts
    assert (alert.type, alert.alert_type, alert.severity) == ("weather_alert", "", "Severe")
    assert alert.title == "High Wind Warning issued by NWS"
    assert alert.body == "Winds 30 to 40 mph."
    assert alert.recipient == "area:AKZ204"
    assert alert.source == "cap:noaa.gov"
    assert alert.dedup_key == "https://alerts.example/1"
    assert alert.expires_at == datetime(2018, 8, 16, 15, tzinfo=UTC)
    assert alert.data == {
        "event": "High Wind Warning",
        "urgency": "ExpectedDifference",
        "certainty": "Likely",
        "msgType": "Alert",
        "areaDesc": "Eastern Beaufort Sea Coast",
    }


def test_a_document_speaks_english_where_it_can() -> None:
    found = document(
        INFO.format(language="es-US", headline="Tormenta") + INFO.format(language="en-US", headline="Storm")
    )
    (alert,) = found.alerts
    assert alert.title == "Storm"
    assert alert.body == "At 254 PM\nhail was seen."
    assert alert.recipient == "area:006109"
    assert alert.source == "cap:nws.noaa.gov"
    assert alert.dedup_key == "KSTO1055887203"
    assert alert.data["areaDesc"] == "Extreme North Central Tuolumne; Alpine"


def test_a_document_without_english_gives_its_first_language() -> None:
    found = document(
        INFO.format(language="fr-CA", headline="Orage") + INFO.format(language="es", headline="T")
    )
    assert found.alerts[0].title == "Orage"


@pytest.mark.parametrize("status", ["Test", "Exercise", "Draft", "System"])
def test_only_actual_alerts_are_told(status: str) -> None:
    assert feed(entry(status=status)).rejects[0].reason == f"status is {status}"
    assert document("", status=status).rejects[0].reason == f"status is {status}"


@pytest.mark.parametrize("msg_type", ["Cancel", "Ack", "Error"])
def test_messages_that_warn_of_nothing_are_rejected(msg_type: str) -> None:
    assert document("", msg_type=msg_type).rejects[0].reason == f"msgType is {msg_type}"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": ""}, "id is missing"),
        ({"expires": "tomorrow"}, "expires is not a date with an offset: 'tomorrow'"),
        ({"expires": "2018-08-16T07:00:00"}, "expires is not a date with an offset: '2018-08-16T07:00:00'"),
        ({"severity": "Awful"}, "Invalid enum value 'Awful' - at `$.severity`"),
        ({"geocode": "", "areaDesc": ""}, "it names no area"),
        ({"title": "", "event": ""}, "title is missing"),
        ({"event": "", "severity": ""}, "it has no CAP event and no severity"),
    ],
)
def test_a_bad_entry_is_named_and_the_others_pass(changes: dict[str, str], reason: str) -> None:
    found = feed(entry(), entry(**changes), entry())
    assert len(found.alerts) == 2
    (reject,) = found.rejects
    assert (reject.position, reject.reason) == (1, reason)
    assert reject.id == (ENTRY | changes)["id"]


def test_an_alert_without_an_end_or_a_severity_is_kept() -> None:
    (alert,) = feed(entry(expires="", severity="")).alerts
    assert alert.expires_at is None
    assert alert.severity == "Unknown"


def test_a_document_without_info_is_rejected() -> None:
    assert document("").rejects[0].reason == "it has no CAP event and no severity"


def test_long_texts_are_cut_after_a_word_and_say_so() -> None:
    (alert,) = feed(entry(title="gust " * 80, summary="hail " * 1000, areaDesc="coast " * 300)).alerts
    assert alert.title.endswith("gust…")
    assert len(alert.title) <= 256
    assert len(alert.body) <= 4096
    assert len(alert.data["areaDesc"]) <= 1024
    assert alert.data["truncated"] == "title,body,areaDesc"


def test_a_long_id_is_hashed() -> None:
    (alert,) = feed(entry(id="x" * 300)).alerts
    assert alert.dedup_key is not None
    assert alert.dedup_key.startswith("sha256:")
    assert len(alert.dedup_key) == 7 + 64


def test_an_area_without_a_code_is_known_by_its_name() -> None:
    (alert,) = feed(entry(geocode="", areaDesc="North &amp; South Köln; Ost")).alerts
    assert alert.recipient == "area:north-south-köln-ost"
    assert len(feed(entry(geocode="", areaDesc="a" * 900)).alerts[0].recipient) == 256


@pytest.mark.parametrize(
    ("sender", "source"),
    [
        ("https://alerts.example.org:8/x", "cap:alerts.example.org"),
        ("2.49.0.1.840.0", "cap"),
        ("me", "cap"),
        ("http://[", "cap"),
    ],
)
def test_the_source_is_the_senders_domain(sender: str, source: str) -> None:
    assert feed(entry(sender=sender)).alerts[0].source == source


def test_a_quiet_feed_is_empty() -> None:
    assert feed() == AlertFeed([], [], [])
    quiet = "<entry><id>x</id><title>There are no active watches, warnings or advisories</title></entry>"
    assert feed(quiet) == AlertFeed([], [], [])
    assert feed(quiet, entry()).rejects[0].position == 0  # not the only one, so it is one that says nothing


@pytest.mark.parametrize("end", ["2029-02-04T12:04:36+00:00", "9999-12-31T23:59:59+00:00"])
def test_an_end_too_far_ahead_is_the_furthest_that_is_accepted(end: str) -> None:
    (alert,) = feed(entry(expires=end)).alerts
    assert alert.expires_at == datetime.fromtimestamp(NOW + MAX_EXPIRY_S, UTC)


def test_control_characters_are_what_they_were_meant_to_be_or_nothing() -> None:
    (alert,) = feed(entry(title="don\x92t drink", summary="Boil it\x85 then\x81 cool it")).alerts
    assert (alert.title, alert.body) == ("don\u2019t drink", "Boil it\u2026 then cool it")


def test_positions_are_those_of_the_document() -> None:
    found = feed(entry(), entry(id=""), entry())
    assert (found.positions, [reject.position for reject in found.rejects]) == ([0, 2], [1])


BARE = (
    "<alert{space}><identifier>{id}</identifier><sender>a@b.example</sender><status>Actual</status>"
    "<msgType>Alert</msgType><info><event>Storm</event><severity>Severe</severity><headline>Flood</headline>"
    "<area><areaDesc>Coast</areaDesc><geocode><valueName>SAME</valueName><value>006109</value></geocode></area>"
    "</info></alert>"
)
WHOLE = BARE.format(space=" xmlns='urn:oasis:names:tc:emergency:cap:1.2'", id="1")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (BARE.format(space="", id="1"), ["1"]),
        (
            f"<n:alerts xmlns:n='x'>{WHOLE}{BARE.format(space='', id='2')}</n:alerts>",
            ["1", "2"],
        ),
        (
            f"<feed xmlns='http://www.w3.org/2005/Atom'><entry><id>e</id><content>{WHOLE}</content></entry></feed>",
            ["1"],
        ),
        ("<alerts/>", []),
    ],
)
def test_alerts_are_read_wrapped_embedded_and_without_a_namespace(text: str, ids: list[str]) -> None:
    found = parse_alerts(text.encode(), NOW)
    assert [alert.dedup_key for alert in found.alerts] == ids
    assert found.rejects == []
    assert {(alert.title, alert.recipient) for alert in found.alerts} <= {("Flood", "area:006109")}


def test_clip_cuts_a_text_without_spaces_hard() -> None:
    assert clip("x" * 20, 10) == "x" * 9 + "…"
    assert clip("short", 10) == "short"


BOMB = b"<!DOCTYPE a [<!ENTITY b 'boom'>]><feed xmlns='http://www.w3.org/2005/Atom'>&b;</feed>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{}", "is not well-formed XML but JSON"),
        (b"<feed>", "is not well-formed XML"),
        (b"<?xml version='1.0' encoding='x-none'?><a/>", "is not well-formed XML"),
        (codecs.BOM_UTF16_LE + b"\xff", "is not well-formed XML"),
        (b"<html/>", "is neither an Atom feed nor a CAP alert"),
        (BOMB, "entities, which are refused"),
    ],
)
def test_what_cannot_be_read_says_why_and_what_next(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "feed.xml"
    file.write_bytes(content)
    with pytest.raises(UnreadableFileError, match=message) as caught:
        read_alerts(file, NOW)
    assert "feed.xml" in caught.value.message
    assert caught.value.hint


def test_missing_folders_and_huge_files_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.xml", tmp_path):
        with pytest.raises(UnreadableFileError, match="cannot read"):
            read_alerts(path, NOW)
    huge = tmp_path / "huge.xml"
    with huge.open("wb") as stream:
        stream.write(b"<feed>")
        stream.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(UnreadableFileError, match="larger than 64 MiB"):
        read_alerts(huge, NOW)


@pytest.mark.skipif(not REAL_FEED.exists(), reason="the National Weather Service sample feed is not here")
def test_a_real_feed_comes_out_whole() -> None:
    found = read_alerts(REAL_FEED, NOW)
    assert found.rejects == []
    severities = Counter(alert.severity for alert in found.alerts)
    assert severities == {"Severe": 39, "Moderate": 49, "Minor": 56, "Unknown": 19}
    assert len({alert.dedup_key for alert in found.alerts}) == 163
    assert all(alert.expires_at and alert.recipient.startswith("area:") for alert in found.alerts)
