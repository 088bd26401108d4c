from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from cli.features import app, parse_values, shown
from features.definitions import FEATURE_NAMES, ON_DEMAND, VIEW_OF, VIEWS
from tocsin.errors import NotFoundError
from tocsin.wire.features import FeaturesAnswer, FeatureValue


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_catalogue_lists_every_feature_and_view() -> None:
    shown = run("list")
    found = json.loads(run("list", "--json"))
    assert [view["name"] for view in found["views"]] == [view.name for view in VIEWS]
    assert [one["name"] for one in found["features"]] == [*FEATURE_NAMES, *(one.name for one in ON_DEMAND)]
    for name in ("gap_ratio", "recent_activity", "budget_to_weekly_spend"):
        assert name in shown


def test_one_feature_or_view_says_everything() -> None:
    feature = json.loads(run("show", "spend_7d", "--json"))
    assert (feature["view"], feature["window_days"], feature["ttl_s"]) == ("recent_activity", 7, 300.0)
    assert json.loads(run("show", "history", "--json"))["schema_hash"] == VIEWS[1].schema_hash.hex()
    assert "planned_budget" in run("show", "budget_to_weekly_spend")
    with pytest.raises(NotFoundError, match="wish"):
        run("show", "wish")


def test_what_is_defined_is_told_in_words() -> None:
    assert "window         7 days" in run("show", "spend_7d")
    assert "window         24 hours" in run("show", "spend_1d")
    assert "window         everything" in run("show", "lifetime_spend")
    assert "time to live   3,600 s" in run("show", "history")


def value(number: float | None, view: str = "history", status: Any = "present") -> FeatureValue:
    when = None if status == "never" else datetime(2026, 11, 1, tzinfo=UTC)
    age_s = None if status == "never" else 12.34
    return FeatureValue(value=number, unit="currency", view=view, status=status, event_time=when, age_s=age_s)


def test_an_answer_is_a_table_a_view_that_fits_a_terminal() -> None:
    features = {name: value(1234567.125, VIEW_OF[name].name) for name in FEATURE_NAMES}
    features |= {
        "spend_7d": value(0.142857142, "recent_activity"),
        "gap_ratio": value(None, status="missing"),
    }
    answer = FeaturesAnswer(
        advertiser_id="a[b]",
        as_of=datetime(2026, 11, 2, tzinfo=UTC),
        features=features,
        on_demand={"budget_to_spend_28d": None},
        degraded=True,
        degraded_reason="storage is [down]",
    )
    console = Console(width=80)
    with console.capture() as captured:
        for part in shown(answer):
            console.print(part)
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "…" not in text
    assert "a[b] as of 2026-11-02 00:00:00 UTC" in text
    assert "storage is [down]" in text
    assert text.count("age 12.3 s, newest event 2026-11-01 00:00:00 UTC") == len(VIEWS)
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith(" ") and line.split()}
    assert rows["spend_28d"] == ["1,234,567.12", "currency", "present"]
    assert rows["spend_7d"] == ["0.142857", "currency", "present"]
    assert rows["gap_ratio"] == ["currency", "missing"]
    assert rows["budget_to_spend_28d"] == ["ratio", "missing"]
    assert set(FEATURE_NAMES) <= rows.keys()


def test_values_are_pairs_of_name_and_number() -> None:
    assert parse_values(["planned_budget=500", "x = 1.5"]) == {"planned_budget": 500.0, "x": 1.5}
    for wrong in ("planned_budget", "planned_budget=", "a=b"):
        with pytest.raises(typer.BadParameter):
            parse_values([wrong])
