"""Which lane a notification rides, and why. Read from the top; the first that applies decides.

    the operator's rules (TOCSIN_RULES)            what they say
    CAP severity Extreme, Severe                   p0, whatever the words are
    words of danger in `type`, `alert_type`        p0
    a drill, an all-clear, a safety device in need p1
    CAP severity Moderate, words of a device       p1
    words of danger in `title`                     p0, where a device or an alarm speaks and its other words say nothing
    anything else                                  p2

Then the sender's own `priority`: it raises, and lowers only where an operator's rule lets it. How words are read:
`routing/intake/meaning.py`; the words: `routing/intake/vocabulary.toml`; for people: docs/classification.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from routing.intake.meaning import Meaning, Reading, meaning_of, meaning_of_title
from routing.intake.rules import OperatorRule, first_match
from routing.intake.vocabulary import Vocabulary, default_vocabulary
from routing.intake.words import clauses
from tocsin.wire.classification import Classification, RequestedPriority
from tocsin.wire.lanes import LaneName

MAX_REMEMBERED = 4096
"""Combinations, and titles, that are remembered; a full memory is emptied and fills with what is in use."""
URGENT_SEVERITIES = frozenset({"extreme", "severe"})
LANE_OF = {
    Reading.DANGER: LaneName.P0,
    Reading.DRILL: LaneName.P1,
    Reading.ALL_CLEAR: LaneName.P1,
    Reading.UPKEEP: LaneName.P1,
    Reading.ADVISORY: LaneName.P1,
    Reading.DEVICE: LaneName.P1,
}


class _Decision(msgspec.Struct, frozen=True):
    lane: LaneName
    rule: str
    meaning: Meaning = Meaning()
    operator: bool = False
    may_lower: bool = False
    asks_title: bool = False  # the title may still raise it


class Classifier:
    """Classifies by the operator's rules and the vocabulary, remembering the combinations it has seen.

    Args:
        rules: The operator's, read from the top, before the defaults.
        vocabulary: The words; by default those that come with the platform.
    """

    def __init__(self, rules: Sequence[OperatorRule] = (), vocabulary: Vocabulary | None = None) -> None:
        self._rules = tuple(rules)
        self._vocabulary = vocabulary or default_vocabulary()
        self._lanes: dict[tuple[str, str, str, str], LaneName] = {}  # whose title does not count
        self._seen: dict[tuple[str, str, str, str], _Decision] = {}  # whose title does
        self._titles: dict[str, Meaning] = {}

    @property
    def rules(self) -> tuple[OperatorRule, ...]:
        """The operator's rules in force."""
        return self._rules

    def use(self, rules: Sequence[OperatorRule]) -> None:
        """Put other rules of the operator's in force, from the next notification on."""
        self._rules = tuple(rules)
        self._lanes, self._seen = {}, {}

    def lane(
        self,
        type_: str,
        alert_type: str,
        severity: str,
        title: str = "",
        priority: RequestedPriority = "",
    ) -> LaneName:
        """The lane for these; never fails."""
        key = (type_, alert_type, severity, priority)
        return self._lanes.get(key) or self._lane(key, title)

    def _lane(self, key: tuple[str, str, str, str], title: str) -> LaneName:
        """The lane of a combination that is new, or whose title counts."""
        decision = self._seen.get(key)
        if decision is None:
            decision = self._remember(key)
        return (self._with_title(decision, title) if title and decision.asks_title else decision).lane

    def explain(
        self,
        type_: str,
        alert_type: str,
        severity: str,
        *,
        title: str = "",
        priority: RequestedPriority = "",
    ) -> Classification:
        """The lane, and what decided."""
        decision = self._decide(type_, alert_type, severity, priority)
        if decision.asks_title and title:
            decision = self._with_title(decision, title)
        meaning = decision.meaning
        return Classification(
            lane=decision.lane,
            rule=decision.rule,
            hazard=meaning.hazard,
            word=meaning.word,
            field=meaning.field,
            reading=meaning.reading.value,
            because=meaning.because,
            drill=meaning.reading is Reading.DRILL,
            commercial=meaning.reading is Reading.COMMERCIAL,
            operator_rule=decision.operator,
            may_lower=decision.may_lower,
        )

    def _remember(self, key: tuple[str, str, str, str]) -> _Decision:
        if len(self._lanes) + len(self._seen) >= MAX_REMEMBERED:
            self._lanes, self._seen = {}, {}
        decision = self._decide(*key)
        if decision.asks_title:
            self._seen[key] = decision
        else:
            self._lanes[key] = decision.lane
        return decision

    def _decide(self, type_: str, alert_type: str, severity: str, priority: str) -> _Decision:
        rule = first_match(self._rules, type_, alert_type, severity)
        decision = self._by_words(type_, alert_type, severity)
        if rule is not None:
            lane = LaneName(rule.lane) if rule.lane is not None else decision.lane
            name = rule.name if rule.lane is not None else decision.rule
            decision = msgspec.structs.replace(
                decision,
                lane=lane,
                rule=name,
                operator=rule.lane is not None,
                may_lower=rule.may_lower,
                asks_title=decision.asks_title and rule.lane is None,
            )
        return _with_priority(decision, priority)

    def _by_words(self, type_: str, alert_type: str, severity: str) -> _Decision:
        meaning = meaning_of(self._vocabulary, type_, alert_type)
        given = severity.strip().casefold()
        if meaning.reading is Reading.DANGER:
            return _Decision(LaneName.P0, "danger", meaning)
        if given in URGENT_SEVERITIES:
            return _Decision(LaneName.P0, "severe", meaning)
        if meaning.reading in LANE_OF and meaning.hazard:
            return _Decision(LANE_OF[meaning.reading], meaning.reading.value, meaning)
        speaks = self._alarm_speaks(type_)
        # Who gave a severity has judged already: a flood warning of a weather service may well be Moderate.
        asks = speaks and meaning.reading is Reading.UNKNOWN and given in {"", "unknown"}
        if given == "moderate":
            return _Decision(LaneName.P1, "moderate", meaning, asks_title=asks)
        if speaks and self._is_device_alert(type_):
            return _Decision(LaneName.P1, "device_alert", meaning, asks_title=asks)
        return _Decision(LaneName.P2, "default", meaning, asks_title=asks)

    def _with_title(self, decision: _Decision, title: str) -> _Decision:
        meaning = self._titles.get(title)
        if meaning is None:
            if len(self._titles) >= MAX_REMEMBERED:
                self._titles = {}
            meaning = meaning_of_title(self._vocabulary, title)
            self._titles[title] = meaning
        lane = LANE_OF.get(meaning.reading, LaneName.P2) if meaning.hazard else LaneName.P2
        if lane >= decision.lane and lane is not LaneName.P0:
            return decision
        return msgspec.structs.replace(decision, lane=lane, rule="title", meaning=meaning, asks_title=False)

    def _alarm_speaks(self, type_: str) -> bool:
        turns = self._vocabulary.turns["alarm_type"].by_first
        return any(
            pattern in turns
            for word in _words(self._vocabulary, type_)
            for pattern in self._vocabulary.patterns_of(word)
        )

    def _is_device_alert(self, type_: str) -> bool:
        return _words(self._vocabulary, type_)[:2] == ["device", "alert"]


def _words(vocabulary: Vocabulary, text: str) -> list[str]:
    return [word for clause in clauses(text) for raw in clause for word in vocabulary.words(raw)]


def _with_priority(decision: _Decision, priority: str) -> _Decision:
    """What a sender's own priority makes of a decision: higher always, lower only by leave."""
    if not priority or priority == decision.lane:
        return decision
    wanted = LaneName(priority)
    if wanted < decision.lane:
        title = decision.asks_title and wanted is not LaneName.P0
        return msgspec.structs.replace(decision, lane=wanted, rule="requested", asks_title=title)
    if decision.may_lower:
        return msgspec.structs.replace(decision, lane=wanted, rule="requested", asks_title=False)
    return decision
