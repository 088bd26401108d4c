"""From scores to probabilities: one logistic map whose level is that of the average week.

Churn comes with week effects: in some weeks everybody is likelier to leave. So the map is fitted with an effect for
each week, `p = sigmoid(slope * logit(score) + effect[week])`, the slope from within the weeks and the effects held
back where a week tells little; a coming week, whose effect nobody knows, gets their mean. Pooling the rows instead
would let the week with the most rows set the level.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from sklearn.linear_model import LogisticRegression

from models.dataset.matrix import Floats, logit

_FAR = 30.0  # log odds no score lies beyond
_HELD_BACK = 10.0  # inverse strength of the ridge on slope and week effects


class Calibration(Struct, frozen=True, kw_only=True):
    """A Platt map: `p = sigmoid(slope * logit(raw) + intercept)`."""

    slope: float
    intercept: float

    @property
    def middle(self) -> float:
        """The score whose probability is one half."""
        odds = np.clip(-self.intercept / self.slope, -_FAR, _FAR)
        return float(1.0 / (1.0 + np.exp(-odds)))


def calibrate_weeks(scores: Floats, churned: Floats, as_of: Floats) -> Calibration:
    """The map for the average of some weeks; arrays are of shape `(rows,)`, both outcomes must occur.

    A slope that is not positive would turn the ranking round: then the scores say nothing, and everybody gets the
    average week's rate.
    """
    _, week = np.unique(as_of, return_inverse=True)
    weeks = int(week.max()) + 1
    columns = np.column_stack([logit(scores), np.eye(weeks)[week]])
    model = LogisticRegression(C=_HELD_BACK, fit_intercept=False, max_iter=2_000).fit(columns, churned)
    slope = float(model.coef_[0, 0])
    if slope > 0.0:
        return Calibration(slope=slope, intercept=float(model.coef_[0, 1:].mean()))
    rates = np.bincount(week, churned) / np.bincount(week)
    return Calibration(slope=1e-6, intercept=float(logit(np.array([rates.mean()]))[0]))
