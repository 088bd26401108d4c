"""The features of an advertiser: what each one means, and how old it may be.

One table, read by the online vectors, by the training data and by people. A feature is *fresh* when the newest
event that went into it is at most `max_age_s` old. Spend is reported by the week, so the newest report is up to
7 days old by nature, and one day more is allowed for its arrival. Features over the whole history move slowly
and stay fresh for 28 days, which is also how long an advertiser counts as active.

Changing the meaning of a feature, or the set, is a new `VIEW_VERSION`.
"""

from __future__ import annotations

from msgspec import Struct

VIEW_NAME = "advertiser_activity"
VIEW_VERSION = 1

DAY_S = 86_400.0
REPORTED_WEEKLY_S = 8 * DAY_S
SLOW_S = 28 * DAY_S


class FeatureDefinition(Struct, frozen=True):
    """One feature: its unit, its meaning, and the age in seconds up to which it is fresh.

    `window_days` is how far back it looks from `as_of`; 0 means the whole history.
    """

    name: str
    unit: str
    description: str
    max_age_s: float
    window_days: int = 0


def _spend(days: int) -> FeatureDefinition:
    text = f"Spend of the last {days} days"
    return FeatureDefinition(f"spend_{days}d", "currency", text, REPORTED_WEEKLY_S, days)


def _trend(days: int) -> FeatureDefinition:
    # (a - b) / (a + b): bounded, and defined when only one side is zero, which a ratio is not.
    text = (
        f"Spend of the last {days} days (a) against the {days} days before (b), as (a - b) / (a + b): "
        "-1 stopped, 0 unchanged, 1 new. Null where both are zero"
    )
    return FeatureDefinition(f"spend_trend_{days}d", "ratio", text, REPORTED_WEEKLY_S, 2 * days)


def _active_weeks(weeks: int) -> FeatureDefinition:
    text = f"How many of the last {weeks} weeks, counted back from as_of, saw activity"
    return FeatureDefinition(f"active_weeks_{weeks}w", "weeks", text, REPORTED_WEEKLY_S, 7 * weeks)


FEATURES: tuple[FeatureDefinition, ...] = (
    FeatureDefinition(
        "days_since_last_campaign",
        "days",
        "Whole UTC days without activity up to as_of: 0 where the last day had some",
        REPORTED_WEEKLY_S,
    ),
    _spend(7),
    _spend(28),
    _spend(56),
    _spend(84),
    _trend(28),
    _trend(84),
    _active_weeks(4),
    _active_weeks(12),
    FeatureDefinition(
        "active_weeks_lifetime",
        "weeks",
        "Calendar weeks (Sunday to Saturday, UTC) with activity, ever",
        SLOW_S,
    ),
    FeatureDefinition(
        "tenure_days",
        "days",
        "Days from the start of the first active calendar week to as_of",
        SLOW_S,
    ),
    FeatureDefinition("lifetime_spend", "currency", "Spend, ever", SLOW_S),
    FeatureDefinition(
        "weekly_spend_mean",
        "currency/week",
        "Lifetime spend by active calendar week",
        SLOW_S,
    ),
    FeatureDefinition(
        "mean_gap_weeks",
        "weeks",
        "Usual distance between active calendar weeks: 1 is every week. Null with fewer than two",
        SLOW_S,
    ),
    FeatureDefinition(
        "gap_ratio",
        "ratio",
        "The current gap over the usual one: days_since_last_campaign / (7 x mean_gap_weeks)",
        REPORTED_WEEKLY_S,
    ),
)

FEATURE_NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)

LOOKBACK_DAYS = max(feature.window_days for feature in FEATURES)  # daily tiles are needed this far back
