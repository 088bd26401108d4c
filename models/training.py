"""From events to a measured churn model.

    events ─► weekly cutoffs ─► labels + point-in-time features ─► temporal split ─► candidates on rolling inner folds
           ─► best candidate, refitted on all training rows, Platt-calibrated on the inner folds ─► test, once

Two decisions carry the result:

- *Weeks are balanced.* Some weeks nearly everybody leaves (an election ends), others hardly anyone. Left alone, a model
  learns the calendar. Each week's churned and remaining rows get equal weight, so it learns who leaves within a week;
  the level comes back with the calibration, on the newest inner folds.
- *What was measured is what serves.* The model is not refitted on the test rows: the figures are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import sklearn
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from features.offline import point_in_time
from models.card import Calibration, ModelCard, TrainedModel
from models.evaluation import Evaluation, EvaluationPolicy, auc, evaluate
from models.inputs import INPUTS, INPUTS_NAME, INPUTS_VERSION
from models.labels import DAY_S, LabelPolicy, label, observed_until, weekly_cutoffs
from models.matrix import Floats, calibrate, logit, scale
from models.split import Split, TooLittleDataError, rolling_folds, temporal_split
from tocsin.clock import to_datetime

RECENCY = "days_since_last_campaign"
_MORE = "import more activity, then run `tocsin train` again"


@dataclass(frozen=True, slots=True)
class TrainingPolicy:
    """How a model is trained. Durations are whole days; the embargo is always the label horizon."""

    labels: LabelPolicy = field(default_factory=LabelPolicy)
    test_share: float = 0.25  # of the cutoffs, the newest
    min_cutoffs: int = 16
    min_rows: int = 200  # labelled rows to train on
    min_test_rows: int = 50
    folds: int = 4
    fold_share: float = 0.6  # of the training cutoffs, validated on in turn
    calibration_folds: int = 2  # the newest
    seed: int = 7
    evaluation: EvaluationPolicy = field(default_factory=EvaluationPolicy)

    @property
    def min_span_days(self) -> int:
        """Days of data that hold `min_cutoffs` weekly cutoffs with complete windows."""
        return self.labels.active_window_days + self.labels.horizon_days + 7 * (self.min_cutoffs - 1)


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Rows with their answer. Arrays share their first axis, `rows`."""

    raw: Floats  # (rows, features), NaN where not defined
    churned: Floats  # 0 or 1
    as_of: Floats  # the cutoff, seconds since the epoch
    advertisers: npt.NDArray[np.int64]  # an integer code per advertiser

    def at(self, cutoffs: Sequence[float]) -> LabelledSet:
        """The rows of some cutoffs."""
        keep = np.isin(self.as_of, cutoffs)
        return LabelledSet(self.raw[keep], self.churned[keep], self.as_of[keep], self.advertisers[keep])

    @property
    def one_class(self) -> bool:
        """Whether all rows have the same answer (or there are none)."""
        return len(np.unique(self.churned)) < 2


def _logistic(_: int) -> list[tuple[str, Any]]:
    return [
        ("impute", SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)),
        ("standardize", StandardScaler()),
        ("classify", LogisticRegression(C=0.03, max_iter=500)),
    ]


def _boosting(seed: int) -> list[tuple[str, Any]]:
    small = HistGradientBoostingClassifier(
        max_leaf_nodes=4,
        max_iter=100,
        learning_rate=0.05,
        min_samples_leaf=60,
        l2_regularization=5.0,
        early_stopping=False,  # it would validate on random rows, which is no validation in time
        random_state=seed,
    )
    return [("classify", small)]


CANDIDATES: Mapping[str, Callable[[int], list[tuple[str, Any]]]] = {
    "logistic": _logistic,
    "boosting": _boosting,
}


def labelled_set(events: pd.DataFrame, cutoffs: Sequence[float], policy: LabelPolicy) -> LabelledSet:
    """Labels and the features as they were at each cutoff.

    Args:
        events: As made by `features.offline.event_frame`.
        cutoffs: Ascending, seconds since the epoch, label windows complete.
        policy: The windows.
    """
    rows = point_in_time(events, label(events, cutoffs, policy), features=INPUTS)
    return LabelledSet(
        raw=rows[list(INPUTS)].to_numpy(dtype=np.float64, na_value=np.nan),
        churned=rows["churned"].to_numpy(dtype=np.float64),
        as_of=rows["as_of"].to_numpy(dtype=np.float64),
        advertisers=pd.factorize(rows["advertiser_id"])[0].astype(np.int64),
    )


def train(events: pd.DataFrame, policy: TrainingPolicy | None = None, *, now: float) -> TrainedModel:
    """Train, choose, calibrate and measure a churn model.

    Args:
        events: As made by `features.offline.event_frame`, in any order of time.
        policy: Split, sizes and seed.
        now: Written down as the time of creation, seconds since the epoch; nothing else depends on it.

    Raises:
        TooLittleDataError: Too short a span, too few rows, or one class only; says what was found and is needed.
    """
    policy = policy or TrainingPolicy()
    cutoffs = _cutoffs(events, policy)
    split = temporal_split(cutoffs, policy.test_share, policy.labels.horizon_s)
    rows = labelled_set(events, (*split.train, *split.test), policy.labels)
    fitted, tested = rows.at(split.train), rows.at(split.test)
    _check(fitted, policy.min_rows, "train on")
    _check(tested, policy.min_test_rows, "test on")
    selection, held_out = _select(fitted, _folds(fitted, split, policy), policy)
    winner = max(CANDIDATES, key=selection.__getitem__)
    estimator = fit(CANDIDATES[winner](policy.seed), fitted)
    calibration = _platt(held_out[winner], policy.calibration_folds)
    return TrainedModel(
        estimator=estimator,
        card=_card(
            fitted,
            split,
            policy,
            algorithm=winner,
            selection=selection,
            calibration=calibration,
            evaluation=_test(estimator, calibration, fitted, tested, policy),
            now=now,
        ),
    )


def fit(steps: list[tuple[str, Any]], rows: LabelledSet) -> Any:
    """A pipeline fitted on week-balanced rows."""
    weights = week_balanced(rows.churned, rows.as_of)
    return Pipeline(steps).fit(scale(rows.raw), rows.churned, classify__sample_weight=weights)


def week_balanced(churned: Floats, as_of: Floats) -> Floats:
    """Weights of shape `(rows,)`, mean 1: both outcomes weigh the same within each cutoff.

    A cutoff's total is `rows * rate * (1 - rate)`: one where nearly everybody left tells little about who leaves.
    """
    _, week = np.unique(as_of, return_inverse=True)
    rate = np.clip(np.bincount(week, churned) / np.bincount(week), 0.01, 0.99)[week]
    weights = np.where(churned == 1.0, 1.0 - rate, rate)
    balanced: Floats = weights / weights.mean()
    return balanced


def _cutoffs(events: pd.DataFrame, policy: TrainingPolicy) -> list[float]:
    if events.empty:
        raise TooLittleDataError("there is no activity to train on", hint=_MORE)
    first, last = float(events["event_time"].min()), float(events["event_time"].max())
    cutoffs = weekly_cutoffs(first, last, policy.labels)
    if len(cutoffs) < policy.min_cutoffs:
        days = max(0, int((observed_until(last) - first) // DAY_S))
        raise TooLittleDataError(
            f"the activity spans {days} days; training needs {policy.min_span_days} "
            f"({policy.min_cutoffs} weekly cutoffs, {policy.labels.active_window_days} days before the first and "
            f"{policy.labels.horizon_days} after the last)",
            hint=_MORE,
        )
    return cutoffs


def _check(rows: LabelledSet, minimum: int, purpose: str) -> None:
    found = len(rows.churned)
    if found < minimum:
        raise TooLittleDataError(f"{found} labelled rows to {purpose}; {minimum} are needed", hint=_MORE)
    if rows.one_class:
        outcome = "churned" if rows.churned[0] else "stayed"
        raise TooLittleDataError(
            f"all {found} labelled rows to {purpose} {outcome}; both outcomes are needed", hint=_MORE
        )


def _folds(rows: LabelledSet, split: Split, policy: TrainingPolicy) -> list[Split]:
    folds = [
        fold
        for fold in rolling_folds(split.train, policy.folds, policy.fold_share, policy.labels.horizon_s)
        if not (rows.at(fold.train).one_class or rows.at(fold.test).one_class)
    ]
    if not folds:
        raise TooLittleDataError(
            f"none of {policy.folds} inner folds has both outcomes before and after its cut", hint=_MORE
        )
    return folds


def _raw_probability(estimator: Any, raw: Floats) -> Floats:
    probability: Floats = estimator.predict_proba(scale(raw))[:, 1]
    return probability


def _select(
    rows: LabelledSet, folds: Sequence[Split], policy: TrainingPolicy
) -> tuple[dict[str, float], dict[str, list[tuple[Floats, Floats]]]]:
    """Mean AUC of each candidate and of recency over the folds; each candidate's held-out (raw, churned) by fold."""
    aucs: dict[str, list[float]] = {name: [] for name in (*CANDIDATES, "recency")}
    held_out: dict[str, list[tuple[Floats, Floats]]] = {name: [] for name in CANDIDATES}
    for fold in folds:
        earlier, later = rows.at(fold.train), rows.at(fold.test)
        aucs["recency"].append(auc(later.churned, later.raw[:, INPUTS.index(RECENCY)]))
        for name, steps in CANDIDATES.items():
            raw = _raw_probability(fit(steps(policy.seed), earlier), later.raw)
            aucs[name].append(auc(later.churned, raw))
            held_out[name].append((raw, later.churned))
    return {name: float(np.mean(values)) for name, values in aucs.items()}, held_out


def _platt(held_out: Sequence[tuple[Floats, Floats]], newest: int) -> Calibration:
    """One logistic map fitted on predictions for weeks the predicting model had not seen."""
    raw = np.concatenate([part[0] for part in held_out[-newest:]])
    churned = np.concatenate([part[1] for part in held_out[-newest:]])
    line = LogisticRegression(C=1e3).fit(logit(raw)[:, None], churned)
    return Calibration(slope=float(line.coef_[0, 0]), intercept=float(line.intercept_[0]))


def _test(
    estimator: Any, calibration: Calibration, fitted: LabelledSet, tested: LabelledSet, policy: TrainingPolicy
) -> Evaluation:
    """The one look at the test rows."""
    column = [INPUTS.index(RECENCY)]
    recency = LogisticRegression().fit(fitted.raw[:, column], fitted.churned)
    return evaluate(
        tested.churned,
        calibrate(_raw_probability(estimator, tested.raw), calibration.slope, calibration.intercept),
        recency.predict_proba(tested.raw[:, column])[:, 1],
        tested.advertisers,
        replace(policy.evaluation, seed=policy.seed),
    )


def _card(
    fitted: LabelledSet,
    split: Split,
    policy: TrainingPolicy,
    *,
    algorithm: str,
    selection: dict[str, float],
    calibration: Calibration,
    evaluation: Evaluation,
    now: float,
) -> ModelCard:
    _, week = np.unique(fitted.as_of, return_inverse=True)
    weekly_rates = np.bincount(week, fitted.churned) / np.bincount(week)
    return ModelCard(
        created_at=to_datetime(now),
        algorithm=algorithm,
        selection=selection,
        feature_view=INPUTS_NAME,
        feature_view_version=INPUTS_VERSION,
        feature_names=list(INPUTS),
        typical=_typical(fitted.raw),
        calibration=calibration,
        base_rate=float(np.median(weekly_rates)),
        evaluation=evaluation,
        training_rows=len(fitted.churned),
        training_advertisers=len(np.unique(fitted.advertisers)),
        training_cutoffs=[to_datetime(split.train[0]), to_datetime(split.train[-1])],
        test_cutoffs=[to_datetime(split.test[0]), to_datetime(split.test[-1])],
        active_window_days=policy.labels.active_window_days,
        horizon_days=policy.labels.horizon_days,
        seed=policy.seed,
        sklearn_version=sklearn.__version__,
    )


def _typical(raw: Floats) -> dict[str, float | None]:
    medians: dict[str, float | None] = {}
    for index, name in enumerate(INPUTS):
        known = raw[:, index][~np.isnan(raw[:, index])]
        medians[name] = float(np.median(known)) if len(known) else None
    return medians
