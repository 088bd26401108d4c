from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.dataset.matrix import Floats
from models.evaluation.certification import Certificate
from models.evaluation.evaluation import (
    EvaluationPolicy,
    Judged,
    Segmentation,
    confirm,
    evaluate,
    judge_answers,
)

QUICK = EvaluationPolicy(resamples=60)


def _made_up(rows: int = 600) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(3)
    truth = rng.uniform(size=rows)
    churned = (rng.uniform(size=rows) < truth).astype(np.float64)
    return churned, np.round(truth, 2)  # rounded: ties occur


def _judged(model: Floats | None = None, baseline: Floats | None = None, rows: int = 600) -> Judged:
    churned, truth = _made_up(rows)
    model = truth if model is None else model
    baseline = truth if baseline is None else baseline
    return Judged(
        churned,
        model,
        baseline,
        baseline,
        np.arange(rows) // 4,
        (np.arange(rows) % 5 * 604_800.0).astype(np.float64),
    )


def _certificate(decision: str, threshold: float | None) -> Certificate:
    return Certificate(
        decision=decision,  # type: ignore[arg-type]
        threshold=threshold,
        precision_low=0.8,
        precision=0.9,
        coverage=0.2,
        answered=50,
        accounts=50,
        confidence=0.95,
    )


def test_a_model_gains_nothing_on_itself() -> None:
    same = evaluate(_judged(), policy=QUICK)
    assert (same.auc_gain, same.auc_gain_low, same.auc_gain_high) == (0.0, 0.0, 0.0)
    assert (same.logistic_gain.low, same.logistic_gain.high) == (0.0, 0.0)
    assert not same.beats_baseline
    assert same.advertisers == 150


def test_intervals_are_seeded_and_hold_what_was_measured() -> None:
    _, truth = _made_up()
    noisy = np.clip(truth + np.random.default_rng(5).normal(0, 0.4, 600), 0, 1)
    first = evaluate(_judged(baseline=noisy), policy=QUICK)
    assert first == evaluate(_judged(baseline=noisy), policy=QUICK)
    assert first != evaluate(_judged(baseline=noisy), policy=replace(QUICK, seed=8))
    assert first.auc_gain_low < first.auc_gain < first.auc_gain_high
    assert first.beats_baseline
    for name, interval in first.intervals.items():
        assert interval.low <= getattr(first.model, name) <= interval.high or name == "calibration_error"


def test_rows_of_one_advertiser_widen_the_interval() -> None:
    judged = _judged()
    repeated = Judged(
        churned=np.repeat(judged.churned, 4),
        model=np.repeat(judged.model, 4),
        recency=np.repeat(judged.recency, 4),
        logistic=np.repeat(judged.logistic, 4),
        advertisers=np.repeat(np.arange(600), 4),
        as_of=np.repeat(judged.as_of, 4),
    )
    as_if_free = replace(repeated, advertisers=np.arange(2_400))

    def width(of: Judged) -> float:
        interval = evaluate(of, policy=QUICK).intervals["auc"]
        return interval.high - interval.low

    assert width(repeated) > 1.5 * width(as_if_free)


def test_answers_are_counted_and_judged_by_side() -> None:
    churned = np.array([1.0, 0.0, 1.0, 0.0, 0.0])
    model = np.array([0.9, 0.8, 0.5, 0.1, 0.2])
    judged = Judged(churned, model, model, model, np.arange(5), np.zeros(5))
    churn, stays, either = judge_answers(judged, [_certificate("churn", 0.8), _certificate("stays", 0.2)])
    assert (churn.rows, churn.precision, churn.coverage) == (2, 0.5, 0.4)
    assert (stays.rows, stays.precision) == (2, 1.0)
    assert (either.rows, either.precision, either.coverage) == (4, 0.75, 0.8)
    assert stays.precision_low is not None
    assert stays.precision_low < 0.8  # two flawless answers prove little
    nothing = judge_answers(judged, [_certificate("churn", None)])[-1]
    assert (nothing.rows, nothing.precision, nothing.precision_low) == (0, None, None)


def test_a_certificate_the_test_refutes_is_withdrawn_and_says_why() -> None:
    rows = 400
    churned = (np.arange(rows) % 10 < 9).astype(np.float64)
    model = np.full(rows, 0.9)
    judged = Judged(churned, model, model, model, np.arange(rows), np.zeros(rows))
    assert confirm(judged, [_certificate("churn", 0.8)]) == [_certificate("churn", 0.8)]
    shifted = replace(judged, churned=(np.arange(rows) % 10 < 7).astype(np.float64))
    (gone,) = confirm(shifted, [_certificate("churn", 0.8)])
    assert (gone.threshold, gone.precision_low, gone.coverage) == (None, None, 0.0)
    assert "not confirmed by the test: of 400 answers on later rows 70.0% were right" in gone.reason
    (unasked,) = confirm(judged, [_certificate("stays", 0.2)])
    assert unasked.threshold is None
    assert "it gave no answer there" in unasked.reason


def test_segments_and_weeks_hold_every_row_once() -> None:
    part = Segmentation(("few", "none at all", "many"), np.where(np.arange(600) < 100, 0, 2))
    judged = replace(_judged(), segments={"size": part})
    found = evaluate(judged, [_certificate("churn", 0.7)], QUICK)
    assert [(one.name, one.rows) for one in found.segments] == [("few", 100), ("many", 500)]
    assert sum(week.rows for week in found.weeks) == found.rows == 600
    assert all(one.coverage > 0 for one in found.segments)


def test_the_level_is_told_apart_from_the_shape() -> None:
    _, truth = _made_up()
    too_high = 1 / (
        1 + np.exp(-(np.log(np.clip(truth, 0.01, 0.99) / (1 - np.clip(truth, 0.01, 0.99))) + 1.5))
    )
    found = evaluate(_judged(model=too_high), policy=QUICK)
    assert found.level_error > 0.15
    assert found.model.calibration_error > 0.15
    assert found.calibration_error_recentred < 0.07
