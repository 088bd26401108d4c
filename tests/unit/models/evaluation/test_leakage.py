from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from features.offline.point_in_time import event_frame
from features.simulator import simulate
from models.dataset.labels import DAY_S, LabelPolicy, weekly_cutoffs
from models.dataset.matrix import Floats
from models.evaluation.leakage import blocking, ceiling, future_shuffle, label_permutation, train_serve_skew
from models.training.candidates import score
from models.training.rows import LabelledSet
from models.training.training import CANDIDATES, features_at, fit, labelled_set

END = 1_795_305_600.0
POLICY = LabelPolicy()


@pytest.fixture(scope="module")
def little() -> pd.DataFrame:
    return event_frame(simulate(60, 30, 3, end=END).activities)


@pytest.fixture(scope="module")
def rows(little: pd.DataFrame) -> LabelledSet:
    return labelled_set(little, _cutoffs(little), POLICY)


def _cutoffs(events: pd.DataFrame) -> list[float]:
    return weekly_cutoffs(events["event_time"].min(), events["event_time"].max(), POLICY)


def test_honest_features_do_not_see_the_future(little: pd.DataFrame) -> None:
    found = future_shuffle(little, _cutoffs(little), features_at, seed=1)
    assert found.passed
    assert (found.name, found.measured) == ("future-shuffle", 0.0)


def test_a_feature_that_looks_ahead_is_caught(little: pd.DataFrame) -> None:
    def peeking(events: pd.DataFrame, entities: pd.DataFrame) -> Floats:
        ahead = events.groupby("advertiser_id")["amount"].sum()  # of all times
        return np.column_stack(
            [features_at(events, entities), ahead.reindex(entities["advertiser_id"]).to_numpy()]
        )

    found = future_shuffle(little, _cutoffs(little), peeking, seed=1)
    assert not found.passed
    assert found.measured > 0
    assert "changed when only later events were shuffled" in found.text


def test_a_feature_that_is_one_second_late_is_caught(little: pd.DataFrame) -> None:
    late = lambda events, entities: features_at(events, entities.assign(as_of=entities["as_of"] + 7 * DAY_S))  # noqa: E731
    assert not future_shuffle(little, _cutoffs(little), late, seed=1).passed


def test_an_honest_procedure_finds_nothing_in_permuted_labels(rows: LabelledSet) -> None:
    weeks = np.unique(rows.as_of)
    fitted, judged = rows.as_of < weeks[12], rows.as_of >= weeks[16]

    def again(churned: Floats) -> Floats:
        part = replace(rows, churned=churned).where(fitted)
        return score(fit(CANDIDATES["logistic"](7), part), rows.raw[judged])

    found = label_permutation(rows.churned, rows.as_of, judged, again, seed=1)
    assert found.passed
    assert abs(found.measured - 0.5) <= found.limit < 0.2


def test_judging_what_was_learned_by_heart_is_caught(rows: LabelledSet) -> None:
    judged = rows.as_of >= np.unique(rows.as_of)[10]
    # The test rows are among those learned from, and the learner remembers them.
    found = label_permutation(rows.churned, rows.as_of, judged, lambda churned: churned[judged], seed=1)
    assert not found.passed
    assert found.measured == 1.0


@pytest.mark.parametrize(
    ("found", "passed"), [(0.85, True), (0.9499, True), (0.95, False), (float("nan"), False)]
)
def test_too_good_to_be_true_stops_and_explains(found: float, passed: bool) -> None:
    finding = ceiling(found)
    assert finding.passed is passed
    assert ("a feature knows the answer" in finding.text) is not passed


def test_skew_counts_only_what_the_model_reads() -> None:
    clean = train_serve_skew(40, {"spend_1d": 3}, ["spend_7d", "spend_28d"])
    assert clean.passed
    skewed = train_serve_skew(40, {"spend_1d": 3, "spend_7d": 2}, ["spend_7d", "spend_28d"])
    assert not skewed.passed
    assert skewed.text == "40 served vectors replayed; values differ: spend_7d in 2"
    assert "nothing was served yet" in train_serve_skew(0, {}, ["spend_7d"]).text


def test_the_gate_names_what_blocks() -> None:
    found = blocking([ceiling(0.8), ceiling(0.99), train_serve_skew(1, {"a": 1}, ["a"])])
    assert [finding.name for finding in found] == ["ceiling", "train-serve-skew"]
