"""Labelled rows, and the parts of them that reports look at one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.offline.point_in_time import point_in_time
from models.dataset.inputs import INPUTS
from models.dataset.labels import LabelPolicy, label
from models.dataset.matrix import Floats
from models.dataset.split import account_positions
from models.evaluation.evaluation import Segmentation

_TENURE_WEEKS = (8, 26)


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Rows with their answer. Arrays share their first axis, `rows`."""

    raw: Floats  # (rows, features), NaN where not defined
    churned: Floats  # 0 or 1
    as_of: Floats  # the cutoff, seconds since the epoch
    advertisers: npt.NDArray[np.int64]  # an integer code per advertiser
    positions: Floats  # of the advertiser, in [0, 1), by its id; see `models.dataset.split.account_positions`

    def at(self, cutoffs: Sequence[float]) -> LabelledSet:
        """The rows of some cutoffs."""
        return self.where(np.isin(self.as_of, cutoffs))

    def where(self, keep: npt.NDArray[np.bool_]) -> LabelledSet:
        """Some rows, by a mask of shape `(rows,)`."""
        return LabelledSet(
            self.raw[keep],
            self.churned[keep],
            self.as_of[keep],
            self.advertisers[keep],
            self.positions[keep],
        )

    @property
    def one_class(self) -> bool:
        """Whether all rows have the same answer (or there are none)."""
        return len(np.unique(self.churned)) < 2


def labelled_set(events: pd.DataFrame, cutoffs: Sequence[float], policy: LabelPolicy) -> LabelledSet:
    """Labels and the features as they were at each cutoff.

    Args:
        events: As made by `features.offline.point_in_time.event_frame`.
        cutoffs: Ascending, seconds since the epoch, label windows complete.
        policy: The windows.
    """
    rows = label(events, cutoffs, policy)
    codes, names = pd.factorize(rows["advertiser_id"])
    return LabelledSet(
        raw=features_at(events, rows),
        churned=rows["churned"].to_numpy(dtype=np.float64),
        as_of=rows["as_of"].to_numpy(dtype=np.float64),
        advertisers=codes.astype(np.int64),
        positions=account_positions(names)[codes] if len(names) else np.zeros(0),
    )


def features_at(events: pd.DataFrame, entities: pd.DataFrame) -> Floats:
    """The model's inputs for rows of `advertiser_id` and `as_of`, shape `(rows, inputs)`; NaN where not defined."""
    found = point_in_time(events, entities[["advertiser_id", "as_of"]], features=INPUTS)
    values: Floats = found[list(INPUTS)].to_numpy(dtype=np.float64, na_value=np.nan)
    return values


def segments_of(rows: LabelledSet, names: Sequence[str]) -> dict[str, Segmentation]:
    """By how long an advertiser has been there, and by what it spent in the last 28 days (thirds of those who did)."""
    weeks = np.nan_to_num(rows.raw[:, names.index("tenure_days")]) / 7.0
    low, high = _TENURE_WEEKS
    spend = np.nan_to_num(rows.raw[:, names.index("spend_28d")])
    paying = spend[spend > 0]
    first, second = np.quantile(paying, (1 / 3, 2 / 3)) if len(paying) else (0.0, 0.0)
    return {
        "tenure": Segmentation(
            (f"up to {low} weeks", f"{low} to {high} weeks", f"over {high} weeks"),
            np.digitize(weeks, _TENURE_WEEKS, right=True).astype(np.int64),
        ),
        "spend in 28 days": Segmentation(
            ("nothing", f"up to {first:,.0f}", f"{first:,.0f} to {second:,.0f}", f"over {second:,.0f}"),
            np.where(spend <= 0, 0, 1 + np.digitize(spend, (first, second), right=True)).astype(np.int64),
        ),
    }
