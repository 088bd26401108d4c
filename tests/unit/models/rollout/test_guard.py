from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable

import msgspec
import pytest

from models.evaluation.expected_difference import SHIFT_WITHIN, ExpectedDifference
from models.registry.lineup import RolloutStage
from models.rollout.guard import (
    GuardDecision,
    GuardPolicy,
    GuardState,
    Signal,
    Verdict,
    drift_of,
    epoch_of,
    judge,
)
from models.rollout.observations import DIFF_STEPS, Observations
from models.rollout.sequential import log_wealth, spent

POLICY = GuardPolicy()
ROWS = 400
Score = Callable[[float], float]


def shifted(by: float) -> Score:
    return lambda p: 1 / (1 + math.exp(-(math.log(p / (1 - p)) + by)))


def observe(
    score: Score,
    *,
    rows: int = ROWS,
    seed: int = 7,
    stale: float = 0.0,
    judged_ms: float | None = 1.0,
    empty: float = 0.1,
) -> dict[str, int]:
    chance, seen = random.Random(seed), Observations()  # noqa: S311 (seeded on purpose)
    for _ in range(rows):
        p = chance.betavariate(1.2, 2.0) * 0.98 + 0.01
        seen.pair(score(p), p, stale=chance.random() < stale)
        seen.call(judged_ms, 1.0, slow_ms=POLICY.slow_ms)
        seen.inputs(("days", "spend"), (chance.random() < 0.1, chance.random() < empty), 1)
    return seen.counts()


EXPECTED = ExpectedDifference(
    rows=500, squared=0.001, differing=0.01, shift=0.0, empty={"days": 0.1, "spend": 0.1}
)


def look(
    counts: dict[str, int],
    labels: dict[str, int] | None = None,
    stage: RolloutStage = RolloutStage.SHADOW,
    expected: ExpectedDifference = EXPECTED,
) -> Verdict:
    """The second of two looks at the same."""
    _, state = judge(counts, labels or {}, stage, 1, GuardState(), POLICY, expected)
    return judge(counts, labels or {}, stage, 1, state, POLICY, expected)[0]


def breached(verdict: Verdict) -> set[Signal]:
    return {one.signal for one in verdict.evidence if one.counts and one.wealth >= one.needed}


def test_the_same_model_goes_on() -> None:
    verdict = look(observe(lambda p: p))
    assert verdict.decision is GuardDecision.GO
    assert verdict.drift == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("counts", "signal"),
    [
        (observe(lambda p: p, empty=0.9), Signal.INPUTS),
        (observe(lambda p: 1 - p), Signal.DISAGREEMENT),
        (observe(lambda p: 1 - p), Signal.ESTIMATED_LOSS),
        (observe(shifted(1.0)), Signal.SHIFT_UP),
        (observe(shifted(-1.0)), Signal.SHIFT_DOWN),
        (observe(lambda p: p, stale=0.5), Signal.STALE),
        (observe(lambda p: p, judged_ms=120.0), Signal.SLOW),
        (observe(lambda p: p, judged_ms=None), Signal.ERRORS),
    ],
)
def test_each_fault_is_a_breach(counts: dict[str, int], signal: Signal) -> None:
    verdict = look(counts)
    assert verdict.decision is GuardDecision.BREACH
    assert signal in breached(verdict)
    assert signal.value.replace("_", " ") in verdict.reason


def test_a_breach_needs_several_looks_in_a_row() -> None:
    bad = observe(lambda p: 1 - p)
    first, state = judge(bad, {}, RolloutStage.SHADOW, 1, GuardState(), POLICY)
    assert first.decision is GuardDecision.HOLD
    between, state = judge(observe(lambda p: p), {}, RolloutStage.SHADOW, 1, state, POLICY)
    assert between.decision is not GuardDecision.BREACH
    again, state = judge(bad, {}, RolloutStage.SHADOW, 1, state, POLICY)
    assert again.decision is GuardDecision.HOLD
    assert judge(bad, {}, RolloutStage.SHADOW, 1, state, POLICY)[0].decision is GuardDecision.BREACH


@pytest.mark.parametrize("rows", [0, 10, 49])
def test_too_little_is_no_verdict(rows: int) -> None:
    assert look(observe(lambda p: 1 - p, rows=rows)).decision is GuardDecision.HOLD


def test_what_is_suspicious_waits_until_it_has_settled() -> None:
    policy = msgspec.structs.replace(POLICY, suspicious=10.0, settled=3.0, drift=9.0)

    def wealth(counts: dict[str, int]) -> float:
        verdict, _ = judge(counts, {}, RolloutStage.SHADOW, 1, GuardState(), policy)
        return max(one.wealth for one in verdict.evidence)

    def higher(by: float) -> dict[str, int]:
        return observe(lambda p: min(0.99, p + by), rows=120)

    found = [higher(0.06 + by / 800) for by in range(1, 40)]
    between = next(counts for counts in found if 3.0 <= wealth(counts) < 10.0)
    assert judge(between, {}, RolloutStage.SHADOW, 1, GuardState(), policy)[0].decision is GuardDecision.GO
    assert (
        judge(between, {}, RolloutStage.SHADOW, 1, GuardState(held=True), policy)[0].decision
        is GuardDecision.HOLD
    )


def test_a_slow_machine_is_not_a_slow_model() -> None:
    seen = Observations()
    chance = random.Random(1)  # noqa: S311
    for _ in range(2_000):
        both_ms = 200.0 if chance.random() < 0.3 else 1.0
        seen.call(both_ms, both_ms * chance.uniform(0.8, 1.25), slow_ms=POLICY.slow_ms)
        seen.pair(0.3, 0.3, stale=False)
    assert look(seen.counts()).decision is GuardDecision.GO


@pytest.mark.parametrize(
    ("late", "found"), [(0, GuardDecision.GO), (1, GuardDecision.GO), (10, GuardDecision.BREACH)]
)
def test_answers_that_come_too_late_are_judged_by_their_share(late: int, found: GuardDecision) -> None:
    """Of a thousand requests, of few advertisers: those scored beside are far fewer."""
    seen = Observations()
    for number in range(1_000):
        seen.answered(late=number % 100 < late)
        if number < POLICY.least_rows:
            seen.pair(0.3, 0.3, stale=False)
            seen.call(1.0, 1.0, slow_ms=POLICY.slow_ms)
    verdict = look(seen.counts(), stage=RolloutStage.CANARY)
    assert verdict.decision is found
    assert breached(verdict) == ({Signal.LATE} if late == 10 else set())


def test_a_few_failures_among_very_many_answers_are_few() -> None:
    seen = Observations()
    for number in range(20_000):
        seen.answered(failed=number % 500 == 0)
        if number < POLICY.least_rows:
            seen.pair(0.3, 0.3, stale=False)
    assert look(seen.counts(), stage=RolloutStage.CANARY).decision is GuardDecision.GO


def test_in_watch_stale_features_do_not_bring_the_old_model_back() -> None:
    counts = observe(lambda p: p, stale=0.9)
    assert look(counts, stage=RolloutStage.CANARY).decision is GuardDecision.BREACH
    assert look(counts, stage=RolloutStage.WATCH).decision is not GuardDecision.BREACH


def labelled(score: Score, truth: Score, rows: int = 1_500) -> tuple[dict[str, int], dict[str, int]]:
    """Pairs and their labels: the reference says p, the truth is `truth(p)`."""
    chance, seen, matured = random.Random(3), Observations(), Observations()  # noqa: S311
    for _ in range(rows):
        p = chance.betavariate(1.2, 2.0) * 0.98 + 0.01
        seen.pair(score(p), p, stale=False)
        seen.call(1.0, 1.0, slow_ms=POLICY.slow_ms)
        matured.label(score(p), p, churned=chance.random() < truth(p))
    return seen.counts(), matured.counts()


def test_labels_outrank_the_reference() -> None:
    """The reference has grown too low; a model that says so differs from it and is right."""
    counts, labels = labelled(shifted(1.5), shifted(1.5))
    assert look(counts).decision is GuardDecision.BREACH
    after = look(counts, labels)
    assert after.decision is not GuardDecision.BREACH
    assert not breached(after)


def test_labels_alone_find_a_model_that_is_worse() -> None:
    counts, labels = labelled(shifted(0.0), shifted(0.0))
    _, bad = labelled(lambda p: 1 - p, lambda p: p)
    assert look(counts, labels).decision is GuardDecision.GO
    assert breached(look(counts, bad)) == {Signal.MATURED_LOSS}


def test_labels_clear_a_model_that_is_hardly_better() -> None:
    """Steps wider than the limit would never say so."""
    counts, _ = labelled(shifted(1.5), shifted(1.5))
    seen = Observations()
    for _ in range(2_000):
        seen.label(0.201, 0.2, churned=True)
    assert breached(look(counts))
    assert not breached(look(counts, seen.counts()))


def test_what_was_known_beforehand_is_no_fault_and_what_goes_beyond_is() -> None:
    """Two models that differ: on the reference rows as far as on the requests, or farther."""
    counts = observe(lambda p: min(0.99, p + 0.06), rows=1_500)
    known = msgspec.structs.replace(EXPECTED, squared=0.06**2, shift=0.06)
    assert breached(look(counts)) == {Signal.SHIFT_UP}
    assert not breached(look(counts, expected=known))
    assert Signal.SHIFT_UP in breached(look(observe(lambda p: min(0.99, p + 0.2)), expected=known))


def test_even_what_was_known_beforehand_has_its_ceiling() -> None:
    known = msgspec.structs.replace(EXPECTED, squared=0.3, differing=0.9, shift=0.4)
    assert look(observe(lambda p: 1 - p), expected=known).decision is GuardDecision.BREACH


def test_where_nothing_is_known_only_the_widest_limits_hold() -> None:
    assert look(observe(lambda p: p, empty=1.0), expected=ExpectedDifference()).decision is GuardDecision.GO
    assert (
        look(observe(lambda p: min(0.99, p + 0.06)), expected=ExpectedDifference()).decision
        is GuardDecision.GO
    )
    assert look(observe(lambda p: 1 - p), expected=ExpectedDifference()).decision is GuardDecision.BREACH


def test_boldness_alone_is_no_gain() -> None:
    """By its own probabilities the bolder model looks better; the guard does not ask it."""

    def own_estimate(score: Score) -> float:
        chance = random.Random(7)  # noqa: S311
        scores = [score(chance.betavariate(1.2, 2.0) * 0.98 + 0.01) for _ in range(ROWS)]
        return sum(p * (1 - p) for p in scores) / ROWS

    def bolder(p: float) -> float:
        return 1 / (1 + math.exp(-3 * math.log(p / (1 - p))))

    assert own_estimate(bolder) < own_estimate(lambda p: p)
    assert Signal.ESTIMATED_LOSS in breached(look(observe(bolder)))


def test_a_good_model_is_seldom_rolled_back_however_often_one_looks() -> None:
    """Exactly at a limit, looked at after every row: at most alpha of the trials, with room for chance."""
    alpha, limit, trials = 0.1, 0.05, 400
    rejected = 0
    for seed in range(trials):
        chance, bad = random.Random(seed), 0  # noqa: S311
        for seen in range(1, 401):
            bad += chance.random() < limit
            if log_wealth([(1.0, bad), (0.0, seen - bad)], limit) >= math.log(1 / alpha):
                rejected += 1
                break
    assert rejected <= trials * alpha + 3 * math.sqrt(trials * alpha * (1 - alpha))


def test_votes_of_several_replicas_roll_back_no_more() -> None:
    """Each replica counts an advertiser once; the mean difference of all of them lies exactly at the limit."""
    alpha, limit, trials, replicas = 0.01, POLICY.shift, 60, 4
    rejected = 0
    for seed in range(trials):
        chance = random.Random(seed)  # noqa: S311
        drawn = [chance.gauss(0.0, 0.12) for _ in range(120)]
        bounded = [max(-SHIFT_WITHIN, min(SHIFT_WITHIN, one)) for one in drawn]
        differences = [one + (limit - sum(bounded) / len(bounded)) for one in bounded]
        votes = [one for one in differences for _ in range(replicas)]
        chance.shuffle(votes)
        seen = Counter[float]()
        for number, one in enumerate(votes):
            lower = max(-SHIFT_WITHIN, min(SHIFT_WITHIN, math.floor(one * DIFF_STEPS) / DIFF_STEPS))
            seen[(lower / SHIFT_WITHIN + 1) / 2] += 1
            wealth = log_wealth(seen.items(), (limit / SHIFT_WITHIN + 1) / 2)
            if number % 10 == 9 and wealth >= math.log(1 / alpha):
                rejected += 1
                break
    assert rejected <= 3


def test_wealth_grows_with_evidence_and_never_falls_below_nothing() -> None:
    logs = [log_wealth([(1.0, seen)], 0.05) for seen in (0, 1, 5, 20)]
    assert logs[0] == pytest.approx(0.0)
    assert logs == sorted(logs)
    assert math.isfinite(log_wealth([(0.0, 10_000)], 0.99))


def test_what_the_tests_may_spend_adds_up() -> None:
    total = sum(spent(0.01, epoch) for epoch in range(1, 5_000))
    assert 0.0099 < total <= 0.01
    assert [epoch_of(100.0, now, POLICY) for now in (0.0, 100.0, 100.0 + POLICY.epoch_s)] == [1, 1, 2]


def test_drift_is_told_and_waits() -> None:
    assert drift_of({}) is None
    counts = observe(lambda p: min(0.99, max(0.01, p + (0.04 if p > 0.3 else -0.04))))
    found = drift_of(counts)
    assert found is not None
    policy = msgspec.structs.replace(POLICY, drift=found / 2)
    assert judge(counts, {}, RolloutStage.SHADOW, 1, GuardState(), policy)[0].decision is GuardDecision.HOLD
    known = msgspec.structs.replace(EXPECTED, drift=found)
    assert (
        judge(counts, {}, RolloutStage.SHADOW, 1, GuardState(), policy, known)[0].decision is GuardDecision.GO
    )


def test_counts_from_several_replicas_add_up() -> None:
    whole, halves = (
        observe(shifted(1.0), seed=1),
        [observe(shifted(1.0), seed=1), observe(shifted(1.0), seed=2)],
    )
    summed = {name: halves[0].get(name, 0) + halves[1].get(name, 0) for name in {*halves[0], *halves[1]}}
    assert max(one.wealth for one in look(summed).evidence) > max(one.wealth for one in look(whole).evidence)


def test_the_story_names_what_was_measured() -> None:
    story = look(observe(lambda p: 1 - p)).story()
    assert story["disagreement"]["limit"] == pytest.approx(POLICY.differing + 0.015)  # type: ignore[index]
    assert msgspec.json.encode(story)
