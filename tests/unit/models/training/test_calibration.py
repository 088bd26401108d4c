from __future__ import annotations

import numpy as np
import pytest

from models.dataset.matrix import Floats, calibrate
from models.training.calibration import Calibration, calibrate_weeks


def _weeks(effects: list[float], rows: int, seed: int = 1) -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 1.5, (len(effects), rows))
    churned = rng.uniform(size=odds.shape) < 1 / (1 + np.exp(-(2.0 * odds + np.array(effects)[:, None])))
    weeks = np.repeat(np.arange(len(effects), dtype=np.float64), rows)
    return 1 / (1 + np.exp(-odds.ravel())), churned.ravel().astype(np.float64), weeks


def test_slope_and_level_of_the_average_week_are_found() -> None:
    found = calibrate_weeks(*_weeks([-1.5, -1.0, -0.5], 4_000))
    assert found.slope == pytest.approx(2.0, rel=0.1)
    assert found.intercept == pytest.approx(-1.0, abs=0.15)


def test_a_week_with_many_rows_does_not_set_the_level() -> None:
    scores, churned, weeks = _weeks([-1.0, -1.0, -1.0, 3.0], 1_000)
    many = np.concatenate([np.arange(3_000), np.repeat(np.arange(3_000, 4_000), 10)])
    once = calibrate_weeks(scores, churned, weeks)
    often = calibrate_weeks(scores[many], churned[many], weeks[many])
    assert often.intercept == pytest.approx(once.intercept, abs=0.25)


def test_scores_that_say_nothing_give_everybody_the_rate() -> None:
    rng = np.random.default_rng(2)
    scores = rng.uniform(0.05, 0.95, 500)
    churned = (rng.uniform(size=500) < 0.9 - 0.8 * scores).astype(np.float64)  # the wrong way round
    found = calibrate_weeks(scores, churned, np.zeros(500))
    probabilities = calibrate(np.array([0.05, 0.95]), found.slope, found.intercept)
    assert probabilities == pytest.approx([churned.mean()] * 2, abs=1e-4)
    assert probabilities[0] <= probabilities[1]


def test_a_week_with_one_outcome_has_a_finite_effect() -> None:
    scores, churned, weeks = _weeks([0.0, 0.0], 200)
    churned[weeks == 1] = 1.0
    assert abs(calibrate_weeks(scores, churned, weeks).intercept) < 10


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (1.7, -1.2), (0.5, 2.0)])
def test_the_middle_has_a_probability_of_one_half(slope: float, intercept: float) -> None:
    middle = Calibration(slope=slope, intercept=intercept).middle
    assert calibrate(np.array([middle]), slope, intercept)[0] == pytest.approx(0.5)
