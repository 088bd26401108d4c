"""The guard: whether a model on trial may go on, must wait, or has to go. Pure: counts in, a verdict out.

    counts ──► a sequential test each ──► Evidence ──┬── breach, at several looks in a row ──► BREACH: roll back
                                                     ├── suspicious, or too little seen ─────► HOLD: not yet
                                                     └── else ───────────────────────────────► GO

| signal           | breach when, on the same requests,                     | trusted because        |
|------------------|--------------------------------------------------------|------------------------|
| `errors`         | it fails more often than the reference                 | a fact                 |
| `slow`           | it takes too long more often than the reference        | a fact                 |
| `late`           | it owed an answer and missed its deadline too often    | a fact                 |
| `stale`          | its features are too old too often                     | a fact                 |
| `inputs`         | an input is 0 or not known more often than it was in the test rows | a fact     |
| `matured_loss`   | once labels are there: its squared error is larger     | a fact, but late       |
| `estimated_loss` | its squared error is larger if the reference is right  | the reference is proven |
| `disagreement`   | it differs by 0.2 or more too often                    | as above               |
| `shift_up`, `shift_down` | it is higher, or lower, on average             | as above               |

`estimated_loss` is confidence-based performance estimation with one change: not the model's own probabilities stand for
the missing labels, but the reference's. By its own a model that grows bolder looks better. Where the reference says p
and the model q, the expected squared error of q exceeds that of p by (q - p)^2, so that is what is averaged.

Two models that differ are not at fault for that: how far they may is taken from the reference rows of the one judged
(`models.evaluation.expected_difference`), with a margin, and up to a ceiling, beyond which a difference cannot be
distinguished from a fault.

Matured labels outrank the three that rest on the reference: where they show that it is no worse, those do not count.

Each test may be looked at any time (`models.rollout.sequential`); all tests of a trial roll back a good model with a
chance of at most `alpha`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from models.evaluation.expected_difference import (
    DIFFERS,
    SHIFT_WITHIN,
    TENTHS,
    ExpectedDifference,
    stability_index,
)
from models.registry.lineup import RolloutStage
from models.rollout.observations import SCORE_STEPS, by_who, edges, ms_edge, steps
from models.rollout.sequential import log_wealth, spent


class Signal(StrEnum):
    """What is watched."""

    ERRORS = "errors"
    SLOW = "slow"
    LATE = "late"
    STALE = "stale"
    INPUTS = "inputs"
    MATURED_LOSS = "matured_loss"
    ESTIMATED_LOSS = "estimated_loss"
    DISAGREEMENT = "disagreement"
    SHIFT_UP = "shift_up"
    SHIFT_DOWN = "shift_down"


RESTS_ON_REFERENCE = frozenset(
    {Signal.ESTIMATED_LOSS, Signal.DISAGREEMENT, Signal.SHIFT_UP, Signal.SHIFT_DOWN}
)


class GuardDecision(StrEnum):
    """What follows."""

    GO = "go"
    HOLD = "hold"
    BREACH = "breach"


class GuardPolicy(Struct, frozen=True, kw_only=True):
    """Limits. Shares and differences of probabilities are from 0 to 1."""

    alpha: float = 0.01  # the chance to roll back a model that keeps all limits, over a whole stage
    epoch_s: float = 21_600.0  # the tests begin again so often
    least_rows: int = 50
    least_calls: int = 20
    least_labels: int = 100
    looks: int = 2  # in a row that must show a breach
    suspicious: float = 10.0  # evidence (a wealth) from which a rollout waits …
    settled: float = 3.0  # … until it is below this again
    more_errors: float = 0.005
    more_slow: float = 0.02
    slow_ms: float = 50.0  # for one call of a model
    most_late: float = 0.02
    most_stale: float = 0.05
    matured_loss: float = 0.01
    # Beyond what is expected, and at the most; the most alone where nothing is known.
    estimated_loss: float = 0.004
    most_estimated_loss: float = 0.03
    differing: float = 0.04  # share of rows that differ by 0.2 or more
    most_differing: float = 0.25
    shift: float = 0.03
    most_shift: float = 0.06  # both models may be off by the 0.03 that a calibration error may be
    more_empty: float = 0.15  # share of rows in which an input is 0 or not known
    drift: float = 0.25  # population stability index beyond what is expected from which a rollout waits


MAX_EMPTY = 0.9  # an input that is mostly empty says nothing
EXPECTED_TIMES = 1.5  # an expectation of a few hundred rows is no more exact


class Limits(Struct, frozen=True, kw_only=True):
    """What the signals that rest on the reference are held against."""

    estimated_loss: float
    differing: float
    shift_up: float
    shift_down: float

    @classmethod
    def of(cls, policy: GuardPolicy, expected: ExpectedDifference) -> Limits:
        """With an expectation, near it; else the widest."""
        if not expected.rows:
            return cls(
                estimated_loss=policy.most_estimated_loss,
                differing=policy.most_differing,
                shift_up=policy.most_shift,
                shift_down=policy.most_shift,
            )
        loss = policy.estimated_loss + EXPECTED_TIMES * expected.squared
        differing = policy.differing + EXPECTED_TIMES * expected.differing
        return cls(
            estimated_loss=min(policy.most_estimated_loss, loss),
            differing=min(policy.most_differing, differing),
            shift_up=min(policy.most_shift, policy.shift + max(0.0, EXPECTED_TIMES * expected.shift)),
            shift_down=min(policy.most_shift, policy.shift + max(0.0, -EXPECTED_TIMES * expected.shift)),
        )


class Evidence(Struct, frozen=True, kw_only=True):
    """What one signal shows. `wealth` is evidence against the model: 100 is as rare as 1 in 100 for a good one."""

    signal: Signal
    seen: int
    mean: float  # in the signal's own terms
    limit: float
    wealth: float
    needed: float
    about: str = ""  # the input, of `inputs`
    counts: bool = True  # whether a breach of it would roll back


class GuardState(Struct, frozen=True):
    """What is remembered between looks."""

    breaches: int = 0
    held: bool = False


class Verdict(Struct, frozen=True, kw_only=True):
    """A decision and what it rests on."""

    decision: GuardDecision
    reason: str
    evidence: list[Evidence] = []
    drift: float | None = None  # population stability index, judged against reference
    p99_ms: dict[str, float | None] = {}

    def story(self) -> dict[str, object]:
        """For the journal."""
        shown = {
            one.signal.value: {
                "seen": one.seen,
                "mean": round(one.mean, 4),
                "limit": round(one.limit, 4),
                "wealth": float(f"{one.wealth:.3g}"),
                "needed": round(one.needed, 1),
            }
            for one in self.evidence
            if one.seen
        }
        return {**shown, "drift": None if self.drift is None else round(self.drift, 3), "p99_ms": self.p99_ms}


def epoch_of(since: float, now: float, policy: GuardPolicy) -> int:
    """Which run of the tests a moment falls in, from 1."""
    return 1 + max(0, int((now - since) // policy.epoch_s))


def judge(
    counts: Mapping[str, int],
    labels: Mapping[str, int],
    stage: RolloutStage,
    epoch: int,
    state: GuardState,
    policy: GuardPolicy,
    expected: ExpectedDifference | None = None,
) -> tuple[Verdict, GuardState]:
    """One look.

    Args:
        counts: Observed since the epoch began (`models.rollout.observations`).
        labels: The same for matured labels, since the stage began.
        stage: Of the rollout.
        epoch: As `epoch_of` says.
        state: As the last look returned it; a new one for a new stage.
        policy: Limits.
        expected: What is known of the two models' difference.
    """
    evidence = weigh(counts, labels, stage, epoch, policy, expected or ExpectedDifference())
    breached = [one for one in evidence if one.counts and one.wealth >= one.needed and _enough(one, policy)]
    breaches = state.breaches + 1 if breached else 0
    known = expected or ExpectedDifference()
    drift = drift_of(counts)
    held = _held(state, evidence, policy)
    after = GuardState(breaches=breaches, held=held)
    decision, reason = GuardDecision.GO, "all signals are within their limits"
    if breached:
        decision = GuardDecision.BREACH if breaches >= policy.looks else GuardDecision.HOLD
        reason = "; ".join(_said(one) for one in breached)
    elif waits := _waits_for(counts, held, drift, policy, known):
        decision, reason = GuardDecision.HOLD, waits
    p99_ms = {arm: _p99_ms(counts, f"ms_{arm}") for arm in ("judged", "reference")}
    return Verdict(decision=decision, reason=reason, evidence=evidence, drift=drift, p99_ms=p99_ms), after


def weigh(
    counts: Mapping[str, int],
    labels: Mapping[str, int],
    stage: RolloutStage,
    epoch: int,
    policy: GuardPolicy,
    expected: ExpectedDifference,
) -> list[Evidence]:
    """Every signal's evidence."""
    needed = len(Signal) / spent(policy.alpha, epoch)
    needed_of_labels = len(Signal) / policy.alpha  # they do not begin again
    diffs = list(steps(counts, "diff"))
    gained = list(steps(labels, "label"))
    # Each value counts as the edge of its step that speaks for the model.
    sizes = [(min(abs(edge) for edge in edges(step)), count) for step, count in diffs]
    squares = [(size**2, count) for size, count in sizes]
    differs = [(float(size >= DIFFERS - 1e-9), count) for size, count in sizes]
    up = [(_within(edges(step)[0]), count) for step, count in diffs]
    down = [(_within(-edges(step)[1]), count) for step, count in diffs]
    lost = [(edges(step)[0], count) for step, count in gained]
    late = [(1.0, counts.get("late", 0)), (0.0, counts.get("in_time", 0))]
    stale = [(1.0, counts.get("stale", 0)), (0.0, counts.get("fresh", 0))]
    cleared = _cleared(gained, needed_of_labels, policy)
    limits = Limits.of(policy, expected)
    # In watch both models read the same features: going back would not make them any better.
    of_features = frozenset({Signal.STALE, Signal.INPUTS} if stage is RolloutStage.WATCH else ())
    found = [
        _signed(Signal.ERRORS, _excess(counts, "error"), policy.more_errors, needed),
        _signed(Signal.SLOW, _excess(counts, "slow"), policy.more_slow, needed),
        _plain(Signal.LATE, late, policy.most_late, needed),
        _plain(Signal.STALE, stale, policy.most_stale, needed),
        _inputs(counts, expected, policy, needed),
        _signed(Signal.MATURED_LOSS, lost, policy.matured_loss, needed_of_labels),
        _plain(Signal.ESTIMATED_LOSS, squares, limits.estimated_loss, needed),
        _plain(Signal.DISAGREEMENT, differs, limits.differing, needed),
        _signed(Signal.SHIFT_UP, up, limits.shift_up, needed, SHIFT_WITHIN),
        _signed(Signal.SHIFT_DOWN, down, limits.shift_down, needed, SHIFT_WITHIN),
    ]
    return [
        replace(one, counts=False)
        if (cleared and one.signal in RESTS_ON_REFERENCE) or one.signal in of_features
        else one
        for one in found
    ]


def drift_of(counts: Mapping[str, int]) -> float | None:
    """How far the judged model's probabilities are spread otherwise than the reference's; None: too little seen."""
    tenths: dict[str, list[float]] = {}
    for arm in ("judged", "reference"):
        tenths[arm] = [0.0] * TENTHS
        for step, count in steps(counts, arm):
            tenths[arm][step * TENTHS // SCORE_STEPS] += count
    if sum(tenths["judged"]) < SCORE_STEPS:
        return None
    return stability_index(tenths["judged"], tenths["reference"])


def _plain(signal: Signal, values: list[tuple[float, int]], limit: float, needed: float) -> Evidence:
    """Values from 0 to 1, as they are."""
    seen = sum(count for _, count in values)
    mean = math.fsum(value * count for value, count in values) / seen if seen else 0.0
    wealth = _exp(log_wealth(values, limit))
    return Evidence(signal=signal, seen=seen, mean=mean, limit=limit, wealth=wealth, needed=needed)


def _signed(
    signal: Signal, values: Iterable[tuple[float, int]], limit: float, needed: float, most: float = 1.0
) -> Evidence:
    """Values from -most to most, brought to 0 to 1 for the test."""
    brought = [((value / most + 1) / 2, count) for value, count in values]
    found = _plain(signal, brought, (limit / most + 1) / 2, needed)
    return replace(found, mean=most * (2 * found.mean - 1) if found.seen else 0.0, limit=limit)


def _within(difference: float) -> float:
    return max(-SHIFT_WITHIN, min(SHIFT_WITHIN, difference))


def _inputs(
    counts: Mapping[str, int], expected: ExpectedDifference, policy: GuardPolicy, needed: float
) -> Evidence:
    """A test for each input; the mean of their wealths is evidence, too. It names the worst of them."""
    rows, wealths, worst = counts.get("rows", 0), [], (0.0, 0.0, "")
    for name, share in expected.empty.items():
        limit = share + policy.more_empty
        if limit >= MAX_EMPTY:
            continue
        empty = min(rows, counts.get(f"empty:{name}", 0))
        wealths.append(_exp(log_wealth([(1.0, empty), (0.0, rows - empty)], limit)))
        if rows:
            worst = max(worst, (empty / rows - limit, empty / rows, name))
    wealth = math.fsum(wealths) / len(wealths) if wealths else 1.0
    seen = rows if wealths else 0
    limit = worst[1] - worst[0]
    return Evidence(
        signal=Signal.INPUTS,
        seen=seen,
        mean=worst[1],
        limit=limit,
        wealth=wealth,
        needed=needed,
        about=worst[2],
    )


def _excess(counts: Mapping[str, int], name: str) -> list[tuple[float, int]]:
    """1 where it happened to the judged one alone, -1 where to the reference alone, 0 where to both or neither."""
    calls = by_who(counts, name)
    return [(1.0, calls["judged"]), (-1.0, calls["reference"]), (0.0, calls["both"] + calls["none"])]


def _cleared(gained: list[tuple[int, int]], needed: float, policy: GuardPolicy) -> bool:
    """Whether labels show that it is no worse than the limit allows."""
    if sum(count for _, count in gained) < policy.least_labels:
        return False
    better = [((1 - edges(step)[1]) / 2, count) for step, count in gained]
    return _exp(log_wealth(better, (1 - policy.matured_loss) / 2)) >= needed


def _enough(one: Evidence, policy: GuardPolicy) -> bool:
    if one.signal in {Signal.ERRORS, Signal.SLOW, Signal.LATE}:
        return one.seen >= policy.least_calls
    return one.seen >= (policy.least_labels if one.signal is Signal.MATURED_LOSS else policy.least_rows)


def _held(state: GuardState, evidence: list[Evidence], policy: GuardPolicy) -> bool:
    most = max((one.wealth for one in evidence if one.counts), default=0.0)
    return most >= (policy.settled if state.held else policy.suspicious)


def _waits_for(
    counts: Mapping[str, int], held: bool, drift: float | None, policy: GuardPolicy, known: ExpectedDifference
) -> str:
    rows = sum(count for _, count in steps(counts, "diff"))
    calls = sum(by_who(counts, "error").values())
    if rows < policy.least_rows or calls < policy.least_calls:
        return f"too little seen: {rows} rows of {policy.least_rows}, {calls} calls of {policy.least_calls}"
    if held:
        return "a signal is suspicious"
    if drift is not None and drift >= policy.drift + EXPECTED_TIMES * known.drift:
        return f"probabilities are spread otherwise than the reference's (index {drift:.2f})"
    return ""


def _said(one: Evidence) -> str:
    about = f" ({one.about} empty)" if one.about else ""
    return f"{one.signal.value.replace('_', ' ')}{about} {one.mean:.3g}, limit {one.limit:g}, over {one.seen}"


def _p99_ms(counts: Mapping[str, int], name: str) -> float | None:
    """The upper edge of the step that holds the 99th percentile."""
    found = sorted(steps(counts, name))
    rank = math.ceil(0.99 * sum(count for _, count in found))
    seen = 0
    for step, count in found:
        seen += count
        if seen >= rank:
            return round(ms_edge(step), 2)
    return None


def _exp(log: float) -> float:
    return math.exp(min(log, 700.0))
