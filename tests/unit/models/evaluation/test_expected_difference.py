from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from models.dataset.matrix import to_raw
from models.evaluation.expected_difference import MAX_ROWS, ExpectedDifference, expect, is_empty, sample
from models.registry.registry import Registry
from models.training.card import TrainedModel

RAW = np.array([[0.0, 1.0], [np.nan, 2.0], [3.0, 0.0], [4.0, 5.0]])


def test_what_is_expected_of_two_models() -> None:
    found = expect(np.array([0.5, 0.1, 0.9, 0.2]), np.array([0.5, 0.1, 0.6, 0.3]), RAW, ("days", "spend"))
    assert (found.rows, found.differing) == (4, 0.25)
    assert found.squared == pytest.approx((0.09 + 0.01) / 4)
    assert found.shift == pytest.approx((0.25 - 0.1) / 4)  # each within 0.25
    assert found.empty == {"days": 0.5, "spend": 0.25}
    assert expect(np.empty(0), np.empty(0), np.empty((0, 2)), ("a", "b")) == ExpectedDifference()
    assert is_empty(RAW).sum() == 3


def test_probabilities_spread_otherwise_are_told_from_the_same() -> None:
    chance = np.random.default_rng(1)
    some, others = chance.beta(1.2, 2.0, 500), chance.beta(1.2, 2.0, 500)
    known = [
        expect(judged, some, np.zeros((500, 1)), ("days",)).drift
        for judged in (some, others, 0.5 * some + 0.25)
    ]
    assert known[0] == pytest.approx(0.0)
    assert known[0] < known[1] < 0.1
    assert known[2] > 0.5


def test_a_sample_is_spread_over_all_rows() -> None:
    rows = np.arange(4_000.0)[:, None]
    found = sample(rows)
    assert len(found) == MAX_ROWS
    assert (found[0, 0], found[-1, 0]) == (0.0, 3_999.0)
    assert sample(RAW) is RAW


def test_a_rollout_knows_how_far_its_two_models_differ(trained: TrainedModel, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    rows = to_raw([trained.card.typical] * 40, trained.card.feature_names)
    registry.promote(registry.save(replace(trained, reference=rows)))
    calibration = msgspec.structs.replace(
        trained.card.calibration, intercept=trained.card.calibration.intercept + 1.0
    )
    moved = msgspec.structs.replace(trained.card, calibration=calibration)
    moved = msgspec.structs.replace(moved, created_at=moved.created_at.replace(year=2030))
    expected = registry.begin(registry.save(replace(trained, card=moved, reference=rows))).lineup.expected
    assert expected.rows == 40
    assert expected.shift > 0.02
    assert set(expected.empty) == set(trained.card.feature_names)


def test_without_reference_rows_nothing_is_expected(trained: TrainedModel, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    version = registry.save(replace(trained, reference=None))
    assert registry.reference(version) is None
    assert registry.promote(version).lineup.expected == ExpectedDifference()
    (tmp_path / "churn" / version / "reference.npy").write_bytes(b"rubbish")
    assert registry.reference(version) is None
