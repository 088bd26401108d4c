from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from models.dataset.matrix import Floats
from models.evaluation.certification import (
    Certificate,
    CertificationPolicy,
    RowSample,
    bound,
    certify,
    decide,
    on_probabilities,
)

POLICY = CertificationPolicy()
MIDDLE = (0.5, 0.5)


def _rows(rng: np.random.Generator, accounts: int, weeks: int, truth: Any) -> RowSample:
    """Scores, and outcomes drawn from `truth(score)` once an account: its weeks come out alike."""
    own = rng.uniform(size=accounts)
    fate = rng.uniform(size=accounts)
    account = np.repeat(np.arange(accounts), weeks)
    scores = np.clip(own[account] + rng.normal(0, 0.02, accounts * weeks), 0, 1)
    churned = (fate[account] < truth(scores)).astype(np.float64)
    return RowSample.of_weeks(scores, churned, account, np.tile(np.arange(weeks, dtype=np.float64), accounts))


def test_without_repeats_the_bound_is_clopper_and_pearson() -> None:
    right = np.arange(60) < 54
    found = bound(right, np.arange(60), np.ones(60), 0.95)
    exact = binomtest(54, 60, alternative="greater").proportion_ci(0.95, "exact").low
    assert found.share == 0.9
    assert found.low == pytest.approx(exact, abs=0.002)
    flawless = bound(np.ones(20, dtype=np.bool_), np.arange(20), np.ones(20), 0.95)
    assert flawless.low == pytest.approx(0.05 ** (1 / 20))
    assert bound(right[:0], np.arange(0), np.ones(0), 0.95).rows == 0


def test_a_row_told_many_times_proves_no_more() -> None:
    right = np.arange(40) < 36
    once = bound(right, np.arange(40), np.ones(40), 0.95)
    often = bound(np.repeat(right, 9), np.repeat(np.arange(40), 9), np.ones(360), 0.95)
    assert often.low == pytest.approx(once.low, abs=1e-9)
    assert (often.rows, often.accounts) == (360, 40)


def test_the_fewest_answers_are_those_of_a_flawless_record() -> None:
    assert POLICY.fewest == 14
    flawless = bound(np.ones(14, dtype=np.bool_), np.arange(14), np.ones(14), 0.95)
    assert flawless.low >= 0.8 > bound(np.ones(13, dtype=np.bool_), np.arange(13), np.ones(13), 0.95).low


def test_a_good_ranking_is_certified_on_both_sides_and_they_keep_apart() -> None:
    rng = np.random.default_rng(4)
    steep = lambda scores: 1 / (1 + np.exp(-14 * (scores - 0.5)))  # noqa: E731
    churn, stays = certify(_rows(rng, 400, 4, steep), _rows(rng, 400, 4, steep), MIDDLE)
    assert churn.threshold is not None
    assert stays.threshold is not None
    assert stays.threshold < 0.5 <= churn.threshold
    for side in (churn, stays):
        assert side.precision_low is not None
        assert side.precision is not None
        assert 0.8 <= side.precision_low <= side.precision
        assert 0.2 < side.coverage < 0.6


def test_no_answer_says_what_its_probability_denies() -> None:
    rng = np.random.default_rng(4)
    rare = lambda scores: 0.1 * scores  # noqa: E731 - hardly anyone churns: "stays" would be right for all
    churn, stays = certify(_rows(rng, 300, 3, rare), _rows(rng, 300, 3, rare), (0.3, 0.3))
    assert churn.threshold is None
    assert stays.threshold is not None
    assert stays.threshold < 0.3


def test_too_few_accounts_abstain_and_say_so() -> None:
    rng = np.random.default_rng(4)
    churn, stays = certify(_rows(rng, 300, 3, np.square), _rows(rng, 10, 8, np.square), MIDDLE)
    assert (churn.threshold, stays.threshold) == (None, None)
    assert stays.reason == "10 accounts are too few: 14 answers are the fewest that could do"
    noise = lambda scores: np.full_like(scores, 0.5)  # noqa: E731
    churn, _ = certify(_rows(rng, 300, 3, noise), _rows(rng, 300, 3, noise), MIDDLE)
    assert churn.reason == "no threshold reaches a precision of 80% with 95% confidence on 300 accounts"
    assert (churn.coverage, churn.precision_low) == (0.0, None)


def _true_precision(certificate: Certificate, scores: Floats, truth: Any) -> float:
    assert certificate.threshold is not None
    churn = certificate.decision == "churn"
    inside = scores >= certificate.threshold if churn else scores <= certificate.threshold
    rates = truth(scores[inside])
    return float(np.mean(rates if churn else 1 - rates))


@pytest.mark.parametrize("weeks", [1, 6])
@pytest.mark.parametrize(
    "planted",
    [
        lambda scores: 0.15 + 0.7 * scores,  # much too sure of itself
        lambda scores: 0.45 + 0.38 * scores,  # just above 80% only at the very top
        lambda scores: np.where(scores > 0.9, 0.5, scores),  # wrong exactly where it is surest
    ],
)
def test_what_is_certified_holds_in_95_of_100_however_miscalibrated(planted: Any, weeks: int) -> None:
    everybody = np.linspace(0, 1, 20_001)
    runs, broken, given = 200, 0, 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        found = certify(_rows(rng, 150, weeks, planted), _rows(rng, 120, weeks, planted), MIDDLE)
        certified = [side for side in found if side.threshold is not None]
        given += len(certified)
        broken += sum(_true_precision(side, everybody, planted) < POLICY.precision for side in certified)
    # 5% may fail on each side; a one-sided test of that at three standard deviations.
    assert broken <= 0.05 * runs + 3 * np.sqrt(runs * 0.05 * 0.95)
    assert given < runs * 2  # it does abstain


def test_what_is_deserved_is_often_certified() -> None:
    steep = lambda scores: 1 / (1 + np.exp(-12 * (scores - 0.5)))  # noqa: E731
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found += sum(
            side.threshold is not None
            for side in certify(_rows(rng, 150, 4, steep), _rows(rng, 120, 4, steep), MIDDLE)
        )
    assert found >= 60


def test_a_threshold_moves_with_the_map_and_answers_its_own_score() -> None:
    rng = np.random.default_rng(4)
    steep = lambda scores: 1 / (1 + np.exp(-14 * (scores - 0.5)))  # noqa: E731
    sample = _rows(rng, 400, 1, steep)
    sides = [on_probabilities(side, 1.3, -0.7) for side in certify(sample, sample, MIDDLE)]
    from models.dataset.matrix import calibrate

    for raw, moved in zip(certify(sample, sample, MIDDLE), sides, strict=True):
        assert raw.threshold is not None
        itself = calibrate(np.array([raw.threshold]), 1.3, -0.7)
        assert decide(itself, sides) == [moved.decision]
    assert decide(np.array([0.0, 0.999]), sides) == ["stays", "churn"]


def test_after_a_test_that_fails_nothing_wider_is_tried() -> None:
    scores = np.linspace(0.0, 1.0, 1_000)
    rng = np.random.default_rng(8)

    def drawn(top: float, below: float) -> RowSample:
        rates = np.where(scores > 0.8, top, np.where(scores > 0.5, below, 0.3))
        churned = (rng.uniform(size=1_000) < rates).astype(np.float64)
        return RowSample.of_weeks(scores, churned, np.arange(1_000), np.zeros(1_000))

    surest_on_top, wrong_on_top = drawn(1.0, 0.85), drawn(0.7, 1.0)
    wider = scores > 0.55
    found = bound(
        wrong_on_top.churned[wider] == 1.0, np.arange(int(wider.sum())), np.ones(int(wider.sum())), 0.95
    )
    assert found.low > POLICY.precision  # it would pass, were it tried
    churn, _ = certify(surest_on_top, wrong_on_top, MIDDLE)
    assert churn.threshold is None
