"""How a model is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.dataset.labels import (
    LabelPolicy,
)
from models.evaluation.certification import (
    CertificationPolicy,
)
from models.evaluation.evaluation import EvaluationPolicy


@dataclass(frozen=True, slots=True)
class TrainingPolicy:
    """How a model is trained. Shares are of cutoffs or of accounts, between 0 and 1."""

    labels: LabelPolicy = field(default_factory=LabelPolicy)
    test_share: float = 0.25  # of the cutoffs, the newest; where no date is given
    min_cutoffs: int = 16  # where no date is given
    min_train_cutoffs: int = 6
    min_rows: int = 200  # labelled rows to train on
    min_calibration_rows: int = 50
    min_test_rows: int = 50
    folds: int = 4
    fold_share: float = 0.6  # of the cutoffs before the calibration window, validated on in turn
    calibration_share: float = 0.25  # of the training cutoffs, the newest
    calibration_accounts: float = 0.5  # held out from fitting
    certification: CertificationPolicy = field(default_factory=CertificationPolicy)
    seed: int = 7
    evaluation: EvaluationPolicy = field(default_factory=EvaluationPolicy)

    @property
    def min_span_days(self) -> int:
        """Days of data that hold `min_cutoffs` weekly cutoffs with complete windows."""
        return self.labels.active_window_days + self.labels.horizon_days + 7 * (self.min_cutoffs - 1)
