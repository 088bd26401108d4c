from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from routing.intake.rules import (
    CHECK_EVERY_S,
    MAX_FILE_BYTES,
    OperatorRule,
    RuleFile,
    parse_rules,
    read_rules,
)
from tests.fakes import ManualClock
from tocsin.errors import ConfigurationError

GOOD = """
[[rule]]
name = "boiler"
lane = "p0"
words = ["boiler pressure"]
"""
OTHER = """
[[rule]]
name = "boiler"
lane = "p1"
words = ["boiler pressure"]
[[rule]]
name = "lab"
types = ["lab_*"]
may_lower = true
"""


def rule(**fields: object) -> str:
    lines = [
        f"{name} = {str(value).lower() if isinstance(value, bool) else value!r}"
        for name, value in fields.items()
    ]
    return "[[rule]]\n" + "\n".join(lines).replace("(", "[").replace(")", "]") + "\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[[rule]", "is not TOML"),
        ("x = 1", "unknown field `x`"),
        (rule(lane="p0", types=["a"]), "rule 1: Object missing required field `name`"),
        (rule(name="a b", lane="p0", types=["a"]), "rule 'a b': `name`: "),
        (rule(name="a", lane="p9", types=["a"]), "rule 'a': `lane`: Invalid enum value 'p9'"),
        (rule(name="a", lane="p0", types="a"), "rule 'a': `types`: Expected `array`"),
        (rule(name="a", lane="p0", types=[""]), "rule 'a': `types[0]`: "),
        (
            rule(name="a", lane="p0", severities=["Bad"]),
            "rule 'a': `severities[0]`: Invalid enum value 'Bad'",
        ),
        (rule(name="a", lane="p0", typos=["a"]), "rule 'a': Object contains unknown field `typos`"),
        (rule(name="a", lane="p0"), "rule 'a': it would apply to everything"),
        (rule(name="a", types=["a"]), "rule 'a': it changes nothing"),
        (rule(name="a", lane="p0", words=["--"]), "rule 'a': `words` holds '--'"),
        (rule(name="a", lane="p0", types=["a"]) * 2, "rule 'a': `name` is used twice"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name_rule_and_field(content: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_rules(content.encode(), "rules.toml")
    assert caught.value.message.startswith("rules.toml")
    assert said in caught.value.message


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read the rules"):
        read_rules(tmp_path / "none.toml")
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigurationError, match="larger than"):
        read_rules(large)


@pytest.mark.parametrize(
    ("rule", "matching", "other"),
    [
        (OperatorRule(name="a", types=("boiler_*",)), ("Boiler_7", "", ""), ("a boiler_7", "", "")),
        (OperatorRule(name="a", alert_types=("p?",)), ("", "p1", ""), ("p1", "", "")),
        (
            OperatorRule(name="a", words=("high pressure",)),
            ("x", "veryHighPressure", ""),
            ("high", "pressure", ""),
        ),
        (OperatorRule(name="a", severities=("Severe",)), ("", "", "severe"), ("", "", "Extreme")),
        (OperatorRule(name="a", types=("a",), words=("b",)), ("a", "b", ""), ("a", "c", "")),
    ],
)
def test_whatever_a_rule_names_must_hold(
    rule: OperatorRule, matching: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    assert rule.matches(*matching)
    assert not rule.matches(*other)


class Followed:
    """A file of rules, and what was put in force."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "rules.toml"
        self.path.write_text(GOOD)
        self.clock = ManualClock()
        self.used: list[tuple[str, ...]] = []
        self.file = RuleFile(self.path, self.clock, self._use)

    def _use(self, rules: Sequence[OperatorRule]) -> None:
        self.used.append(tuple(rule.name for rule in rules))

    def after(self, seconds: float) -> bool:
        self.clock.advance(seconds)
        return self.file.look()


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    return Followed(tmp_path)


def test_a_change_holds_without_a_restart_and_is_logged(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    before = followed.file.version
    followed.path.write_text(OTHER)
    assert not followed.after(CHECK_EVERY_S / 2)  # looked at no more often than that
    with caplog.at_level(logging.WARNING):
        assert followed.after(CHECK_EVERY_S)
    assert followed.used == [("boiler",), ("boiler", "lab")]
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"sha256 {before} -> {followed.file.version}: added lab; changed boiler" in line
    assert not followed.after(CHECK_EVERY_S)


@pytest.mark.parametrize("fault", ["[[rule]", None])
def test_a_bad_change_leaves_the_old_rules_in_force_and_says_so_once(
    followed: Followed, caplog: pytest.LogCaptureFixture, fault: str | None
) -> None:
    if fault is None:
        followed.path.unlink()
    else:
        followed.path.write_text(fault)
    assert not followed.after(CHECK_EVERY_S)
    assert not followed.after(CHECK_EVERY_S)
    assert followed.used == [("boiler",)]
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    followed.path.write_text(OTHER)
    assert followed.after(CHECK_EVERY_S)
    assert followed.used[-1] == ("boiler", "lab")


def test_a_file_that_is_only_touched_changes_nothing(followed: Followed) -> None:
    followed.path.write_text(GOOD)
    assert not followed.after(CHECK_EVERY_S)
    assert followed.used == [("boiler",)]


def test_a_bad_file_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(rule(name="a"))
    with pytest.raises(ConfigurationError, match="rule 'a'"):
        RuleFile(path, ManualClock(), lambda _rules: None)
