"""Who churned: the question, asked again at the end of every week.

           active window            label window
    ├──────────────────────────┼──────────────────────────┤
    T - 28 d                   T (cutoff, as_of)          T + 28 d

At a cutoff `T` an advertiser is eligible with at least one event in `[T - active_window, T)`, and churned with no
event in `[T, T + horizon)`. A feature may use only what lies left of `T`. Between the last label window that is
trained on and the first cutoff that is judged there may be a further gap, the embargo.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from msgspec import Struct

from features.newest import NewestEvents, newest_events
from tocsin.errors import ConfigurationError

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S


MAX_WINDOW_DAYS = 366


@dataclass(frozen=True, slots=True)
class LabelPolicy:
    """The windows around a cutoff, in whole days.

    Raises:
        ConfigurationError: a window is outside 1 to 366 days, or the embargo outside 0 to 366.
    """

    active_window_days: int = 28
    horizon_days: int = 28
    embargo_days: int = 0  # kept free after a label window, before anything is judged

    def __post_init__(self) -> None:
        for name, least in (("active_window_days", 1), ("horizon_days", 1), ("embargo_days", 0)):
            days = getattr(self, name)
            if not least <= days <= MAX_WINDOW_DAYS:
                raise ConfigurationError(f"{name} is {days}", hint=f"{least} to {MAX_WINDOW_DAYS} days")

    @property
    def active_window_s(self) -> float:
        """Length of the window that makes an advertiser eligible, seconds."""
        return self.active_window_days * DAY_S

    @property
    def horizon_s(self) -> float:
        """Length of the label window, seconds."""
        return self.horizon_days * DAY_S

    @property
    def gap_s(self) -> float:
        """From a cutoff that is learned from to the first one that may be judged, seconds."""
        return self.horizon_s + self.embargo_days * DAY_S

    @property
    def definition(self) -> str:
        """The label in one sentence."""
        gap = f"; {self.embargo_days} days of embargo" if self.embargo_days else ""
        return (
            f"churned: of the advertisers with activity in the {self.active_window_days} days before a weekly "
            f"cutoff, those with none in the {self.horizon_days} days from it on{gap}"
        )


class LabelCounts(Struct, frozen=True, kw_only=True):
    """How many labels a window holds, and how they came out."""

    cutoffs: int
    rows: int
    advertisers: int
    churned: int
    base_rate: float  # share of the rows; NaN-free: 0 without rows
    lowest_week: float  # the smallest and the largest share that churned in a week
    highest_week: float


def count_labels(
    churned: npt.NDArray[np.float64], as_of: npt.NDArray[np.float64], advertisers: npt.NDArray[np.int64]
) -> LabelCounts:
    """Counts of some rows; the arrays are of shape `(rows,)`."""
    _, week = np.unique(as_of, return_inverse=True)
    rates = np.bincount(week, churned) / np.bincount(week) if len(week) else np.zeros(1)
    return LabelCounts(
        cutoffs=int(week.max()) + 1 if len(week) else 0,
        rows=len(churned),
        advertisers=len(np.unique(advertisers)),
        churned=int(churned.sum()),
        base_rate=float(churned.mean()) if len(churned) else 0.0,
        lowest_week=float(rates.min()),
        highest_week=float(rates.max()),
    )


def observed_until(last: float, *, dates_only: bool = False) -> float:
    """The UTC midnight up to which the data is complete, seconds, given the time of its newest event.

    A weekly row is dated its week's last second, so that second closes its day. Where events are dated by the day,
    all at midnight, the newest one stands for the whole of its day.
    """
    return math.floor((last + 1.0) / DAY_S) * DAY_S + (DAY_S if dates_only else 0.0)


def dated_by_day(event_times: npt.NDArray[np.float64]) -> bool:
    """Whether every event lies at a UTC midnight: a log of dates without times."""
    return len(event_times) > 0 and bool((event_times % DAY_S == 0.0).all())


def data_end(events: pd.DataFrame) -> NewestEvents:
    """Where a log of at least one event ends; a few advertisers far ahead of all others do not move it.

    Labels after the end would say that everybody churned. `events` has the columns `advertiser_id` and `event_time`.
    """
    by_advertiser = events.groupby("advertiser_id", observed=True)["event_time"].max()
    found = newest_events(by_advertiser.to_numpy(dtype=np.float64))
    if found is None:
        raise ValueError("there are no events")
    return found


def weekly_cutoffs(
    first: float, last: float, policy: LabelPolicy, *, anchor: float | None = None, dates_only: bool = False
) -> list[float]:
    """UTC midnights a week apart, ascending, whose windows lie wholly in the data.

    Args:
        first: Time of the oldest event, seconds since the epoch.
        last: Time of the newest event.
        policy: The windows.
        anchor: A moment whose midnight the grid runs through; the end of the data by default.
        dates_only: Events are dated by the day; see `observed_until`.

    Returns:
        Cutoffs in seconds since the epoch; empty where the data is shorter than both windows together.
    """
    end = observed_until(last, dates_only=dates_only)
    start = math.floor((end if anchor is None else anchor) / DAY_S) * DAY_S
    newest = start + math.floor((end - policy.horizon_s - start) / WEEK_S) * WEEK_S
    oldest = math.floor(first / DAY_S) * DAY_S + policy.active_window_s
    count = math.floor((newest - oldest) / WEEK_S) + 1
    return [newest - week * WEEK_S for week in reversed(range(count))]


def with_population(
    event_times: npt.NDArray[np.float64], cutoffs: Sequence[float], policy: LabelPolicy
) -> list[float]:
    """The cutoffs at which anybody is eligible; a stray event years away would else count as years of weeks.

    Args:
        event_times: Seconds since the epoch, in any order.
        cutoffs: Seconds since the epoch.
        policy: The windows.
    """
    times, now = np.sort(event_times), np.array(cutoffs, dtype=np.float64)
    active = np.searchsorted(times, now) > np.searchsorted(times, now - policy.active_window_s)
    return [float(cutoff) for cutoff in now[active]]


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
    ordered = events.sort_values("arrival", kind="stable") if "arrival" in events else events
    current = ordered.drop_duplicates(["advertiser_id", "event_id"], keep="last")
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
