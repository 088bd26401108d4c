from __future__ import annotations

import pytest

from models.dataset.labels import DAY_S, LabelPolicy
from models.dataset.split import Split, account_positions, rolling_folds, split_at, temporal_split

HORIZON_S = LabelPolicy().horizon_s
WEEKS = [week * 7 * DAY_S for week in range(40)]


def _disjoint(split: Split) -> bool:
    """No label window of a training cutoff reaches the first test cutoff."""
    return max(split.train) + HORIZON_S <= min(split.test)


@pytest.mark.parametrize("count", [8, 16, 17, 40])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.4])
def test_train_and_test_label_windows_are_disjoint(count: int, share: float) -> None:
    cutoffs = WEEKS[:count]
    split = temporal_split(cutoffs, share, HORIZON_S)
    assert _disjoint(split)
    assert split.test[-1] == cutoffs[-1]
    assert not set(split.train) & set(split.test)
    assert len(split.train) + len(split.test) == count - 3  # the embargo: three weekly cutoffs lie inside


def test_inner_folds_are_disjoint_and_the_newest_ends_last() -> None:
    folds = rolling_folds(WEEKS, 4, 0.6, HORIZON_S)
    assert all(_disjoint(fold) for fold in folds)
    assert [fold.test for fold in folds] == [tuple(WEEKS[at : at + 6]) for at in (16, 22, 28, 34)]


def test_a_fold_without_a_past_is_dropped() -> None:
    assert len(rolling_folds(WEEKS[:6], 4, 1.0, HORIZON_S)) < 4
    assert rolling_folds(WEEKS[:4], 4, 1.0, HORIZON_S) == []


def test_nothing_splits_into_nothing() -> None:
    assert temporal_split([], 0.25, HORIZON_S) == Split(train=(), test=())


def test_a_date_splits_by_what_is_known_then() -> None:
    moment = WEEKS[20]
    split = split_at(WEEKS, moment, HORIZON_S)
    assert split.train[-1] + HORIZON_S == moment
    assert split.test == tuple(WEEKS[20:])
    between = split_at(WEEKS, moment + DAY_S, HORIZON_S + 3 * DAY_S)
    assert between.train[-1] + HORIZON_S + 3 * DAY_S <= moment + DAY_S < between.test[0]


def test_an_account_keeps_its_side_and_sides_are_even() -> None:
    names = [f"account-{number}" for number in range(2_000)]
    positions = account_positions(names)
    assert (positions == account_positions(names)).all()
    assert ((positions >= 0.0) & (positions < 1.0)).all()
    assert 0.46 < (positions < 0.5).mean() < 0.54
    assert account_positions(["account-7"])[0] == positions[7]
