from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from models.evaluation import EvaluationPolicy, auc, calibration_table, evaluate, score
from models.matrix import Floats


def _made_up(rows: int = 600) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(3)
    truth = rng.uniform(size=rows)
    churned = (rng.uniform(size=rows) < truth).astype(np.float64)
    return churned, np.round(truth, 2)  # rounded: ties occur


def test_scores_agree_with_scikit_learn() -> None:
    churned, probabilities = _made_up()
    scores = score(churned, probabilities)
    assert scores.auc == pytest.approx(roc_auc_score(churned, probabilities))
    assert scores.average_precision == pytest.approx(average_precision_score(churned, probabilities))
    assert scores.brier == pytest.approx(brier_score_loss(churned, probabilities))
    assert scores.log_loss == pytest.approx(log_loss(churned, np.clip(probabilities, 1e-6, 1 - 1e-6)))


def test_auc_of_ties_is_a_half_and_of_one_class_undefined() -> None:
    assert auc(np.array([0.0, 1.0]), np.array([0.3, 0.3])) == 0.5
    assert np.isnan(auc(np.ones(3), np.arange(3.0)))


def test_calibration_table_holds_every_row_once() -> None:
    churned, probabilities = _made_up()
    table = calibration_table(churned, probabilities)
    assert len(table) == 10
    assert sum(bin_.rows for bin_ in table) == 600
    assert calibration_table(np.array([1.0]), np.array([1.0]))[9].observed == 1.0
    assert calibration_table(np.array([1.0]), np.array([1.0]))[0].predicted is None


def test_a_model_gains_nothing_on_itself() -> None:
    churned, probabilities = _made_up()
    same = evaluate(churned, probabilities, probabilities, np.arange(600) // 4)
    assert (same.auc_gain, same.auc_gain_low, same.auc_gain_high) == (0.0, 0.0, 0.0)
    assert not same.beats_baseline
    assert same.advertisers == 150


def test_the_interval_is_seeded_and_holds_the_gain() -> None:
    churned, probabilities = _made_up()
    noisy = np.clip(probabilities + np.random.default_rng(5).normal(0, 0.4, 600), 0, 1)
    policy = EvaluationPolicy(resamples=100)
    first = evaluate(churned, probabilities, noisy, np.arange(600) // 4, policy)
    assert first == evaluate(churned, probabilities, noisy, np.arange(600) // 4, policy)
    assert first.auc_gain_low < first.auc_gain < first.auc_gain_high
    assert first.beats_baseline


def test_confident_predictions_are_counted_and_judged() -> None:
    churned = np.array([1.0, 0.0, 0.0, 1.0])
    found = evaluate(churned, np.array([0.9, 0.1, 0.85, 0.5]), np.full(4, 0.5), np.arange(4))
    assert found.confident_share == 0.75
    assert found.confident_accuracy == pytest.approx(2 / 3)
    assert evaluate(churned, np.full(4, 0.5), np.full(4, 0.5), np.arange(4)).confident_accuracy is None
