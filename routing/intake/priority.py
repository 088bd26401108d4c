"""Which lane a notification rides: a table, read from the top; the first rule that matches wins.

P0 rules stand first and look at every word of `type` and `alert_type`, so a notification that names smoke or a
medical emergency is P0 whatever else it says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from tocsin.wire.lanes import LaneName


class PriorityRule(msgspec.Struct, frozen=True, kw_only=True):
    """Matches when any of its conditions does.

    `words` are looked for as whole words in `type` and `alert_type`, case and punctuation aside (`low_battery`,
    `low-battery` and `Low Battery` are the same two words).
    """

    name: str
    lane: LaneName
    types: frozenset[str] = frozenset()
    words: tuple[str, ...] = ()
    severities: frozenset[str] = frozenset()


DEFAULT_RULES: tuple[PriorityRule, ...] = (
    PriorityRule(
        name="emergency",
        lane=LaneName.P0,
        types=frozenset({"emergency"}),
        words=("smoke", "fire", "carbon monoxide", "security", "intrusion", "medical", "emergency"),
    ),
    PriorityRule(name="severe", lane=LaneName.P0, severities=frozenset({"extreme", "severe"})),
    PriorityRule(
        name="device",
        lane=LaneName.P1,
        types=frozenset({"device_alert"}),
        words=("low battery", "battery low", "offline", "leak"),
    ),
    PriorityRule(name="moderate", lane=LaneName.P1, severities=frozenset({"moderate"})),
    PriorityRule(name="default", lane=LaneName.P2, words=("",)),
)

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # lowBattery, FIREAlarm
_SEPARATORS = re.compile(r"[\W_]+")


class Classifier:
    """Classifies by a rule table, remembering the combinations it has seen.

    Args:
        rules: Read from the top; the last one must match everything.
    """

    def __init__(self, rules: Sequence[PriorityRule] = DEFAULT_RULES) -> None:
        if not rules or "" not in rules[-1].words:
            raise ValueError("the last priority rule must match everything: words=('',)")
        self._rules = tuple(rules)
        self._seen: dict[tuple[str, str, str], LaneName] = {}

    def lane(self, type_: str, alert_type: str, severity: str) -> LaneName:
        """The lane for these three; never fails."""
        key = (type_, alert_type, severity)
        lane = self._seen.get(key)
        if lane is None:
            lane = self.rule(*key).lane
            if len(self._seen) < MAX_REMEMBERED:
                self._seen[key] = lane
        return lane

    def rule(self, type_: str, alert_type: str, severity: str) -> PriorityRule:
        """The rule that decides, for explanations."""
        kind = type_.strip().casefold()
        text = f"{normalise(type_)} {normalise(alert_type)}"
        return next(rule for rule in self._rules if _matches(rule, kind, text, severity.strip().casefold()))


MAX_REMEMBERED = 4096


def normalise(text: str) -> str:
    """Words in lower case, each between single spaces: `lowBattery_v2` becomes ` low battery v2 `."""
    spaced = _CAMEL.sub(" ", text)
    return f" {_SEPARATORS.sub(' ', spaced).strip().casefold()} "


def _matches(rule: PriorityRule, kind: str, text: str, severity: str) -> bool:
    return (
        kind in rule.types
        or (severity != "" and severity in rule.severities)
        or any(word == "" or f" {word} " in text for word in rule.words)
    )
