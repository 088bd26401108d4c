"""Who churned: the question, asked again at the end of every week.

           active window            label window
    ├──────────────────────────┼──────────────────────────┤
    T - 28 d                   T (cutoff, as_of)          T + 28 d

At a cutoff `T` an advertiser is eligible with at least one event in `[T - active_window, T)`, and churned with no
event in `[T, T + horizon)`. A feature may use only what lies left of `T`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S


@dataclass(frozen=True, slots=True)
class LabelPolicy:
    """The two windows around a cutoff, in days."""

    active_window_days: int = 28
    horizon_days: int = 28

    @property
    def active_window_s(self) -> float:
        """Length of the window that makes an advertiser eligible, seconds."""
        return self.active_window_days * DAY_S

    @property
    def horizon_s(self) -> float:
        """Length of the label window, seconds."""
        return self.horizon_days * DAY_S


def observed_until(last: float) -> float:
    """The UTC midnight up to which the data is complete, seconds, given the time of its newest event.

    A weekly row is dated its week's last second, so that second closes its day.
    """
    return math.floor((last + 1.0) / DAY_S) * DAY_S


def weekly_cutoffs(first: float, last: float, policy: LabelPolicy) -> list[float]:
    """UTC midnights a week apart, ascending, whose windows lie wholly in the data.

    Args:
        first: Time of the oldest event, seconds since the epoch.
        last: Time of the newest event; the grid ends exactly one horizon before the data does.
        policy: The windows.

    Returns:
        Cutoffs in seconds since the epoch; empty where the data is shorter than both windows together.
    """
    newest = observed_until(last) - policy.horizon_s
    oldest = math.floor(first / DAY_S) * DAY_S + policy.active_window_s
    count = math.floor((newest - oldest) / WEEK_S) + 1
    return [newest - week * WEEK_S for week in reversed(range(count))]


def label(events: pd.DataFrame, cutoffs: Sequence[float], policy: LabelPolicy | None = None) -> pd.DataFrame:
    """The eligible advertisers at each cutoff, and whether they churned.

    Args:
        events: Columns `advertiser_id`, `event_time` (seconds since the epoch), `event_id`; others are ignored.
            Of the rows with the same advertiser and event id the last counts: the one that arrived last, where there
            is a column `arrival`. What happened in the end is the answer, whatever was known at the cutoff.
        cutoffs: Seconds since the epoch. Each label window must be complete: this is not checked here.
        policy: The windows; 28 and 28 days by default.

    Returns:
        Columns `advertiser_id`, `as_of` (the cutoff), `churned` (0 or 1), by cutoff and then by advertiser.
    """
    policy = policy or LabelPolicy()
    told = events.sort_values("arrival", kind="stable") if "arrival" in events else events
    current = told.drop_duplicates(["advertiser_id", "event_id"], keep="last")
    ordered = current.sort_values("event_time", kind="stable")
    times = ordered["event_time"].to_numpy(dtype=np.float64)
    codes, names = pd.factorize(ordered["advertiser_id"], sort=True)
    parts = []
    for cutoff in cutoffs:
        bounds = (cutoff - policy.active_window_s, cutoff, cutoff + policy.horizon_s)
        start, now, end = np.searchsorted(times, bounds, side="left")
        active = np.unique(codes[start:now])
        churned = ~np.isin(active, codes[now:end])
        parts.append(
            pd.DataFrame(
                {"advertiser_id": names[active], "as_of": float(cutoff), "churned": churned.astype(np.int8)}
            )
        )
    if not parts:
        return pd.DataFrame(
            {"advertiser_id": np.array([], dtype=str), "as_of": [0.0][:0], "churned": [0][:0]}
        )
    return pd.concat(parts, ignore_index=True)
