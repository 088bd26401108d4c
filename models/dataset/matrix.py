"""Feature vectors as the numbers a model sees: one place, so that training and serving cannot differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Vector = Mapping[str, float | None]


def to_raw(vectors: Sequence[Vector], names: Sequence[str]) -> Floats:
    """Vectors as an array of shape `(len(vectors), len(names))`; None and absent features become NaN."""
    values = [[vector.get(name) for name in names] for vector in vectors]
    return np.array(values, dtype=np.float64).reshape(len(vectors), len(names))


def scale(raw: Floats) -> Floats:
    """Signed logarithm of every value, same shape: spends run over six orders of magnitude. NaN stays NaN."""
    scaled: Floats = np.sign(raw) * np.log1p(np.abs(raw))
    return scaled


def logit(probabilities: Floats) -> Floats:
    """Log odds, same shape; certainties are held a little short of infinite."""
    clipped = np.clip(probabilities, 1e-6, 1.0 - 1e-6)
    odds: Floats = np.log(clipped / (1.0 - clipped))
    return odds


def calibrate(probabilities: Floats, slope: float, intercept: float) -> Floats:
    """A Platt map over raw probabilities, same shape."""
    calibrated: Floats = 1.0 / (1.0 + np.exp(-(slope * logit(probabilities) + intercept)))
    return calibrated
