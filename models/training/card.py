"""What is known about a trained model, in words and numbers: everything but its estimator."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from msgspec import Struct

from models.dataset.labels import LabelCounts
from models.dataset.matrix import Floats
from models.evaluation.certification import Certificate
from models.evaluation.evaluation import Evaluation, Judged
from models.evaluation.leakage import Finding
from models.training.calibration import Calibration

__all__ = ["Calibration", "ModelCard", "TrainedModel"]


class ModelCard(Struct, frozen=True, kw_only=True):
    """How a churn model was made and how good it is. JSON-able."""

    created_at: datetime
    algorithm: str  # the candidate taken after the inner validation
    selection: dict[
        str, float
    ]  # mean inner-validation AUC of each candidate and of recency; empty: too short
    feature_view: str
    feature_view_version: int
    feature_names: list[str]  # in the order of the estimator's columns
    typical: dict[str, float | None]  # training medians; null where a feature was never defined
    calibration: Calibration
    base_rate: float  # median over training weeks of the share that churned
    evaluation: Evaluation
    training_rows: int  # fitted on
    training_advertisers: int  # among them
    training_cutoffs: list[datetime]  # first and last
    test_cutoffs: list[datetime]  # first and last
    active_window_days: int
    horizon_days: int
    seed: int
    sklearn_version: str
    embargo_days: int = 0
    label: str = ""  # the definition, in a sentence
    # Accounts of the training weeks on the fitting side, on the calibrating side, and everybody in the test.
    labels: dict[str, LabelCounts] = {}
    calibration_cutoffs: list[datetime] = []  # first and last
    certificates: list[Certificate] = []  # churn, then stays; thresholds are calibrated probabilities
    findings: list[Finding] = []  # of the leakage gate

    @property
    def calibrated_at(self) -> datetime | None:
        """The newest week the probabilities were fitted to; None in a card that does not say."""
        return self.calibration_cutoffs[-1] if self.calibration_cutoffs else None


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A fitted scikit-learn estimator and its card.

    The estimator's columns are `card.feature_names`, on the scale of `models.dataset.matrix.scale`. `judged` holds
    the test rows behind `card.evaluation`; it is not stored. `reference` is a sample of their features, not scaled,
    that a rollout is held against (`models.evaluation.expected_difference`); it is.
    """

    estimator: Any
    card: ModelCard
    judged: Judged | None = None
    reference: Floats | None = None
