from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dataset.matrix import Floats
from models.prediction.attribution import attribute


def _bent(raw: Floats) -> Floats:
    """Not additive at all: products, a jump, and a gap that counts."""
    filled = np.nan_to_num(raw, nan=-1.0)
    odds = filled[:, 0] * filled[:, 1] + np.where(filled[:, 2] > 0.5, 2.0, 0.0) - filled.sum(axis=1) / 3
    probabilities: Floats = 1 / (1 + np.exp(-odds))
    return probabilities


values = st.one_of(st.floats(-3, 3, allow_nan=False), st.just(float("nan")))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(values, min_size=4, max_size=4), min_size=1, max_size=5),
    st.lists(values, min_size=4, max_size=4),
)
def test_effects_add_up_whatever_the_model(rows: list[list[float]], typical: list[float]) -> None:
    raw, base = np.array(rows), np.array(typical)
    probabilities, start, effects = attribute(_bent, raw, base)
    assert probabilities == pytest.approx(_bent(raw))
    assert start == pytest.approx(_bent(base[None, :])[0])
    assert start + effects.sum(axis=1) == pytest.approx(probabilities, abs=1e-9)


def test_of_an_additive_model_each_effect_is_the_features_own() -> None:
    weights = np.array([0.1, -0.05, 0.2])
    raw, typical = np.array([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]]), np.array([0.5, 1.0, 0.5])
    _, _, effects = attribute(lambda rows: rows @ weights, raw, typical)
    assert effects == pytest.approx((raw - typical) * weights)


def test_what_two_do_together_is_shared_evenly() -> None:
    _, _, effects = attribute(lambda rows: rows[:, 0] * rows[:, 1], np.array([[1.0, 1.0]]), np.zeros(2))
    assert effects[0] == pytest.approx([0.5, 0.5])


def test_it_asks_once_and_one_feature_will_do() -> None:
    calls = []

    def count(rows: Floats) -> Floats:
        calls.append(len(rows))
        return rows[:, 0]

    _, start, effects = attribute(count, np.array([[3.0], [5.0]]), np.array([1.0]))
    assert (start, effects.tolist()) == (1.0, [[2.0], [4.0]])
    assert calls == [3]


def test_a_prediction_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ArithmeticError, match="do not add up"):
        attribute(lambda rows: np.full(len(rows), np.nan), np.zeros((1, 2)), np.zeros(2))
