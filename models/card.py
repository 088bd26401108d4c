"""What is known about a trained model, in words and numbers: everything but its estimator."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from msgspec import Struct

from models.evaluation import Evaluation
from models.matrix import Floats


class Calibration(Struct, frozen=True, kw_only=True):
    """A Platt map: `p = sigmoid(slope * logit(raw) + intercept)`."""

    slope: float
    intercept: float


class ModelCard(Struct, frozen=True, kw_only=True):
    """How a churn model was made and how good it is. JSON-able."""

    created_at: datetime
    algorithm: str  # the candidate that won the inner validation
    selection: dict[str, float]  # mean inner-validation AUC of each candidate and of recency
    feature_view: str
    feature_view_version: int
    feature_names: list[str]  # in the order of the estimator's columns
    typical: dict[str, float | None]  # training medians; null where a feature was never defined
    calibration: Calibration
    base_rate: float  # median over training weeks of the share that churned
    evaluation: Evaluation
    training_rows: int
    training_advertisers: int
    training_cutoffs: list[datetime]  # first and last
    test_cutoffs: list[datetime]  # first and last
    active_window_days: int
    horizon_days: int
    seed: int
    sklearn_version: str


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A fitted scikit-learn estimator and its card.

    The estimator's columns are `card.feature_names`, on the scale of `models.matrix.scale`. `reference` is a sample of
    its test rows, not scaled, that a rollout is held against (`models.expectation`).
    """

    estimator: Any
    card: ModelCard
    reference: Floats | None = None
