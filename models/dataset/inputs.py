"""The features the churn model sees: fifteen of the store's, of both views.

The store may hold more; a model is only as good as what it was measured on. Changing the set, or the meaning of one
of them, is a new `INPUTS_VERSION`.
"""

from __future__ import annotations

INPUTS_NAME = "advertiser_activity"
INPUTS_VERSION = 1
INPUTS: tuple[str, ...] = (
    "days_since_last_campaign",
    "spend_7d",
    "spend_28d",
    "spend_56d",
    "spend_84d",
    "spend_trend_28d",
    "spend_trend_84d",
    "active_weeks_4w",
    "active_weeks_12w",
    "active_weeks_lifetime",
    "tenure_days",
    "lifetime_spend",
    "weekly_spend_mean",
    "mean_gap_weeks",
    "gap_ratio",
)
