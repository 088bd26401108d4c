"""The features of an advertiser, as code: the one place where they are defined.

    Entity ◄── FeatureView (owner, TTL, freshness target) ◄── Feature (aggregation over a window)
                    └────────── OnDemandFeature (computed from stored features and values of the request)

Everything else reads this table: `features.vectors` computes it, the packed format takes its schema hash from it,
the catalogue, `tocsin features` and the HTTP answers show it. A new feature of a known aggregation is one row here.

An event counts when its `event_time` is before `as_of`. A window of d days begins at midnight UTC, d days before the
end of the day `as_of` lies in; that of one day begins on the hour, 24 hours before the end of the hour. Starts are
thus on tiles, and ends are exact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from enum import StrEnum

import msgspec
from msgspec import Struct

DAY_S = 86_400.0
HOUR_S = 3_600.0
LIFETIME = 0  # as a window: everything


class Aggregation(StrEnum):
    """How the events of a window become one number. "Weeks" of a window are counted back from its end."""

    COUNT = "count"
    SUM = "sum"
    MEAN = "mean"
    MIN = "min"
    MAX = "max"
    DISTINCT_CAMPAIGNS = "distinct_campaigns"
    DAYS_SINCE_LAST = "days_since_last"
    TREND_RATIO = "trend_ratio"
    TREND_SLOPE = "trend_slope"
    VOLATILITY = "volatility"
    ACTIVE_DAY_SHARE = "active_day_share"
    ACTIVE_WEEKS = "active_weeks"
    CALENDAR_WEEKS = "calendar_weeks"
    TENURE = "tenure"
    WEEKLY_MEAN = "weekly_mean"
    MEAN_GAP = "mean_gap"
    GAP_RATIO = "gap_ratio"


class Entity(Struct, frozen=True):
    """The kind of thing that features describe."""

    name: str
    join_key: str
    description: str


class Feature(Struct, frozen=True):
    """One stored feature. `window_days` is how far back it looks; 0 is the whole history."""

    name: str
    aggregation: Aggregation
    window_days: int
    unit: str
    description: str


class FeatureView(Struct, frozen=True):
    """Features that are stored together as one vector and share an age.

    `ttl_s`: a vector whose age is greater is stale. `freshness_s`: the target time from the arrival of an event to its
    effect. `step_s`: without new events, values change only where time passes a multiple of this.
    """

    name: str
    entity: Entity
    owner: str
    description: str
    ttl_s: float
    freshness_s: float
    step_s: float
    features: tuple[Feature, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The features' names, in the order of the vector."""
        return tuple(feature.name for feature in self.features)

    @property
    def schema_hash(self) -> bytes:
        """8 bytes that change with anything a stored number depends on; descriptions do not."""
        meaning = [self.name, self.entity.join_key, self.step_s]
        meaning += [(f.name, f.aggregation, f.window_days, f.unit) for f in self.features]
        return hashlib.blake2b(msgspec.json.encode(meaning), digest_size=8).digest()


class OnDemandFeature(Struct, frozen=True):
    """A feature computed when requested, from stored features and values of the request.

    `compute` takes both by name; it is called only where all of them are known. None: not defined.
    """

    name: str
    unit: str
    owner: str
    description: str
    stored: tuple[str, ...]
    requested: tuple[str, ...]
    compute: Callable[[Mapping[str, float]], float | None]


def _amounts(days: int) -> tuple[Feature, ...]:
    """The usual aggregates of one window."""
    suffix, of = (f"{days}d", f"of the last {days} days") if days != LIFETIME else ("lifetime", "ever")
    if days == 1:
        of = "of the last 24 hours"
    spend = "lifetime_spend" if days == LIFETIME else f"spend_{suffix}"
    rows = (
        (spend, Aggregation.SUM, "currency", "Spend"),
        (f"events_{suffix}", Aggregation.COUNT, "events", "Events"),
        (f"spend_mean_{suffix}", Aggregation.MEAN, "currency", "Mean amount of the events"),
        (f"spend_min_{suffix}", Aggregation.MIN, "currency", "Smallest amount of the events"),
        (f"spend_max_{suffix}", Aggregation.MAX, "currency", "Largest amount of the events"),
        (f"campaigns_{suffix}", Aggregation.DISTINCT_CAMPAIGNS, "campaigns", "Distinct campaigns"),
    )
    return tuple(Feature(name, kind, days, unit, f"{text} {of}") for name, kind, unit, text in rows)


def _changes(days: int) -> tuple[Feature, ...]:
    """How spend moves within a window."""
    # (a - b) / (a + b): bounded, and defined when only one side is zero, which a ratio is not.
    ratio = (
        f"Spend of the last {days} days (a) against the {days} days before (b), as (a - b) / (a + b): "
        "-1 stopped, 0 unchanged, 1 new. Null where both are zero"
    )
    slope = f"Least-squares slope of the weekly spend over the last {days} days"
    volatility = (
        f"Population standard deviation of the {days} daily spends by their mean. Null where all are zero"
    )
    share = f"Share of the last {days} days with activity"
    return (
        Feature(f"spend_trend_{days}d", Aggregation.TREND_RATIO, days, "ratio", ratio),
        Feature(f"spend_slope_{days}d", Aggregation.TREND_SLOPE, days, "currency/week/week", slope),
        Feature(f"spend_volatility_{days}d", Aggregation.VOLATILITY, days, "ratio", volatility),
        Feature(f"active_day_share_{days}d", Aggregation.ACTIVE_DAY_SHARE, days, "ratio", share),
    )


def _active_weeks(weeks: int) -> Feature:
    text = f"How many of the last {weeks} weeks, counted back from as_of, saw activity"
    return Feature(f"active_weeks_{weeks}w", Aggregation.ACTIVE_WEEKS, 7 * weeks, "weeks", text)


ADVERTISER = Entity("advertiser", "advertiser_id", "Whoever spends: one account of the ad platform")

RECENT_ACTIVITY = FeatureView(
    name="recent_activity",
    entity=ADVERTISER,
    owner="advertiser-intelligence",
    description="What an advertiser did in the last day and week; moves with every event",
    ttl_s=300.0,
    freshness_s=1.0,
    step_s=HOUR_S,
    features=(
        Feature(
            "days_since_last_campaign",
            Aggregation.DAYS_SINCE_LAST,
            LIFETIME,
            "days",
            "Whole UTC days without activity up to as_of: 0 where the last day had some",
        ),
        *_amounts(1),
        *_amounts(7),
        Feature(
            "active_day_share_7d",
            Aggregation.ACTIVE_DAY_SHARE,
            7,
            "ratio",
            "Share of the last 7 days with activity",
        ),
    ),
)

HISTORY = FeatureView(
    name="history",
    entity=ADVERTISER,
    owner="advertiser-intelligence",
    description="The habits of an advertiser over months and since the beginning; moves slowly",
    ttl_s=3_600.0,
    freshness_s=1.0,
    step_s=DAY_S,
    features=(
        *_amounts(28),
        *_amounts(56),
        *_amounts(84),
        *_amounts(LIFETIME),
        *_changes(28),
        *_changes(84),
        _active_weeks(4),
        _active_weeks(12),
        Feature(
            "active_weeks_lifetime",
            Aggregation.CALENDAR_WEEKS,
            LIFETIME,
            "weeks",
            "Calendar weeks (Sunday to Saturday, UTC) with activity, ever",
        ),
        Feature(
            "tenure_days",
            Aggregation.TENURE,
            LIFETIME,
            "days",
            "Days from the start of the first active calendar week to as_of",
        ),
        Feature(
            "weekly_spend_mean",
            Aggregation.WEEKLY_MEAN,
            LIFETIME,
            "currency/week",
            "Lifetime spend by active calendar week",
        ),
        Feature(
            "mean_gap_weeks",
            Aggregation.MEAN_GAP,
            LIFETIME,
            "weeks",
            "Usual distance between active calendar weeks: 1 is every week. Null with fewer than two",
        ),
        Feature(
            "gap_ratio",
            Aggregation.GAP_RATIO,
            LIFETIME,
            "ratio",
            "The current gap over the usual one: days_since_last_campaign / (7 x mean_gap_weeks)",
        ),
    ),
)

VIEWS: tuple[FeatureView, ...] = (RECENT_ACTIVITY, HISTORY)
FEATURES: tuple[Feature, ...] = tuple(feature for view in VIEWS for feature in view.features)
FEATURE_NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
VIEW_OF: Mapping[str, FeatureView] = {name: view for view in VIEWS for name in view.names}

ON_DEMAND: tuple[OnDemandFeature, ...] = (
    OnDemandFeature(
        name="budget_to_weekly_spend",
        unit="weeks",
        owner="advertiser-intelligence",
        description="How many weeks of usual spend a planned budget is: planned_budget / weekly_spend_mean",
        stored=("weekly_spend_mean",),
        requested=("planned_budget",),
        compute=lambda of: (
            of["planned_budget"] / of["weekly_spend_mean"] if of["weekly_spend_mean"] else None
        ),
    ),
    OnDemandFeature(
        name="budget_to_spend_28d",
        unit="ratio",
        owner="advertiser-intelligence",
        description="A planned budget against the spend of the last 28 days: planned_budget / spend_28d",
        stored=("spend_28d",),
        requested=("planned_budget",),
        compute=lambda of: of["planned_budget"] / of["spend_28d"] if of["spend_28d"] else None,
    ),
)
REQUESTED: tuple[str, ...] = tuple(sorted({name for found in ON_DEMAND for name in found.requested}))

# Tiles are needed this far back: a trend compares its window with the one before.
LOOKBACK_DAYS = max(
    feature.window_days * (2 if feature.aggregation is Aggregation.TREND_RATIO else 1) for feature in FEATURES
)
