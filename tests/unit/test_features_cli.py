from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from features.definitions import FEATURE_NAMES, ON_DEMAND, VIEWS
from tocsin.cli.features import app, parse_values
from tocsin.errors import NotFoundError


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


def test_values_are_pairs_of_name_and_number() -> None:
    assert parse_values(["planned_budget=500", "x = 1.5"]) == {"planned_budget": 500.0, "x": 1.5}
    for wrong in ("planned_budget", "planned_budget=", "a=b"):
        with pytest.raises(typer.BadParameter):
            parse_values([wrong])
