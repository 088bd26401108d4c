"""What is fitted, on rows made up for the purpose."""

from __future__ import annotations

import numpy as np
import pytest

from models.dataset.inputs import INPUTS
from models.dataset.matrix import Floats
from models.training.candidates import CANDIDATES, fit_balanced, score

ROWS = 240


def _rows(seed: int = 3) -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(ROWS, len(INPUTS)))
    churned = (rng.uniform(size=ROWS) < 1.0 / (1.0 + np.exp(-raw[:, 0]))).astype(np.float64)
    return raw, churned, np.repeat(np.arange(4.0), ROWS // 4)


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_feature_nobody_has_is_no_obstacle(name: str) -> None:
    """A log without amounts defines no trend of them."""
    raw, churned, week = _rows()
    raw[:, 5] = np.nan
    fitted = fit_balanced(CANDIDATES[name](7), raw, churned, week)
    known = raw.copy()
    known[:, 5] = 4.0  # should one turn up later, it says nothing
    assert score(fitted, known) == pytest.approx(score(fitted, raw))
