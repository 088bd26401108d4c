from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from models.evaluation.measures import Ranked, auc, calibration_table, recentred

rows = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=2, max_size=60).filter(
    lambda found: len({churned for churned, _ in found}) == 2
)


@settings(max_examples=120, deadline=None)
@given(rows, st.data())
def test_measures_agree_with_scikit_learn_weighted_too(
    found: list[tuple[int, int]], data: st.DataObject
) -> None:
    churned = np.array([row[0] for row in found], dtype=np.float64)
    scores = np.array([row[1] for row in found]) / 20.0
    weights = np.array(
        data.draw(st.lists(st.integers(1, 4), min_size=len(found), max_size=len(found))), dtype=float
    )
    for given_weights in (None, weights):
        tally = Ranked(churned, scores).tally(given_weights)
        named = {"sample_weight": given_weights}
        assert tally.auc() == pytest.approx(roc_auc_score(churned, scores, **named))
        assert tally.average_precision() == pytest.approx(average_precision_score(churned, scores, **named))
        assert tally.brier() == pytest.approx(brier_score_loss(churned, scores, **named))
        clipped = np.clip(scores, 1e-6, 1 - 1e-6)
        assert tally.log_loss() == pytest.approx(log_loss(churned, clipped, **named))


def test_one_class_has_no_ranking() -> None:
    assert auc(np.array([0.0, 1.0]), np.array([0.3, 0.3])) == 0.5
    assert np.isnan(auc(np.ones(3), np.arange(3.0)))
    nobody = Ranked(np.zeros(3), np.arange(3.0) / 3).tally()
    assert np.isnan(nobody.average_precision())
    assert np.isnan(nobody.lift(0.1))


def test_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    churned, scores = np.array([1.0, 0.0, 1.0, 1.0]), np.array([0.05, 0.05, 0.95, 0.95])
    assert Ranked(churned, scores).tally().calibration_error() == pytest.approx(0.5 * 0.45 + 0.5 * 0.05)


def test_lift_counts_the_riskiest_and_shares_ties() -> None:
    churned = np.array([1.0] * 10 + [0.0] * 90)
    assert Ranked(churned, np.linspace(1, 0, 100)).tally().lift(0.1) == pytest.approx(10.0)
    assert Ranked(churned, np.full(100, 0.4)).tally().lift(0.1) == pytest.approx(1.0)
    assert Ranked(churned, np.linspace(0, 1, 100)).tally().found(1.0) == pytest.approx(1.0)


def test_the_table_holds_every_row_once() -> None:
    rng = np.random.default_rng(3)
    scores = np.round(rng.uniform(size=600), 2)
    table = calibration_table((rng.uniform(size=600) < scores).astype(np.float64), scores)
    assert len(table) == 10
    assert sum(bin_.rows for bin_ in table) == 600
    assert calibration_table(np.array([1.0]), np.array([1.0]))[9].observed == 1.0
    assert calibration_table(np.array([1.0]), np.array([1.0]))[0].predicted is None


def test_recentring_meets_the_base_rate_and_keeps_the_order() -> None:
    churned = np.array([1.0, 0.0, 0.0, 1.0, 0.0])
    scores = np.array([0.9, 0.85, 0.6, 0.99, 0.0])
    moved = recentred(churned, scores)
    assert moved.mean() == pytest.approx(0.4)
    assert (np.argsort(moved) == np.argsort(scores)).all()
