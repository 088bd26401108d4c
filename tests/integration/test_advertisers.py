from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
from rich.console import Console

from cli.import_files import send_activity
from launch.local_client import await_lane
from tests.platform_fixtures import SIMULATION_END
from tocsin import Client
from tocsin.errors import NotFoundError
from tocsin.settings import Settings

pytestmark = pytest.mark.integration

QUIET = Console(quiet=True)


def test_features_come_with_event_time_age_and_status(client: Client, trained: list[str]) -> None:
    answer = client.features(trained[0])
    value = answer.features["days_since_last_campaign"]
    assert value.event_time is not None
    assert (value.status, value.age_s) == (
        "present",
        0.0,
    )  # "now" is the end of the data, and all of it is in
    assert {
        "spend_7d",
        "spend_28d",
        "spend_56d",
        "spend_84d",
        "tenure_days",
        "lifetime_spend",
    } <= answer.features.keys()


def test_a_thousand_advertisers_are_read_at_once(client: Client, trained: list[str]) -> None:
    rows = client.features_many([*trained, "nobody"], ["spend_28d"], values={"planned_budget": 100.0})
    assert [row.advertiser_id for row in rows] == [*trained, "nobody"]
    assert {row.views["history"].status for row in rows[:-1]} == {"present"}
    assert rows[-1].views["history"].status == "never"
    one = client.features(trained[0], values={"planned_budget": 100.0})
    assert rows[0].values == {"spend_28d": one.features["spend_28d"].value}
    assert rows[0].on_demand == one.on_demand


def test_features_as_of_an_earlier_moment_forget_what_came_later(client: Client, trained: list[str]) -> None:
    whole = client.features(trained[0]).features["lifetime_spend"].value
    earlier = client.features(trained[0], as_of=datetime.fromtimestamp(SIMULATION_END - 200 * 86_400, tz=UTC))
    assert whole is not None
    assert (earlier.features["lifetime_spend"].value or 0) < whole


def test_new_activity_shows_in_the_features_and_a_repeat_changes_nothing(
    client: Client, settings: Settings, trained: list[str]
) -> None:
    at = datetime.fromtimestamp(SIMULATION_END - 3600, tz=UTC)
    event = {"advertiser_id": "fresh/one two", "event_time": at, "amount": 12.5}
    for _ in range(3):
        assert client.send_activity([event]).accepted == 1
        await_lane(settings, "activity")
        features = client.features("fresh/one two").features
        assert features["lifetime_spend"].value == 12.5
    restated = {**event, "event_id": "week:1", "amount": 5.0}
    client.send_activity([restated])
    client.send_activity([{**restated, "amount": 7.0}])
    await_lane(settings, "activity")
    assert client.features("fresh/one two").features["lifetime_spend"].value == 19.5


def test_churn_is_predicted_by_the_champion_with_drivers(client: Client, trained: list[str]) -> None:
    answer = client.churn(trained[0])
    assert 0 <= answer.probability <= 1
    assert answer.decision in {"churn", "stays", "abstain"}
    assert (answer.threshold is None) == (answer.decision == "abstain")
    assert answer.base_probability is not None
    effects = sum(driver.effect for driver in answer.drivers) + answer.other_effect
    assert answer.base_probability + effects == pytest.approx(answer.probability)
    assert (answer.method, answer.degraded) == ("model", False)
    assert answer.model_version


def test_a_thousand_at_once_equal_one_by_one(client: Client, trained: list[str]) -> None:
    batch = client.churn_many([*trained, "nobody"])
    assert batch.unknown == ["nobody"]
    assert [p.advertiser_id for p in batch.predictions] == trained
    assert batch.predictions[3].probability == pytest.approx(client.churn(trained[3]).probability)


def test_an_insight_says_what_to_do_and_comes_from_the_cache_the_second_time(
    client: Client, trained: list[str]
) -> None:
    first, second = client.insight(trained[1]), client.insight(trained[1])
    assert first.headline
    assert first.recommendation.action
    assert first.churn is not None
    assert first.spend_trend is not None
    assert first.spend_trend.peers > 0
    assert (first.degraded, first.cached, second.cached) == (False, False, True)


def test_an_unknown_advertiser_is_not_found(client: Client, trained: list[str]) -> None:
    for ask in (client.features, client.churn, client.insight):
        with pytest.raises(NotFoundError, match="not known"):
            ask("nobody at all")


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/features/x?as_of=yesterday", "as_of"),
        ("/v1/features/x?as_of=2026-01-01T00:00:00", "as_of"),
        ("/v1/features/x?as_of=9999-01-01T00:00:00Z", "as_of"),
    ],
)
def test_a_bad_moment_is_named(settings: Settings, path: str, field: str) -> None:
    answer = httpx2.get(settings.base_url + path)
    assert answer.status_code == 422
    assert answer.json()["field"] == field


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ('{"advertiser_id": "a", "event_time": "2999-01-01T00:00:00Z"}', "event_time"),
        ('{"advertiser_id": "a", "event_time": "1999-01-01T00:00:00Z"}', "event_time"),
        ('{"advertiser_id": "a", "event_time": "2020-01-01T00:00:00Z", "amount": -1}', "amount"),
        ('{"advertiser_id": "a", "event_time": "2020-01-01T00:00:00Z", "amount": 1e999}', "amount"),
        ('{"advertiser_id": "a", "event_time": "2020-01-01T00:00:00Z", "amount": NaN}', ""),
        ('{"advertiser_id": "a", "event_time": "2020-01-01T00:00:00Z", "kind": "wish"}', "kind"),
        ('{"advertiser_id": "", "event_time": "2020-01-01T00:00:00Z"}', "advertiser_id"),
    ],
)
def test_bad_activity_is_a_problem_that_names_the_field(settings: Settings, record: str, field: str) -> None:
    answer = httpx2.post(
        f"{settings.base_url}/v1/activity", content=record, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422, answer.text
    assert answer.json().get("field", "") == field


def test_too_many_ids_are_refused(settings: Settings) -> None:
    answer = httpx2.post(f"{settings.base_url}/v1/churn", json={"advertiser_ids": ["a"] * 1001})
    assert answer.status_code == 422
    assert answer.json()["limit"] == "<= 1000"


def test_the_real_file_imports_twice_to_the_same(
    settings: Settings, trained: list[str], shared_data: Path, tmp_path: Path
) -> None:
    file = shared_data / "google_ads_spend" / "advertiser_weekly_spend.parquet"
    first = send_activity(settings, QUIET, file, None, tmp_path / "rejects.jsonl")
    second = send_activity(settings, QUIET, file, None, tmp_path / "rejects.jsonl")
    assert (first["rows"], first["new_or_changed"], first["rejected"]) == (12_042, 12_042, 0)
    assert (second["new_or_changed"], second["repeated"]) == (0, 12_042)
