from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.intake.priority import MAX_REMEMBERED, Classifier
from routing.intake.rules import OperatorRule
from routing.intake.words import normalise
from tocsin.wire.classification import RequestedPriority
from tocsin.wire.lanes import LaneName

SEVERITIES = st.sampled_from(["", "Extreme", "Severe", "Moderate", "Minor", "Unknown"])
P0_WORDS = (
    "smoke", "fire", "carbon monoxide", "security", "intrusion", "medical", "emergency", "panic button", "sos",
    "fall detected", "gas leak", "CO alarm", "cardiac arrest", "flood", "Rauchmelder", "incendio", "火災",
)  # fmt: skip


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier()


SHARED = Classifier()


def lane(type_: str, alert_type: str = "", severity: str = "") -> LaneName:
    return SHARED.lane(type_, alert_type, severity)


@pytest.mark.parametrize(
    "kind",
    [
        "emergency", "Emergency", " EMERGENCY ", "smoke", "smoke_detected", "smoke-detected", "smokeDetected",
        "SmokeAlarm", "SMOKE", "FIREAlarm", "fire", "house.fire", "home/fire/kitchen", "fire: kitchen",
        "carbon monoxide",
        "carbon_monoxide", "carbon-monoxide", "carbonMonoxide", "CarbonMonoxideAlarm", "Carbon   Monoxide", "security",
        "security_breach", "intrusion", "intrusionDetected", "medical", "medical-emergency", "medicalAlert2",
        "panic_button", "sos", "fall_detected", "gas_leak", "CO_ALARM", "cardiac_arrest", "flood", "911", "火事",
    ],
)  # fmt: skip
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


@pytest.mark.parametrize("kind", ["low_battery", "battery-low", "Offline", "anything", "fire_sale"])
def test_a_device_alert_is_p1_whatever_it_is_about(kind: str) -> None:
    assert lane("device_alert", kind) is LaneName.P1


@pytest.mark.parametrize(
    "kind",
    [
        "reminder", "firewall", "firewall_update", "fired", "misfire", "smokeless", "paramedical", "cybersecurity",
        "carbon",
        "carbon footprint", "leakage", "offliner", "battery", "fire_sale", "smoke-free", "fire TV",
        "security update", "medical bill reminder", "flood of offers", "",
    ],
)  # fmt: skip
def test_words_that_only_look_like_danger_are_none(kind: str) -> None:
    assert lane("note", kind) is LaneName.P2
    assert lane(kind) is LaneName.P2


def test_a_phrase_does_not_span_type_and_alert_type() -> None:
    assert lane("gas", "leak") is LaneName.P0  # `gas` alone in a field is one
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


def test_a_severity_of_danger_stands_whatever_the_words_are() -> None:
    assert lane("device_alert", "low_battery", "Severe") is LaneName.P0
    assert lane("fire_sale", "", "Extreme") is LaneName.P0
    assert (
        lane("fire drill", "", "Severe") is LaneName.P0
    )  # two signals that contradict each other: in doubt p0
    assert lane("fire drill", "", "Moderate") is LaneName.P1


@given(
    word=st.sampled_from(P0_WORDS),
    before=st.sampled_from(["", "zone 3 ", "kitchen_", "alert/", "device ", "x."]),
    after=st.sampled_from(["", " now", "_v2", "-v2", "!", " 7", ", battery low"]),
    other=st.sampled_from(["device_alert", "reminder", ""]) | st.text(alphabet="0123456789 _-", max_size=20),
    severity=SEVERITIES,
    in_type=st.booleans(),
)
def test_a_word_of_danger_never_loses_to_a_lower_rule(
    word: str, before: str, after: str, other: str, severity: str, in_type: bool
) -> None:
    if ("melder" in word or "button" in word) and "battery" in after:
        return  # a device's battery
    kind = f"{before}{word}{after}"
    assert lane(*((kind, other) if in_type else (other, kind)), severity) is LaneName.P0


@given(st.text(), st.text(), st.text())
def test_every_notification_has_a_lane(type_: str, alert_type: str, severity: str) -> None:
    assert lane(type_, alert_type, severity) in {LaneName.P0, LaneName.P1, LaneName.P2}


@given(st.text())
def test_normalised_text_is_words_between_single_spaces(text: str) -> None:
    words = normalise(text)
    assert words == f" {' '.join(words.split(' ')).strip()} " or not words.strip()
    assert "  " not in words.strip()


def test_what_is_remembered_is_bounded_and_what_is_in_use_comes_back() -> None:
    classifier = Classifier()
    for i in range(MAX_REMEMBERED + 10):
        assert classifier.lane(f"item {i}", "", "") is LaneName.P2
    assert classifier.lane("fire", "", "") is LaneName.P0
    assert len(classifier._lanes) == 11
    for i in range(MAX_REMEMBERED + 10):
        classifier.lane("device_alert", "xyz", "", title=f"t {i}")
    assert 0 < len(classifier._titles) <= MAX_REMEMBERED
    assert len(classifier._lanes) + len(classifier._seen) <= MAX_REMEMBERED


# --------------------------------------------------------------------------- what turns a word


@pytest.mark.parametrize(
    ("type_", "alert_type", "expected", "reading"),
    [
        ("note", "fire drill", "p1", "drill"),
        ("fire", "drill", "p1", "drill"),
        ("smoke_detector", "self_test", "p1", "drill"),
        ("note", "RWT", "p2", "drill"),
        ("note", "TOR", "p0", "danger"),
        ("note", "Tor offen", "p2", "unknown"),
        ("note", "fire, this is not a drill", "p0", "danger"),
        ("note", "chest pain during exercise", "p0", "danger"),
        ("note", "smoke detector low battery", "p1", "upkeep"),
        ("smoke_detector", "low_battery", "p1", "upkeep"),
        ("smoke_alarm", "battery_low", "p1", "upkeep"),
        ("smoke", "low_battery", "p0", "danger"),
        ("note", "smoke detected, battery low", "p0", "danger"),
        ("smoke_detected", "low_battery", "p0", "danger"),
        ("note", "ventilator failure", "p0", "danger"),
        ("note", "smoke cleared", "p1", "all_clear"),
        ("smoke", "clear", "p1", "all_clear"),
        ("fire", "all_clear", "p1", "all_clear"),
        ("note", "no smoke", "p1", "all_clear"),
        ("note", "sin humo", "p1", "all_clear"),
        ("note", "smoke not cleared", "p0", "danger"),
        ("note", "smoke cleared, CO detected", "p0", "danger"),
        ("note", "not breathing", "p0", "danger"),
        ("note", "clear the building fire", "p0", "danger"),
        ("note", "fire breaking out", "p0", "danger"),
        ("note", "smoke detector sale", "p2", "commercial"),
        ("note", "fire at discount store", "p0", "danger"),
        ("marketing", "fire", "p2", "commercial"),
        ("marketing", "fire detected", "p0", "danger"),
        ("note", "flood advisory", "p1", "advisory"),
        ("note", "emergancy", "p0", "danger"),
        ("note", "evaluation", "p2", "unknown"),
    ],
)
def test_what_stands_beside_a_danger_turns_it(
    classifier: Classifier, type_: str, alert_type: str, expected: str, reading: str
) -> None:
    found = classifier.explain(type_, alert_type, "")
    assert (found.lane, found.reading) == (expected, reading)
    assert classifier.lane(type_, alert_type, "") == expected


def test_an_explanation_names_rule_hazard_word_and_field(classifier: Classifier) -> None:
    found = classifier.explain("device_alert", "kitchen_smoke_detected", "")
    assert (found.lane, found.rule, found.hazard, found.word, found.field) == (
        "p0", "danger", "fire", "smoke", "alert_type",
    )  # fmt: skip
    drill = classifier.explain("Feueralarmübung", "", "")
    assert (drill.drill, drill.commercial, drill.because) == (True, False, "feueralarmubung")
    sale = classifier.explain("note", "fire_sale", "")
    assert (sale.drill, sale.commercial, sale.word) == (False, True, "fire sale")
    assert [classifier.explain("x", "", one).rule for one in ("Severe", "Moderate", "")] == [
        "severe", "moderate", "default",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "word", [*P0_WORDS, "explosion", "drowning", "intruder", "stroke", "collapse", "gas alarm"]
)
def test_what_stands_around_a_danger_and_means_nothing_turns_it_into_nothing(
    classifier: Classifier, word: str
) -> None:
    before = (
        "",
        "zone 3 ",
        "alert/",
        "active ",
        "the ",
        "sensor ",
        "report ",
        "level 2 ",
        "school ",
        "log ",
        "main ",
    )
    after = (
        "",
        "_v2",
        " alert",
        " warning",
        " reported",
        " at home",
        " level 3",
        " sensor",
        " of water",
        " station",
        " lift",
    )
    turned = [
        text
        for text in (f"{first}{word}{last}" for first in before for last in after)
        if classifier.lane("note", text, "") is not LaneName.P0
    ]
    assert turned == []


# --------------------------------------------------------------------------- titles


@pytest.mark.parametrize(
    ("type_", "alert_type", "title", "expected"),
    [
        ("device_alert", "", "Smoke in the kitchen", "p0"),
        ("device_alert", "code_17", "Gas leak in the cellar", "p0"),
        ("sensor", "", "Water leak", "p1"),
        ("device_alert", "", "Fire sale ends today", "p1"),
        ("device_alert", "", "Fire drill at ten", "p1"),
        ("device_alert", "low_battery", "Smoke detector in the hall", "p1"),
        ("reminder", "", "Smoke in the kitchen", "p2"),
        ("marketing_alert", "", "Security update", "p2"),
        ("weather_alert", "", "Smoke over the valley", "p0"),
    ],
)
def test_a_title_counts_where_a_device_speaks_and_says_nothing_else(
    classifier: Classifier, type_: str, alert_type: str, title: str, expected: str
) -> None:
    assert classifier.lane(type_, alert_type, "", title=title) == expected
    assert classifier.explain(type_, alert_type, "", title=title).lane == expected


# --------------------------------------------------------------------------- the operator and the sender


@pytest.mark.parametrize(
    ("alert_type", "priority", "expected"),
    [
        ("news", "p0", "p0"),
        ("news", "p1", "p1"),
        ("news", "p2", "p2"),
        ("news", "", "p2"),
        ("smoke", "p2", "p0"),
        ("low_battery", "p2", "p1"),
        ("low_battery", "p0", "p0"),
    ],
)
def test_a_sender_raises_and_does_not_lower(
    classifier: Classifier, alert_type: str, priority: RequestedPriority, expected: str
) -> None:
    assert classifier.lane("note", alert_type, "", priority=priority) == expected
    assert classifier.explain("note", alert_type, "", priority=priority).lane == expected


def test_a_sender_lowers_where_a_rule_lets_it() -> None:
    classifier = Classifier((OperatorRule(name="lab", types=("lab_*",), may_lower=True),))
    assert classifier.lane("lab_7", "smoke", "") is LaneName.P0
    assert classifier.lane("lab_7", "smoke", "", priority="p2") is LaneName.P2
    assert classifier.lane("home", "smoke", "", priority="p2") is LaneName.P0
    found = classifier.explain("lab_7", "smoke", "", priority="p1")
    assert (found.lane, found.rule, found.may_lower) == ("p1", "requested", True)


def test_the_operators_rules_come_before_the_defaults() -> None:
    rules = (
        OperatorRule(name="boiler", lane="p0", words=("boiler pressure",)),
        OperatorRule(name="lab", lane="p2", types=("LAB*",)),
    )
    classifier = Classifier(rules)
    assert classifier.lane("note", "boilerPressure high", "") is LaneName.P0
    assert classifier.lane("lab", "smoke", "Severe") is LaneName.P2
    assert classifier.lane("home", "smoke", "") is LaneName.P0
    found = classifier.explain("lab", "smoke", "")
    assert (found.rule, found.operator_rule, found.hazard) == ("lab", True, "fire")


def test_other_rules_hold_from_the_next_notification_on() -> None:
    classifier = Classifier()
    assert classifier.lane("lab", "news", "") is LaneName.P2
    classifier.use((OperatorRule(name="lab", lane="p1", types=("lab",)),))
    assert classifier.lane("lab", "news", "") is LaneName.P1
    classifier.use(())
    assert classifier.lane("lab", "news", "") is LaneName.P2
