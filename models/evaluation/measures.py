"""Measures of probabilities against what happened. All of them read a tally, so resampling costs a pass each.

rows ──Ranked──► distinct scores ──weights──► Tally: who churned and who stayed at each score ──► measures
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from msgspec import Struct

Floats = npt.NDArray[np.float64]

BINS = 10
_EDGE = 1e-6  # log loss of a wrong certainty stays finite


class CalibrationBin(Struct, frozen=True, kw_only=True):
    """Predictions in `[low, high)` (the last bin includes 1) and how often churn followed."""

    low: float
    high: float
    rows: int
    predicted: float | None  # mean probability; null in an empty bin
    observed: float | None  # share that churned


@dataclass(frozen=True, slots=True)
class Tally:
    """Weight of the rows that churned and that stayed at each distinct score, ascending; arrays share a shape."""

    scores: Floats
    churned: Floats
    stayed: Floats

    @property
    def total(self) -> float:
        """Weight of all rows."""
        return float(self.churned.sum() + self.stayed.sum())

    @property
    def base_rate(self) -> float:
        """Share that churned."""
        return float(self.churned.sum() / self.total)

    def auc(self) -> float:
        """Chance that a churned row outranks one that stayed, ties counting half; NaN with one class only."""
        pairs = float(self.churned.sum() * self.stayed.sum())
        below = np.cumsum(self.stayed) - self.stayed / 2.0
        return float(self.churned @ below / pairs) if pairs else float("nan")

    def average_precision(self) -> float:
        """Area under precision over recall, in steps, tied scores taken together; NaN where nobody churned."""
        hits = np.cumsum(self.churned[::-1])
        rows = hits + np.cumsum(self.stayed[::-1])
        if not hits[-1]:
            return float("nan")
        precision = np.divide(hits, rows, out=np.zeros_like(hits), where=rows > 0)
        return float(np.sum(np.diff(hits / hits[-1], prepend=0.0) * precision))

    def brier(self) -> float:
        """Mean squared distance of probability and outcome."""
        return float((self.churned @ (1.0 - self.scores) ** 2 + self.stayed @ self.scores**2) / self.total)

    def log_loss(self) -> float:
        """Mean negative log likelihood, in nats."""
        clipped = np.clip(self.scores, _EDGE, 1.0 - _EDGE)
        return float(-(self.churned @ np.log(clipped) + self.stayed @ np.log(1.0 - clipped)) / self.total)

    def calibration_error(self, bins: int = BINS) -> float:
        """Expected calibration error: mean distance of predicted and observed over bins of equal width, by rows."""
        place = np.minimum((self.scores * bins).astype(np.int64), bins - 1)
        rows = self.churned + self.stayed
        gaps = np.bincount(place, rows * self.scores - self.churned, bins)
        return float(np.abs(gaps).sum() / self.total)

    def lift(self, share: float) -> float:
        """How many times the base rate churns among the highest `share` of the rows; ties count in part."""
        return self.found(share) / share

    def found(self, share: float) -> float:
        """The share of all who churned that is among the highest `share` of the rows; NaN where nobody did."""
        rows = np.cumsum((self.churned + self.stayed)[::-1])
        hits = np.cumsum(self.churned[::-1])
        if not hits[-1]:
            return float("nan")
        return float(np.interp(share * rows[-1], np.append(0.0, rows), np.append(0.0, hits)) / hits[-1])


class Ranked:
    """Scores sorted once; `tally` weighs them again. Both arrays are of shape `(rows,)`, `churned` holds 0 and 1."""

    def __init__(self, churned: Floats, scores: Floats) -> None:
        self._distinct, self._rank = np.unique(scores, return_inverse=True)
        self._churned = churned

    def tally(self, weights: Floats | None = None) -> Tally:
        """The tally with a weight for each row, shape `(rows,)`; 1 by default."""
        weights = np.ones_like(self._churned) if weights is None else weights
        size = len(self._distinct)
        return Tally(
            self._distinct,
            np.bincount(self._rank, weights * self._churned, size).astype(np.float64),
            np.bincount(self._rank, weights * (1.0 - self._churned), size).astype(np.float64),
        )


def auc(churned: Floats, scores: Floats) -> float:
    """Area under the ROC curve; both arrays are of shape `(rows,)`, `churned` holds 0 and 1."""
    return Ranked(churned, scores).tally().auc()


def calibration_table(churned: Floats, probabilities: Floats, bins: int = BINS) -> list[CalibrationBin]:
    """Equal-width bins of predicted probability with the churn that followed."""
    place = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    table = []
    for index in range(bins):
        inside = place == index
        rows = int(inside.sum())
        table.append(
            CalibrationBin(
                low=index / bins,
                high=(index + 1) / bins,
                rows=rows,
                predicted=float(probabilities[inside].mean()) if rows else None,
                observed=float(churned[inside].mean()) if rows else None,
            )
        )
    return table


def recentred(churned: Floats, probabilities: Floats) -> Floats:
    """The same probabilities, their log odds moved by one number so that their mean is the share that churned.

    What calibration error is left then is one of shape; the rest was the level of the weeks.
    """
    clipped = np.clip(probabilities, _EDGE, 1.0 - _EDGE)
    odds = np.log(clipped / (1.0 - clipped))
    low, high = -30.0, 30.0
    for _ in range(60):  # bisection: the mean rises with the shift
        shift = (low + high) / 2.0
        if np.mean(1.0 / (1.0 + np.exp(-(odds + shift)))) < churned.mean():
            low = shift
        else:
            high = shift
    moved: Floats = 1.0 / (1.0 + np.exp(-(odds + (low + high) / 2.0)))
    return moved
