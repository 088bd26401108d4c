"""What one should know about one advertiser now, from whatever is at hand.

features ──► spend trend ◄── peers          each may be missing: what is left is said,
churn ─────► risk and drivers               and the answer names what is not
    └──► facts ──► first rule of RULES that applies ──► headline and recommendation
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from models.dataset.matrix import Vector
from models.prediction.drivers import counted, number
from models.recommendations.peers import PeerTable, change_28d, previous_28d
from tocsin.wire.churn import ChurnAnswer
from tocsin.wire.features import FeaturesAnswer
from tocsin.wire.insights import InsightAnswer, Recommendation, SpendTrend

ACTIVE_WINDOW_DAYS = 28
Urgency = Literal["none", "low", "medium", "high"]


@dataclass(frozen=True, slots=True)
class InsightFacts:
    """What the rules read. None: not known."""

    probability: float | None
    risk: str | None
    driver: str  # the strongest that raises the risk, as text; may be empty
    days_idle: float | None
    trend: SpendTrend | None
    certified: float | None = None  # precision of the decision "churn", where that was given

    @property
    def change(self) -> float | None:
        """Of spend, last 28 days on the 28 before."""
        return self.trend.change if self.trend else None

    @property
    def behind_peers(self) -> float:
        """How far the change lies below the peers' median; 0 where not known."""
        if self.trend is None or self.trend.change is None or self.trend.peer_median_change is None:
            return 0.0
        return max(0.0, self.trend.peer_median_change - self.trend.change)


@dataclass(frozen=True, slots=True)
class Rule:
    """When it applies, what to do, how soon; `headline` and `reason` cite the numbers."""

    name: str
    applies: Callable[[InsightFacts], bool]
    headline: Callable[[InsightFacts], str]
    action: str
    reason: Callable[[InsightFacts], str]
    urgency: Urgency


def _idle(facts: InsightFacts) -> float:
    return facts.days_idle or 0.0


def _change(facts: InsightFacts) -> float:
    return facts.change or 0.0


def _risk(facts: InsightFacts) -> str:
    because = f": {facts.driver}" if facts.driver else ""
    sure = f" Of such answers at least {facts.certified:.0%} come true." if facts.certified else ""
    return f"The chance of no activity in the next 28 days is {facts.probability or 0.0:.0%}{because}.{sure}"


def _moved(facts: InsightFacts) -> str:
    change = _change(facts)
    if abs(change) < 0.005:
        return "unchanged"
    return f"{'up' if change > 0 else 'down'} {abs(change):.0%}"


def _spend(facts: InsightFacts) -> str:
    trend = facts.trend
    if trend is None:
        return "Spend is not known."
    said = f"Spend of the last 28 days is {number(trend.spend_28d)}, after {number(trend.previous_28d)}"
    if facts.change is not None:
        said += f" ({_moved(facts)})"
    if trend.peer_median_change is not None:
        said += f"; the median of {trend.peers} peers is {trend.peer_median_change:+.0%}"
    return f"{said}."


RULES: tuple[Rule, ...] = (
    Rule(
        name="gone",
        applies=lambda f: _idle(f) >= ACTIVE_WINDOW_DAYS,
        headline=lambda f: f"Inactive: no campaign for {counted(_idle(f), 'day')}.",
        action="Win back: ask why the campaigns ended and offer help with a new one.",
        reason=lambda f: f"No campaign for {counted(_idle(f), 'day')}; {ACTIVE_WINDOW_DAYS} count as gone.",
        urgency="medium",
    ),
    Rule(
        name="leaving and spending less",
        applies=lambda f: f.risk == "high" and _change(f) <= -0.25,
        headline=lambda f: f"Likely to leave ({f.probability:.0%}), spend {_moved(f)}.",
        action="Call this week: review the last campaigns together and agree on the next.",
        reason=lambda f: f"{_risk(f)} {_spend(f)}",
        urgency="high",
    ),
    Rule(
        name="leaving",
        applies=lambda f: f.risk == "high",
        headline=lambda f: f"Likely to leave: {f.probability:.0%} in the next 28 days.",
        action="Call this week: ask what comes after the current campaign.",
        reason=_risk,
        urgency="high",
    ),
    Rule(
        name="at risk",
        applies=lambda f: f.risk == "medium",
        headline=lambda f: f"At some risk of leaving: {f.probability:.0%} in the next 28 days.",
        action="Write within two weeks: propose a follow-up campaign.",
        reason=_risk,
        urgency="medium",
    ),
    Rule(
        name="falling behind peers",
        applies=lambda f: _change(f) <= -0.25 and f.behind_peers >= 0.25,
        headline=lambda f: f"Spend is {_moved(f)}, more than among peers.",
        action="Review budget and results: peers of this size keep spending.",
        reason=_spend,
        urgency="medium",
    ),
    Rule(
        name="falling",
        applies=lambda f: _change(f) <= -0.25,
        headline=lambda f: f"Spend is {_moved(f)} on the 28 days before.",
        action="Watch: look again in a week.",
        reason=_spend,
        urgency="low",
    ),
    Rule(
        name="growing",
        applies=lambda f: _change(f) >= 0.25,
        headline=lambda f: f"Growing: spend is {_moved(f)} on the 28 days before.",
        action="Offer more reach while it grows.",
        reason=_spend,
        urgency="low",
    ),
    Rule(
        name="steady",
        applies=lambda f: f.risk == "low",
        headline=lambda f: f"Steady: {f.probability:.0%} chance of leaving.",
        action="Nothing to do.",
        reason=lambda f: _spend(f) if f.trend else _risk(f),
        urgency="none",
    ),
    Rule(
        name="risk not known",
        applies=lambda f: f.trend is not None,
        headline=lambda _: "No marked change of spend; the risk of leaving is not known right now.",
        action="Ask again later, before you count on it.",
        reason=_spend,
        urgency="low",
    ),
    Rule(
        name="nothing known",
        applies=lambda _: True,
        headline=lambda _: "Not enough is known about this advertiser right now.",
        action="Keep to the usual contact rhythm and ask again later.",
        reason=lambda _: "Neither features nor a prediction were at hand.",
        urgency="low",
    ),
)


def build_insight(
    advertiser_id: str,
    as_of: datetime,
    features: FeaturesAnswer | None,
    churn: ChurnAnswer | None,
    peers: PeerTable | None,
    degraded_reasons: Sequence[str] = (),
) -> InsightAnswer:
    """One answer from the parts at hand.

    A part that is None is left out, and said in `degraded_reasons` after those handed in. A prediction that is
    the base rate says nothing about this advertiser: it is shown, and no rule builds on it.
    """
    vector: Vector = {name: found.value for name, found in features.features.items()} if features else {}
    trend = spend_trend(advertiser_id, vector, peers)
    facts = _facts(vector, churn, trend)
    rule = next(rule for rule in RULES if rule.applies(facts))
    reasons = _reasons(features, churn, peers, degraded_reasons)
    return InsightAnswer(
        advertiser_id=advertiser_id,
        as_of=as_of,
        headline=rule.headline(facts),
        churn=churn,
        spend_trend=trend,
        recommendation=Recommendation(action=rule.action, reason=rule.reason(facts), urgency=rule.urgency),
        degraded=bool(reasons),
        degraded_reasons=reasons,
    )


def spend_trend(advertiser_id: str, vector: Vector, peers: PeerTable | None) -> SpendTrend | None:
    """Spend against the own past and, where they are known, the peers; None without the spend features."""
    recent, previous, weekly = vector.get("spend_28d"), previous_28d(vector), vector.get("weekly_spend_mean")
    if recent is None or previous is None or weekly is None:
        return None
    compared = peers.compare(advertiser_id, vector) if peers else None
    return SpendTrend(
        spend_28d=recent,
        previous_28d=previous,
        own_weekly_average=weekly,
        change=change_28d(vector),
        peer_median_change=compared.median_change if compared else None,
        peer_percentile=compared.percentile if compared else None,
        peers=compared.peers if compared else 0,
    )


def _facts(vector: Vector, churn: ChurnAnswer | None, trend: SpendTrend | None) -> InsightFacts:
    own = churn if churn is not None and churn.method != "base_rate" else None
    raising = [driver.text for driver in own.drivers if driver.effect > 0] if own else []
    return InsightFacts(
        probability=own.probability if own else None,
        risk=own.risk if own else None,
        driver=raising[0] if raising else "",
        days_idle=vector.get("days_since_last_campaign"),
        trend=trend,
        certified=own.certified_precision if own and own.decision == "churn" else None,
    )


def _reasons(
    features: FeaturesAnswer | None,
    churn: ChurnAnswer | None,
    peers: PeerTable | None,
    handed_in: Sequence[str],
) -> list[str]:
    missing = []
    if features is None:
        missing.append("features are not available")
    if churn is None:
        missing.append("no churn prediction is available")
    elif churn.degraded:
        missing.append(
            churn.degraded_reason or f"the churn prediction is the {churn.method.replace('_', ' ')}"
        )
    if features is not None and not peers:
        missing.append("no peers to compare with")
    return list(dict.fromkeys([*handed_in, *missing]))
