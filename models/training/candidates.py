"""What may become the churn model, and the two baselines it has to beat.

| name | what it is |
|---|---|
| `logistic` | regularised logistic regression, weeks balanced |
| `boosting` | small gradient boosting, weeks balanced |
| `blend` | the mean of both: what is taken unless one of them is clearly better alone |
| *recency baseline* | days since the last activity, alone |
| *logistic baseline* | logistic regression as anybody would fit it: standardised columns, every row alike |

*Weeks are balanced.* Some weeks nearly everybody leaves (an election ends), others hardly anyone. Left alone, a model
learns the calendar. Each week's churned and remaining rows get equal weight, so it learns who leaves within a week;
the level comes back with the calibration. Every candidate is made of scikit-learn's own types, so that it is stored
without pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from models.dataset.matrix import Floats, scale

RECENCY = "days_since_last_campaign"
BLENDED = ("logistic", "boosting")  # what `blend` is the mean of
FALLBACK = "blend"
CLEARLY = 0.01  # of AUC: so much better on the folds, a part of the blend is taken alone
_LEAST_SLOPE = 1e-6  # log odds a day

Steps = list[tuple[str, Any]]


def _prepared() -> Steps:
    return [
        ("impute", SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)),
        ("standardize", StandardScaler()),
    ]


def regression() -> LogisticRegression:
    """The regularised logistic regression among the candidates."""
    return LogisticRegression(max_iter=1_000)


def trees(seed: int) -> HistGradientBoostingClassifier:
    """The small gradient boosting among the candidates."""
    return HistGradientBoostingClassifier(
        max_leaf_nodes=4,
        max_iter=100,
        learning_rate=0.05,
        min_samples_leaf=60,
        l2_regularization=5.0,
        early_stopping=False,  # it would validate on random rows, which is no validation in time
        random_state=seed,
    )


def _logistic(_: int) -> Steps:
    return [*_prepared(), ("classify", regression())]


def _boosting(seed: int) -> Steps:
    return [("classify", trees(seed))]


def _blend(seed: int) -> Steps:
    both = [("logistic", regression()), ("boosting", trees(seed))]
    return [*_prepared(), ("classify", VotingClassifier(both, voting="soft"))]


CANDIDATES: Mapping[str, Callable[[int], Steps]] = {
    "logistic": _logistic,
    "boosting": _boosting,
    "blend": _blend,
}


def fit_balanced(steps: Steps, raw: Floats, churned: Floats, as_of: Floats) -> Any:
    """A pipeline fitted on week-balanced rows; `raw` is of shape `(rows, features)`, the others `(rows,)`."""
    weights = week_balanced(churned, as_of)
    scaled = scale(raw)
    nobodys = np.isnan(scaled).all(axis=0)
    scaled[:, nobodys] = 0.0  # a column without any value cannot be binned; on this nothing splits
    fitted = Pipeline(steps).fit(scaled, churned, classify__sample_weight=weights)
    if hasattr(fitted[-1], "named_estimators_"):
        del fitted[-1].named_estimators_  # a second way to the same parts, of a type that is not stored
    return fitted


def score(estimator: Any, raw: Floats) -> Floats:
    """The share of votes for churn, before calibration, shape `(rows,)`."""
    probability: Floats = estimator.predict_proba(scale(raw))[:, 1]
    return probability


def choose(selection: Mapping[str, float]) -> str:
    """The candidate to take, given the mean AUC of each: the blend, unless a part of it is clearly better alone.

    Folds are few and their weeks alike, so a small lead of one part is luck more often than not.
    """
    best = max(BLENDED, key=lambda name: selection.get(name, 0.0))
    return best if selection.get(best, 0.0) > selection.get(FALLBACK, 1.0) + CLEARLY else FALLBACK


def week_balanced(churned: Floats, as_of: Floats) -> Floats:
    """Weights of shape `(rows,)`, mean 1: both outcomes weigh the same within each cutoff.

    A cutoff's total is `rows * rate * (1 - rate)`: one where nearly everybody left tells little about who leaves.
    """
    _, week = np.unique(as_of, return_inverse=True)
    rate = np.clip(np.bincount(week, churned) / np.bincount(week), 0.01, 0.99)[week]
    weights = np.where(churned == 1.0, 1.0 - rate, rate)
    balanced: Floats = weights / weights.mean()
    return balanced


def recency_baseline(recency: Floats, churned: Floats, later: Floats) -> Floats:
    """Probabilities of the recency baseline for `later`; all are days, of shape `(rows,)`.

    Ranks by the days alone, longer silence being more risk. Days not known count as none.
    """
    model = LogisticRegression().fit(np.nan_to_num(recency)[:, None], churned)
    slope, level = float(model.coef_[0, 0]), float(model.intercept_[0])
    odds = max(slope, _LEAST_SLOPE) * np.nan_to_num(later) + level  # a rule of thumb does not turn round
    probabilities: Floats = 1.0 / (1.0 + np.exp(-odds))
    return probabilities


def logistic_baseline(raw: Floats, churned: Floats, later: Floats) -> Floats:
    """Probabilities of a plain logistic regression on the same features, for rows of shape `(rows, features)`."""
    steps = [*_prepared(), ("classify", LogisticRegression(max_iter=1_000))]
    model = Pipeline(steps).fit(scale(raw), churned)
    probabilities: Floats = model.predict_proba(scale(later))[:, 1]
    return probabilities
