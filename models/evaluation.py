"""How good are the probabilities, next to recency alone, on rows later than anything trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from msgspec import Struct

Floats = npt.NDArray[np.float64]

CONFIDENT = 0.8
_EDGE = 1e-6  # log loss of a wrong certainty stays finite


class Scores(Struct, frozen=True, kw_only=True):
    """One model on one set of rows. Lower is better for `brier` and `log_loss`."""

    auc: float
    average_precision: float
    brier: float
    log_loss: float


class CalibrationBin(Struct, frozen=True, kw_only=True):
    """Predictions in `[low, high)` (the last bin includes 1) and how often churn followed."""

    low: float
    high: float
    rows: int
    predicted: float | None  # mean probability; null in an empty bin
    observed: float | None  # share that churned


class Evaluation(Struct, frozen=True, kw_only=True):
    """The model and the recency baseline on the same test rows."""

    rows: int
    advertisers: int
    base_rate: float
    model: Scores
    baseline: Scores
    auc_gain: float  # model minus baseline
    auc_gain_low: float  # 95% interval, resampling advertisers with all their rows
    auc_gain_high: float
    calibration: list[CalibrationBin]
    confident_share: float  # of predictions with max(p, 1 - p) >= 0.8
    confident_accuracy: float | None  # among those; null where there are none

    @property
    def beats_baseline(self) -> bool:
        """Whether the whole interval of the gain lies above 0."""
        return self.auc_gain_low > 0.0


@dataclass(frozen=True, slots=True)
class EvaluationPolicy:
    """How much resampling, and from which seed."""

    resamples: int = 400
    bins: int = 10
    seed: int = 7


class _Ranking:
    """Scores sorted once, so that each weighted AUC is two passes over the rows."""

    def __init__(self, churned: Floats, scores: Floats) -> None:
        distinct, self._rank = np.unique(scores, return_inverse=True)
        self._size = len(distinct)
        self._churned = churned

    def auc(self, weights: Floats) -> float:
        """Chance that a churned row outranks one that stayed, ties counting half; NaN with one class only."""
        positive = np.bincount(self._rank, weights * self._churned, self._size)
        negative = np.bincount(self._rank, weights * (1.0 - self._churned), self._size)
        pairs = positive.sum() * negative.sum()
        below = np.cumsum(negative) - negative / 2.0
        return float(positive @ below / pairs) if pairs else float("nan")


def auc(churned: Floats, scores: Floats) -> float:
    """Area under the ROC curve; both arrays are of shape `(rows,)`, `churned` holds 0 and 1."""
    return _Ranking(churned, scores).auc(np.ones_like(scores))


def score(churned: Floats, probabilities: Floats) -> Scores:
    """Ranking and probability measures of one model; both arrays are of shape `(rows,)`."""
    clipped = np.clip(probabilities, _EDGE, 1.0 - _EDGE)
    losses = churned * np.log(clipped) + (1.0 - churned) * np.log(1.0 - clipped)
    return Scores(
        auc=auc(churned, probabilities),
        average_precision=_average_precision(churned, probabilities),
        brier=float(np.mean((probabilities - churned) ** 2)),
        log_loss=float(-np.mean(losses)),
    )


def calibration_table(churned: Floats, probabilities: Floats, bins: int = 10) -> list[CalibrationBin]:
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


def evaluate(
    churned: Floats,
    model: Floats,
    baseline: Floats,
    advertisers: npt.NDArray[np.int64],
    policy: EvaluationPolicy | None = None,
) -> Evaluation:
    """Compare two sets of probabilities for the same rows.

    Args:
        churned: 0 or 1, shape `(rows,)`; both must occur.
        model: Probabilities of the model, shape `(rows,)`.
        baseline: Probabilities of the baseline, shape `(rows,)`.
        advertisers: An integer code per advertiser from 0 up, shape `(rows,)`.
        policy: Resampling; 400 times by default.
    """
    policy = policy or EvaluationPolicy()
    low, high = _gain_interval(churned, model, baseline, advertisers, policy)
    model_scores, baseline_scores = score(churned, model), score(churned, baseline)
    confident = np.maximum(model, 1.0 - model) >= CONFIDENT
    right = (model >= 0.5) == (churned == 1.0)
    return Evaluation(
        rows=len(churned),
        advertisers=len(np.unique(advertisers)),
        base_rate=float(churned.mean()),
        model=model_scores,
        baseline=baseline_scores,
        auc_gain=model_scores.auc - baseline_scores.auc,
        auc_gain_low=low,
        auc_gain_high=high,
        calibration=calibration_table(churned, model, policy.bins),
        confident_share=float(confident.mean()),
        confident_accuracy=float(right[confident].mean()) if confident.any() else None,
    )


def _gain_interval(
    churned: Floats,
    model: Floats,
    baseline: Floats,
    advertisers: npt.NDArray[np.int64],
    policy: EvaluationPolicy,
) -> tuple[float, float]:
    """Rows of one advertiser resemble each other, so whole advertisers are drawn."""
    rng = np.random.default_rng(policy.seed)
    first, second = _Ranking(churned, model), _Ranking(churned, baseline)
    population = int(advertisers.max()) + 1
    gains = []
    for _ in range(policy.resamples):
        drawn = np.bincount(rng.integers(0, population, population), minlength=population)
        weights = drawn[advertisers].astype(np.float64)
        gains.append(first.auc(weights) - second.auc(weights))
    low, high = np.nanpercentile(gains, (2.5, 97.5))
    return float(low), float(high)


def _average_precision(churned: Floats, scores: Floats) -> float:
    """Area under precision over recall, in steps, tied scores taken together."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(churned[order])
    last_of_tie = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    recall = hits[last_of_tie] / hits[-1]
    precision = hits[last_of_tie] / (last_of_tie + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))
