from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.app import app
from tocsin.errors import ConfigurationError, InvalidRecordError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["rules", *arguments])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("device_alert", "--alert-type", "gas_leak"),
            {"lane": "p0", "hazard": "gas", "word": "gas leak", "rule": "danger"},
        ),
        (("note", "--alert-type", "fire_sale"), {"lane": "p2", "commercial": True, "word": "fire sale"}),
        (("note", "--alert-type", "fire drill"), {"lane": "p1", "drill": True, "because": "drill"}),
        (("weather", "--severity", "Severe"), {"lane": "p0", "rule": "severe"}),
        (("device_alert", "--title", "Smoke in the hall"), {"lane": "p0", "rule": "title", "field": "title"}),
        (("note", "--priority", "p0"), {"lane": "p0", "rule": "requested"}),
    ],
)
def test_a_test_says_lane_rule_hazard_and_word(
    arguments: tuple[str, ...], expected: dict[str, object]
) -> None:
    result = run("test", *arguments, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert {name: found[name] for name in expected} == expected


def test_people_get_a_table() -> None:
    output = run("test", "device_alert", "--alert-type", "smoke detector low battery").output
    assert "upkeep" in output
    assert "because of  low battery" in output


def test_the_operators_rules_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[rule]]\nname = "lab"\nlane = "p2"\ntypes = ["lab"]\n')
    monkeypatch.setenv("TOCSIN_RULES", str(path))
    assert "lab (yours)" in run("test", "lab", "--alert-type", "smoke").output
    path.write_text('[[rule]]\nname = "lab"\n')
    assert isinstance(run("test", "lab").exception, ConfigurationError)


@pytest.mark.parametrize("arguments", [("x", "--severity", "bad"), ("x", "--priority", "p3")])
def test_what_no_notification_can_have_is_refused(arguments: tuple[str, ...]) -> None:
    assert isinstance(run("test", *arguments).exception, InvalidRecordError)


def test_the_help_shows_a_rule() -> None:
    output = run("--help").output
    for word in ("[[rule]]", "may_lower", "alert_types", "TOCSIN_RULES"):
        assert word in output
