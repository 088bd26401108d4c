from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from models.prediction.churn import RiskPolicy, base_rate_answer
from models.recommendations.insights import RULES, build_insight
from models.recommendations.peers import PeerTable
from tocsin.wire.churn import ChurnAnswer, Driver
from tocsin.wire.features import FeaturesAnswer, FeatureValue
from tocsin.wire.insights import InsightAnswer

AS_OF = datetime(2026, 11, 24, tzinfo=UTC)


def _features(recent: float = 400.0, previous: float = 400.0, idle: float = 2.0) -> FeaturesAnswer:
    values = {
        "days_since_last_campaign": idle,
        "spend_28d": recent,
        "spend_56d": recent + previous,
        "weekly_spend_mean": 100.0,
    }
    return FeaturesAnswer(
        advertiser_id="a",
        as_of=AS_OF,
        features={
            name: FeatureValue(value=value, unit="", view="v", status="present", event_time=AS_OF, age_s=0.0)
            for name, value in values.items()
        },
    )


def _churn(probability: float) -> ChurnAnswer:
    text = "no campaign for 21 days; typical is 3 days"
    return ChurnAnswer(
        advertiser_id="a",
        probability=probability,
        risk=RiskPolicy().band(probability),
        drivers=[
            Driver(feature="spend_7d", value=1.0, typical=2.0, effect=-0.3, text="lowers it"),
            Driver(feature="days_since_last_campaign", value=21.0, typical=3.0, effect=0.2, text=text),
        ],
        as_of=AS_OF,
        method="model",
        model_version="v1",
    )


def _peers(change: float = 0.0) -> PeerTable:
    vector = {
        "weekly_spend_mean": 100.0,
        "spend_28d": 100.0 * (1 + change),
        "spend_56d": 100.0 * (2 + change),
    }
    return PeerTable.build({f"p{at}": vector for at in range(30)})


def _insight(**parts: Any) -> InsightAnswer:
    given = {"features": _features(), "churn": _churn(0.05), "peers": _peers(), **parts}
    return build_insight("a", AS_OF, **given)


@pytest.mark.parametrize(
    ("parts", "headline", "urgency"),
    [
        ({"features": _features(idle=40.0)}, "Inactive: no campaign for 40 days.", "medium"),
        (
            {"churn": _churn(0.8), "features": _features(100.0)},
            "Likely to leave (80%), spend down 75%.",
            "high",
        ),
        ({"churn": _churn(0.8)}, "Likely to leave: 80% in the next 28 days.", "high"),
        ({"churn": _churn(0.4)}, "At some risk of leaving: 40% in the next 28 days.", "medium"),
        ({"features": _features(200.0)}, "Spend is down 50%, more than among peers.", "medium"),
        (
            {"features": _features(200.0), "peers": _peers(-0.5)},
            "Spend is down 50% on the 28 days before.",
            "low",
        ),
        ({"features": _features(800.0)}, "Growing: spend is up 100% on the 28 days before.", "low"),
        ({}, "Steady: 5% chance of leaving.", "none"),
        ({"churn": None}, "No marked change of spend; the risk of leaving is not known right now.", "low"),
        (
            {"features": None, "churn": None},
            "Not enough is known about this advertiser right now.",
            "low",
        ),
    ],
)
def test_the_first_rule_that_applies_speaks(parts: dict[str, Any], headline: str, urgency: str) -> None:
    insight = _insight(**parts)
    assert insight.headline == headline
    assert insight.recommendation.urgency == urgency
    assert insight.recommendation.action in {rule.action for rule in RULES}


def test_the_reason_cites_the_numbers() -> None:
    reason = _insight(churn=_churn(0.8), features=_features(100.0)).recommendation.reason
    assert reason == (
        "The chance of no activity in the next 28 days is 80%: no campaign for 21 days; typical is 3 days. "
        "Spend of the last 28 days is 100, after 400 (down 75%); the median of 30 peers is +0%."
    )


def test_the_trend_holds_own_past_and_peers() -> None:
    trend = _insight(features=_features(200.0)).spend_trend
    assert trend is not None
    assert (trend.spend_28d, trend.previous_28d, trend.own_weekly_average) == (200.0, 400.0, 100.0)
    assert (trend.change, trend.peer_median_change, trend.peer_percentile, trend.peers) == (
        -0.5,
        0.0,
        0.0,
        30,
    )


def test_with_all_parts_nothing_is_degraded() -> None:
    insight = _insight()
    assert not insight.degraded
    assert insight.degraded_reasons == []


@pytest.mark.parametrize(
    ("parts", "reasons"),
    [
        ({"peers": None}, ["no peers to compare with"]),
        ({"churn": None}, ["no churn prediction is available"]),
        ({"features": None}, ["features are not available"]),
        (
            {"features": None, "churn": None},
            ["features are not available", "no churn prediction is available"],
        ),
        (
            {"churn": base_rate_answer("a", 0.9, AS_OF, "the model is down")},
            ["the model is down"],
        ),
        (
            {"churn": None, "degraded_reasons": ["breaker open", "no churn prediction is available"]},
            ["breaker open", "no churn prediction is available"],
        ),
    ],
)
def test_each_missing_part_is_said(parts: dict[str, Any], reasons: list[str]) -> None:
    insight = _insight(**parts)
    assert insight.degraded
    assert insight.degraded_reasons == reasons
    assert insight.headline
    assert insight.recommendation.reason


def test_no_rule_builds_on_the_base_rate() -> None:
    insight = _insight(churn=base_rate_answer("a", 0.9, AS_OF, "the model is down"))
    assert insight.headline == "No marked change of spend; the risk of leaving is not known right now."
    assert insight.churn is not None


def test_without_a_past_there_is_no_change() -> None:
    insight = _insight(features=_features(300.0, 0.0), churn=None)
    assert insight.spend_trend is not None
    assert insight.spend_trend.change is None
    assert "(" not in insight.recommendation.reason


def test_features_that_are_not_defined_are_no_trend() -> None:
    empty = msgspec.structs.replace(_features(), features={})
    insight = _insight(features=empty)
    assert insight.spend_trend is None
    assert insight.headline == "Steady: 5% chance of leaving."


def test_the_last_rule_always_applies() -> None:
    insight = build_insight("a", AS_OF, None, None, None)
    assert RULES[-1].name == "nothing known"
    assert insight.recommendation.action == RULES[-1].action
    assert insight.degraded


def test_a_certified_decision_is_cited() -> None:
    churn = msgspec.structs.replace(_churn(0.8), decision="churn", certified_precision=0.84)
    assert "Of such answers at least 84% come true." in _insight(churn=churn).recommendation.reason
    assert "come true" not in _insight(churn=_churn(0.8)).recommendation.reason
