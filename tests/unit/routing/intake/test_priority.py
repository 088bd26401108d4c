from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.intake.priority import DEFAULT_RULES, MAX_REMEMBERED, Classifier, PriorityRule, normalise
from tocsin.wire.lanes import LaneName

SEVERITIES = st.sampled_from(["", "Extreme", "Severe", "Moderate", "Minor", "Unknown"])
P0_WORDS = ("smoke", "fire", "carbon monoxide", "security", "intrusion", "medical", "emergency")


@pytest.fixture
def classifier() -> Classifier:
    return Classifier()


def lane(type_: str, alert_type: str = "", severity: str = "") -> LaneName:
    return Classifier().lane(type_, alert_type, severity)


@pytest.mark.parametrize(
    "kind",
    [
        "emergency",
        "Emergency",
        " EMERGENCY ",
        "smoke",
        "smoke_detected",
        "smoke-detected",
        "smokeDetected",
        "SmokeAlarm",
        "SMOKE",
        "FIREAlarm",
        "fire",
        "house.fire",
        "home/fire/kitchen",
        "fire: kitchen",
        "carbon monoxide",
        "carbon_monoxide",
        "carbon-monoxide",
        "carbonMonoxide",
        "CarbonMonoxideAlarm",
        "Carbon   Monoxide",
        "security",
        "security_breach",
        "intrusion",
        "intrusionDetected",
        "medical",
        "medical-emergency",
        "medicalAlert2",
    ],
)
def test_danger_to_life_is_p0_however_it_is_written_and_wherever(kind: str) -> None:
    assert lane(kind) is LaneName.P0
    assert lane("device_alert", kind) is LaneName.P0
    assert lane("reminder", kind, "Minor") is LaneName.P0


@pytest.mark.parametrize(
    "kind",
    [
        "device_alert",
        "Device_Alert",
        "low_battery",
        "lowBattery",
        "battery low",
        "offline",
        "leak",
        "waterLeak",
    ],
)
def test_a_device_in_need_is_p1(kind: str) -> None:
    assert lane(kind) is LaneName.P1


@pytest.mark.parametrize("kind", ["low_battery", "battery-low", "Offline", "gasLeak", "anything"])
def test_a_device_alert_is_p1_whatever_it_is_about(kind: str) -> None:
    assert lane("device_alert", kind) is LaneName.P1


@pytest.mark.parametrize(
    "kind",
    [
        "reminder",
        "firewall",
        "firewall_update",
        "fired",
        "misfire",
        "smokeless",
        "paramedical",
        "cybersecurity",
        "carbon",
        "monoxide",
        "carbon footprint monoxide",
        "leakage",
        "offliner",
        "battery",
        "battery is low",
        "emergencyless",
        "",
        "火事",
    ],
)
def test_only_whole_words_count(kind: str) -> None:
    assert lane("note", kind) is LaneName.P2
    assert lane(kind) is LaneName.P2


def test_a_phrase_does_not_span_type_and_alert_type() -> None:
    assert lane("carbon", "monoxide") is LaneName.P2
    assert lane("low", "battery") is LaneName.P2


@pytest.mark.parametrize(
    ("severity", "expected"),
    [
        ("Extreme", LaneName.P0),
        ("Severe", LaneName.P0),
        ("severe", LaneName.P0),
        ("Moderate", LaneName.P1),
        ("Minor", LaneName.P2),
        ("Unknown", LaneName.P2),
        ("", LaneName.P2),
    ],
)
def test_severity_decides_where_no_word_does(severity: str, expected: LaneName) -> None:
    assert lane("weather", "wind", severity) is expected


def test_a_severe_device_alert_is_p0() -> None:
    assert lane("device_alert", "low_battery", "Severe") is LaneName.P0


@given(
    word=st.sampled_from(P0_WORDS),
    before=st.sampled_from(["", "offline ", "low_battery-", "leak/", "device ", "x."]),
    after=st.sampled_from(["", " offline", "_leak", "-v2", "!", "Battery"]),
    other=st.sampled_from(["device_alert", "reminder", "low_battery", ""]) | st.text(max_size=20),
    severity=SEVERITIES,
    in_type=st.booleans(),
)
def test_a_word_of_danger_never_loses_to_a_lower_rule(
    word: str, before: str, after: str, other: str, severity: str, in_type: bool
) -> None:
    kind = f"{before}{word}{after}"
    assert lane(*((kind, other) if in_type else (other, kind)), severity) is LaneName.P0


@given(st.text(), st.text(), st.text())
def test_every_notification_has_a_lane(type_: str, alert_type: str, severity: str) -> None:
    assert lane(type_, alert_type, severity) in {LaneName.P0, LaneName.P1, LaneName.P2}


@given(st.text())
def test_normalised_text_is_words_between_single_spaces(text: str) -> None:
    words = normalise(text)
    assert words == f" {' '.join(words.split(' ')).strip()} "
    assert "  " not in words.strip()


def test_the_rule_that_decides_can_be_named(classifier: Classifier) -> None:
    named = [
        classifier.rule("x", "smoke", "").name,
        classifier.rule("x", "", "Severe").name,
        classifier.rule("x", "leak", "").name,
        classifier.rule("x", "", "Moderate").name,
        classifier.rule("x", "", "").name,
    ]
    assert named == ["emergency", "severe", "device", "moderate", "default"]


def test_what_is_remembered_is_bounded_and_right(classifier: Classifier) -> None:
    for i in range(MAX_REMEMBERED + 10):
        assert classifier.lane(f"note {i}", "", "") is LaneName.P2
    assert classifier.lane("fire", "", "") is LaneName.P0
    assert len(classifier._seen) == MAX_REMEMBERED


def test_a_table_without_a_last_resort_is_refused() -> None:
    for rules in ((), DEFAULT_RULES[:-1]):
        with pytest.raises(ValueError, match="must match everything"):
            Classifier(rules)


def test_another_table_can_be_used() -> None:
    rules = (PriorityRule(name="all", lane=LaneName.P1, words=("",)),)
    assert Classifier(rules).lane("fire", "", "") is LaneName.P1
