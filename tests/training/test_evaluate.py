"""`tocsin evaluate`, from a file to one JSON line and a page, without anything running."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cli.app import app
from features.simulator import simulate
from tests.paths import DATA
from tocsin.errors import TocsinError

END = pd.Timestamp("2026-11-22", tz="UTC").timestamp()
GOOGLE = DATA / "google_ads_spend" / "advertiser_weekly_spend.parquet"
TELCO = DATA / "telco" / "Telco-Customer-Churn.csv"
KEYS = (
    "auc",
    "pr_auc",
    "brier",
    "ece",
    "lift_at_10",
    "precision_at_threshold",
    "coverage",
    "rows",
    "advertisers",
    "churn_rate",
    "baselines",
)
DAY = pd.Timedelta(days=1)
google = pytest.mark.skipif(not GOOGLE.exists(), reason="../shared/data is not beside the project")
telco = pytest.mark.skipif(not TELCO.exists(), reason="../shared/data is not beside the project")


def run(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["evaluate", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transaction log as another system would write it: its own names, days without times."""
    events = simulate(150, 45, 11, end=END).activities
    frame = pd.DataFrame(
        {
            "customer": [event.advertiser_id for event in events],
            "date": [pd.Timestamp(event.event_time, unit="s").date().isoformat() for event in events],
            "total": [event.amount for event in events],
        }
    )
    path = tmp_path_factory.mktemp("log") / "transactions.csv"
    frame.to_csv(path, index=False)
    return path


MAP = (
    "--format",
    "csv",
    "--map",
    "advertiser_id=customer",
    "--map",
    "event_time=date",
    "--map",
    "amount=total",
)


def brute_force(
    times: pd.DataFrame, until: str, last_complete: pd.Timestamp, active: int, horizon: int
) -> list[tuple[Any, str, bool]]:
    """The definition, word for word, on days: population, label and cutoffs."""
    found = []
    cutoff = pd.Timestamp(until)
    while cutoff + horizon * DAY <= last_complete:
        before = times[(times["day"] >= cutoff - active * DAY) & (times["day"] < cutoff)]
        after = set(times[(times["day"] >= cutoff) & (times["day"] < cutoff + horizon * DAY)]["who"])
        found += [(cutoff, who, who not in after) for who in before["who"].unique()]
        cutoff += 7 * DAY
    return found


def test_one_line_with_the_documented_keys_first_and_a_page(log: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    found = run("--activity", str(log), *MAP, "--train-until", "2026-07-05", "--html", str(page))
    assert tuple(found)[: len(KEYS)] == KEYS
    assert set(found["baselines"]) == {"recency", "logistic"}
    assert 0.7 < found["auc"] < 0.95
    assert found["blocked_by"] == []
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 5
    for outside in ("<script", "<link", "http-equiv", "src=", "@import"):
        assert outside not in text
    again = tmp_path / "again.html"
    assert run("--activity", str(log), *MAP, "--train-until", "2026-07-05", "--html", str(again)) == found
    assert again.read_bytes() == page.read_bytes()


def test_population_and_label_of_a_log_are_the_definition(log: Path) -> None:
    until = "2026-07-08"  # a Wednesday: of a log the date sets the grid
    found = run(
        "--activity", str(log), *MAP, "--train-until", until, "--active-days", "21", "--horizon-days", "14"
    )
    raw = pd.read_csv(log)
    times = pd.DataFrame({"who": raw["customer"], "day": pd.to_datetime(raw["date"])})
    expected = brute_force(times, until, times["day"].max() + DAY, 21, 14)
    assert found["rows"] == len(expected)
    assert found["advertisers"] == len({who for _, who, _ in expected})
    assert found["churn_rate"] == pytest.approx(np.mean([gone for *_, gone in expected]))


def test_without_json_a_person_reads_it(log: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", "--activity", str(log), *MAP], catch_exceptions=False)
    assert result.exit_code == 0
    assert "On rows it was not trained on" in result.output
    assert "churned: of the advertisers with activity in the 28 days before" in result.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--format", "google-ads"], "is not Google's weekly spend"),
        (["--format", "csv"], "lacks advertiser_id, event_time"),
        ([*MAP, "--train-until", "2026-01-01"], r"has \d+ weekly cutoffs whose labels end by 2026-01-01"),
        ([*MAP, "--horizon-days", "0"], "horizon_days is 0"),
        (
            ["--format", "csv", "--map", "advertiser_id=customer", "--map", "event_time=total"],
            "rows were refused: [0-9,]+ such as line 2, event_time",
        ),
    ],
)
def test_what_cannot_be_judged_is_said(log: Path, arguments: list[str], text: str) -> None:
    with pytest.raises(TocsinError, match=text):
        CliRunner().invoke(app, ["evaluate", "--activity", str(log), *arguments], catch_exceptions=False)


@pytest.mark.parametrize("arguments", [[], ["--activity", "nowhere.csv"], ["--train-until", "soon"]])
def test_a_wrong_call_is_refused(log: Path, arguments: list[str]) -> None:
    extra = ["--activity", str(log)] if "--train-until" in arguments else []
    assert CliRunner().invoke(app, ["evaluate", *arguments, *extra]).exit_code == 2


def test_a_log_of_one_outcome_is_refused_with_the_counts(tmp_path: Path) -> None:
    path = tmp_path / "steady.csv"
    weeks = pd.date_range("2025-01-05", periods=50, freq="7D")
    rows = [(f"c{number}", day.date(), 5) for number in range(30) for day in weeks]
    pd.DataFrame(rows, columns=["customer", "date", "total"]).to_csv(path, index=False)
    with pytest.raises(TocsinError, match=r"all \d+ labelled rows to train on stayed"):
        CliRunner().invoke(app, ["evaluate", "--activity", str(path), *MAP], catch_exceptions=False)


def test_without_amounts_it_is_judged_and_what_was_refused_is_told(log: Path, tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    stray = pd.DataFrame({"customer": ["sim-00001", ""], "date": ["2001-01-01", "2026-01-01"]})
    pd.concat([stray, pd.read_csv(log)[["customer", "date"]]]).to_csv(path, index=False)
    found = run("--activity", str(path), "--map", "advertiser_id=customer", "--map", "event_time=date")
    assert 0.6 < found["auc"] < 0.95
    assert found["rejected"] == {"line 3, advertiser_id is blank: 1 to 128 characters": 1}
    assert found["cautions"][0].startswith("1 of")
    assert found["cautions"][1].startswith("nothing at all happens from 2001-01-01")


@google
def test_on_real_spend_as_the_definition_says() -> None:
    found = run(
        "--activity",
        str(GOOGLE),
        "--format",
        "google-ads",
        "--train-until",
        "2019-02-17",
        "--horizon-days",
        "28",
    )
    raw = pd.read_parquet(GOOGLE, columns=["Advertiser_ID", "Week_Start_Date"])
    times = pd.DataFrame({"who": raw["Advertiser_ID"], "day": pd.to_datetime(raw["Week_Start_Date"])})
    # A week's row stands for its seven days, so the last one is complete through its Saturday.
    expected = brute_force(times, "2019-02-17", times["day"].max() + 7 * DAY, 28, 28)
    assert found["rows"] == len(expected)
    assert found["advertisers"] == len({who for _, who, _ in expected})
    assert found["churn_rate"] == pytest.approx(np.mean([gone for *_, gone in expected]))
    assert 0.83 <= found["auc"] < 0.95
    assert found["baselines"]["recency"]["auc"] < found["baselines"]["logistic"]["auc"] < found["auc"]
    assert found["ece"] <= 0.03 or found["ece_reason"]
    assert found["abstains"] or found["precision_low"] >= 0.8
    assert found["blocked_by"] == []


@telco
def test_the_telco_table_through_the_same_evaluation() -> None:
    found = run("--table", str(TELCO), "--label", "Churn")
    assert tuple(found)[: len(KEYS)] == KEYS
    assert found["rows"] == 2_113
    assert found["auc"] >= 0.855
    assert found["auc"] > found["baselines"]["logistic"]["auc"]
    assert found["baselines"]["recency"]["auc"] is None
    assert found["ece"] <= 0.03
    assert found["abstains"] or found["precision_low"] >= 0.8
