from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from features.importing.importer import read_activity
from features.offline.point_in_time import event_frame
from models.dataset.inputs import INPUTS
from models.dataset.labels import DAY_S, LabelPolicy, weekly_cutoffs
from models.dataset.matrix import logit
from models.dataset.split import TooLittleDataError, account_positions, temporal_split
from models.evaluation.leakage import blocking
from models.training.candidates import choose, week_balanced
from models.training.card import ModelCard, TrainedModel
from models.training.policy import TrainingPolicy
from models.training.training import CANDIDATES, _sides, labelled_set, train
from tests.paths import DATA

POLICY = TrainingPolicy()
REAL = DATA / "google_ads_spend/advertiser_weekly_spend.parquet"


def _cutoffs(events: pd.DataFrame) -> list[float]:
    return weekly_cutoffs(events["event_time"].min(), events["event_time"].max(), POLICY.labels)


def test_what_happens_after_a_cutoff_does_not_touch_its_features(events: pd.DataFrame) -> None:
    cutoff = _cutoffs(events)[12]
    later = events["event_time"] >= cutoff
    changed = events.copy()
    changed.loc[later, "amount"] = 1e6
    changed.loc[later, "event_time"] += 3 * DAY_S
    before = labelled_set(events, [cutoff], POLICY.labels)
    after = labelled_set(changed, [cutoff], POLICY.labels)
    np.testing.assert_array_equal(before.raw, after.raw)
    np.testing.assert_array_equal(before.advertisers, after.advertisers)


def test_the_test_period_does_not_touch_the_training_rows(events: pd.DataFrame) -> None:
    split = temporal_split(_cutoffs(events), POLICY.test_share, POLICY.labels.horizon_s)
    end = split.train[-1] + POLICY.labels.horizon_s
    assert end <= split.test[0]
    changed = events.copy()
    changed.loc[events["event_time"] >= end, "amount"] = 0.0
    changed.loc[events["event_time"] >= end, "event_time"] += 2 * DAY_S
    before = labelled_set(events, split.train, POLICY.labels)
    after = labelled_set(changed, split.train, POLICY.labels)
    np.testing.assert_array_equal(before.raw, after.raw)
    np.testing.assert_array_equal(before.churned, after.churned)


def test_the_test_period_does_not_touch_the_model(events: pd.DataFrame, trained: TrainedModel) -> None:
    split = temporal_split(_cutoffs(events), POLICY.test_share, POLICY.labels.horizon_s)
    changed = events.copy()
    changed.loc[changed["event_time"] >= split.test[0], "amount"] = 5.0
    other = train(changed, now=0.0)
    assert other.card.evaluation != trained.card.evaluation
    assert other.card.selection == trained.card.selection
    assert other.card.calibration == trained.card.calibration
    assert other.card.typical == trained.card.typical
    assert other.card.labels["calibration"] == trained.card.labels["calibration"]


def test_training_is_deterministic_but_for_its_date(events: pd.DataFrame, trained: TrainedModel) -> None:
    again = train(events, now=trained.card.created_at.timestamp())
    assert again.card == trained.card


def test_the_card_is_complete_and_survives_json(trained: TrainedModel) -> None:
    card = trained.card
    assert msgspec.json.decode(msgspec.json.encode(card), type=ModelCard) == card
    assert card.feature_names == list(INPUTS)
    assert card.training_cutoffs[-1].timestamp() + POLICY.labels.horizon_s <= card.test_cutoffs[0].timestamp()
    assert 0.0 < card.base_rate < 0.5
    assert card.algorithm == choose(card.selection)
    assert card.selection.keys() == {"recency", *CANDIDATES}
    assert card.calibrated_at == card.training_cutoffs[-1]
    assert {side.decision for side in card.certificates} == {"churn", "stays"}
    assert [finding.name for finding in card.findings] == ["future-shuffle", "label-permutation", "ceiling"]
    assert blocking(card.findings) == []
    assert "none in the 28 days from it on" in card.label
    assert card.labels["test"].rows == card.evaluation.rows
    assert card.labels["test"].base_rate == pytest.approx(card.evaluation.base_rate)


def test_no_account_both_taught_and_calibrated(events: pd.DataFrame) -> None:
    split = temporal_split(_cutoffs(events), POLICY.test_share, POLICY.labels.gap_s)
    rows = labelled_set(events, split.train, POLICY.labels)
    sides = _sides(rows, split, POLICY)
    assert not set(sides.fitting.advertisers) & set(sides.calibrating.advertisers)
    assert sides.calibrating.as_of.min() > max(sides.before)
    assert sides.fitting.as_of.max() == sides.calibrating.as_of.max() == split.train[-1]


def test_what_calibrating_accounts_do_does_not_touch_the_fit(
    events: pd.DataFrame, trained: TrainedModel
) -> None:
    changed = events.copy()
    held_out = account_positions(changed["advertiser_id"]) >= 1.0 - POLICY.calibration_accounts
    changed.loc[held_out, "amount"] *= 3.0
    other = train(changed, now=0.0)
    probes = np.random.default_rng(1).normal(1.0, 1.0, (20, len(INPUTS)))
    np.testing.assert_array_equal(
        other.estimator.predict_proba(probes), trained.estimator.predict_proba(probes)
    )
    assert other.card.selection == trained.card.selection
    assert other.card.calibration != trained.card.calibration


def test_a_date_splits_what_ends_by_it_from_all_that_follows(events: pd.DataFrame) -> None:
    moment = _cutoffs(events)[20] + 2 * DAY_S
    card = train(events, now=0.0, train_until=moment).card
    assert card.training_cutoffs[-1].timestamp() + POLICY.labels.horizon_s <= moment
    assert card.test_cutoffs[0].timestamp() == _cutoffs(events)[21]
    assert card.test_cutoffs[-1].timestamp() == _cutoffs(events)[-1]
    later = replace(POLICY, labels=LabelPolicy(embargo_days=14))
    kept_free = train(events, later, now=0.0, train_until=moment).card
    assert (kept_free.embargo_days, kept_free.test_cutoffs) == (14, card.test_cutoffs)
    assert (card.training_cutoffs[-1] - kept_free.training_cutoffs[-1]).days == 14


def test_fits_may_be_done_anywhere_in_any_order(events: pd.DataFrame, trained: TrainedModel) -> None:
    seen: list[str] = []

    def elsewhere(work: Any, jobs: Any) -> list[Any]:
        done = {number: work(jobs[number]) for number in reversed(range(len(jobs)))}
        return [done[number] for number in range(len(jobs))]

    again = train(events, now=trained.card.created_at.timestamp(), run=elsewhere, say=seen.append)
    assert again.card == trained.card
    assert seen[-1] == "asking the leakage gate"


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        ({}, "blend"),
        ({"logistic": 0.8, "boosting": 0.75, "blend": 0.79}, "blend"),
        ({"logistic": 0.801, "boosting": 0.75, "blend": 0.79}, "logistic"),
        ({"logistic": 0.7, "boosting": 0.81, "blend": 0.79}, "boosting"),
    ],
)
def test_the_blend_is_taken_unless_a_part_is_clearly_better(selection: dict[str, float], chosen: str) -> None:
    assert choose(selection) == chosen


def test_each_week_weighs_both_outcomes_alike() -> None:
    churned = np.array([1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    week = np.array([1.0] * 4 + [2.0] * 6)
    weights = week_balanced(churned, week)
    assert weights.mean() == pytest.approx(1.0)
    for number in (1.0, 2.0):
        inside = week == number
        left, stayed = weights[inside & (churned == 1)].sum(), weights[inside & (churned == 0)].sum()
        assert left == pytest.approx(stayed)


def test_a_week_with_one_outcome_still_has_finite_weights() -> None:
    assert np.isfinite(week_balanced(np.ones(4), np.zeros(4))).all()
    assert np.isfinite(logit(np.array([0.0, 1.0]))).all()


class TestTooLittleData:
    def test_none_at_all(self, events: pd.DataFrame) -> None:
        with pytest.raises(TooLittleDataError, match=r"^there is no activity to train on$") as caught:
            train(events.head(0), now=0.0)
        assert caught.value.hint == "import more activity, then run it again"

    def test_too_short(self, events: pd.DataFrame) -> None:
        last = events["event_time"].max()
        with pytest.raises(TooLittleDataError) as caught:
            train(events[events["event_time"] > last - 90 * DAY_S], now=0.0)
        assert caught.value.message == (
            "the activity spans 84 days; training needs 161 (16 weekly cutoffs, 28 days before the first and "
            "28 after the last)"
        )

    def test_the_span_named_is_enough(self, events: pd.DataFrame) -> None:
        first = float(np.floor(events["event_time"].min() / DAY_S) * DAY_S)
        end = first + POLICY.min_span_days * DAY_S
        assert len(weekly_cutoffs(first, end, POLICY.labels)) == POLICY.min_cutoffs
        assert len(weekly_cutoffs(first, end - DAY_S, POLICY.labels)) == POLICY.min_cutoffs - 1

    def test_too_few_rows(self, events: pd.DataFrame) -> None:
        some = events["advertiser_id"].drop_duplicates().head(5)
        few = events[events["advertiser_id"].isin(some)]
        with pytest.raises(TooLittleDataError, match=r"^\d+ labelled rows to train on; 200 are needed$"):
            train(few, now=0.0)

    def test_nobody_left(self) -> None:
        weeks = np.arange(40) * 7 * DAY_S + 1e9
        steady = pd.DataFrame(
            {
                "advertiser_id": [f"a{number}" for number in range(20) for _ in weeks],
                "event_time": np.tile(weeks, 20),
                "amount": 1.0,
                "kind": "spend",
                "event_id": [f"e{at}" for at in range(800)],
            }
        )
        with pytest.raises(TooLittleDataError) as caught:
            train(steady, now=0.0)
        rows = 20 * len(temporal_split(_cutoffs(steady), POLICY.test_share, POLICY.labels.horizon_s).train)
        assert (
            caught.value.message == f"all {rows} labelled rows to train on stayed; both outcomes are needed"
        )

    def test_too_few_rows_to_test_on(self, events: pd.DataFrame) -> None:
        with pytest.raises(TooLittleDataError, match=r"^\d+ labelled rows to test on; 9999 are needed$"):
            train(events, replace(POLICY, min_test_rows=9999), now=0.0)

    def test_too_few_weeks_around_a_date(self, events: pd.DataFrame) -> None:
        first = float(events["event_time"].min())
        with pytest.raises(TooLittleDataError, match="has 0 weekly cutoffs whose labels end by") as caught:
            train(events, now=0.0, train_until=first + 30 * DAY_S)
        assert "6 and 1 are needed" in caught.value.message
        with pytest.raises(TooLittleDataError, match="and 0 complete ones from then on"):
            train(events, now=0.0, train_until=float(events["event_time"].max()))

    def test_where_no_fold_is_possible_the_blend_is_taken(self, events: pd.DataFrame) -> None:
        card = train(events, replace(POLICY, folds=1, fold_share=1.0), now=0.0).card
        assert (card.algorithm, card.selection) == ("blend", {})


@pytest.mark.skipif(not REAL.exists(), reason="needs ../shared/data, which is not here")
def test_on_real_spend_the_model_beats_recency_without_a_leak() -> None:
    batches = read_activity(str(REAL), None, 1.8e9)
    card = train(event_frame(activity for batch in batches for activity in batch.activities), now=0.0).card
    found = card.evaluation
    assert found.rows > 3_000
    assert card.training_rows > 4_000
    assert found.baseline.auc < found.model.auc < 0.95
    assert found.beats_baseline
    assert found.model.brier < found.baseline.brier
    assert found.baseline.auc < found.logistic.auc < found.model.auc
    assert found.decided.precision_low is None or found.decided.precision_low >= 0.8
    assert LabelPolicy(card.active_window_days, card.horizon_days) == POLICY.labels
