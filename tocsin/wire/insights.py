"""`/v1/insights`: answers as they go over the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import Struct

from tocsin.wire.churn import ChurnAnswer


class SpendTrend(Struct, frozen=True, kw_only=True):
    """Spend of the last 28 days against the advertiser's own past and against its peers."""

    spend_28d: float
    previous_28d: float
    own_weekly_average: float
    change: float | None  # last 28 days / the 28 before, minus 1; null without a past
    peer_median_change: float | None
    peer_percentile: float | None  # share of peers that changed less
    peers: int


class Recommendation(Struct, frozen=True, kw_only=True):
    """What to do, and why."""

    action: str
    reason: str
    urgency: Literal["none", "low", "medium", "high"]


class InsightAnswer(Struct, frozen=True, kw_only=True):
    """What one should know about one advertiser now."""

    advertiser_id: str
    as_of: datetime
    headline: str
    churn: ChurnAnswer | None
    spend_trend: SpendTrend | None
    recommendation: Recommendation
    cached: bool = False
    age_s: float = 0.0
    degraded: bool = False
    degraded_reasons: list[str] = []
