"""What "80%" means: a threshold whose precision is certified, else no answer.

    score ≤ stays.threshold          between: abstain          score ≥ churn.threshold
    ├───────── stays ─────────┼──────────────────────────────┼───────── churn ─────────┤

Each side is certified on its own: with 95% confidence, of the advertisers it answers for, at least 80% do what it
says. The proof makes no use of the probabilities being right:

1. *Candidate thresholds* are quantiles of scores of the fitting side's accounts: first the one that looks surest on
   those, then ever wider ones. Neither depends on an outcome the test below sees.
2. *The sample* is the calibration window: accounts the model has never seen. Every week weighs the same, or one in
   which everybody leaves would speak for all.
3. *The bound respects that accounts repeat*: weeks of one account resemble each other, so rows would count for more
   than they are. It is the exact binomial (Clopper-Pearson) bound on the effective number of accounts, which follows
   from how much the accounts differ (Korn and Graubard), and is never more than their number.
4. *A fixed sequence*: in that order, each at the full level, until one fails. Testing in an order fixed beforehand
   needs no correction for how many are tested, and all that passed are certified at once. Each side takes the widest
   of these on its half of the probabilities.

What is certified holds for advertisers and weeks like those of the calibration window. The final test is later, so it
may refute it: a side whose lower bound there is not again at least 80% is withdrawn, and abstains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct, field, structs
from scipy.special import betaincinv

from models.dataset.matrix import Floats, calibrate

Ints = npt.NDArray[np.int64]
Decision = Literal["churn", "stays", "abstain"]
SIDES: tuple[Literal["churn", "stays"], ...] = ("churn", "stays")

_HAIR = 1e-12
_SHARES = (
    0.02,
    0.05,
    0.1,
    0.15,
    0.2,
    0.25,
    0.3,
    0.35,
    0.4,
    0.45,
    0.5,
    0.55,
    0.6,
    0.65,
    0.7,
    0.75,
    0.8,
    0.85,
    0.9,
)


@dataclass(frozen=True, slots=True)
class CertificationPolicy:
    """The precision asked for and how sure one has to be of it. Both between 0 and 1."""

    precision: float = 0.8
    confidence: float = 0.95

    @property
    def fewest(self) -> int:
        """Answers below which not even a flawless record would do."""
        return int(np.ceil(np.log(1.0 - self.confidence) / np.log(self.precision)))


class Certificate(Struct, frozen=True, kw_only=True):
    """One side of the decision. `threshold` is a calibrated probability; null: it abstains, and `why` says why."""

    decision: Literal["churn", "stays"]
    threshold: float | None
    precision_low: float | None  # certified: lower bound at `confidence`
    precision: float | None  # as observed on the calibration rows, every week weighing the same
    coverage: float  # share of those rows it answers for; 0 where it abstains
    answered: int  # of the calibration rows
    accounts: int  # among these
    confidence: float
    reason: str = field(default="", name="why")


@dataclass(frozen=True, slots=True)
class RowSample:
    """Calibration rows; arrays are of shape `(rows,)`."""

    scores: Floats
    churned: Floats  # 0 or 1
    accounts: Ints  # an integer code per account
    weights: Floats

    @classmethod
    def of_weeks(cls, scores: Floats, churned: Floats, accounts: Ints, as_of: Floats) -> RowSample:
        """Every week, by `as_of`, weighs the same."""
        _, week = np.unique(as_of, return_inverse=True)
        return cls(scores, churned, accounts, 1.0 / np.bincount(week)[week])


class Bound(Struct, frozen=True):
    """A share and its lower bound, one-sided; both are 0 without rows."""

    share: float
    low: float
    rows: int
    accounts: int


def decide(
    probabilities: Floats, certificates: tuple[Certificate, ...] | list[Certificate]
) -> list[Decision]:
    """The decision for each calibrated probability, shape `(rows,)`. The sides do not overlap."""
    decisions: list[Decision] = ["abstain"] * len(probabilities)
    for certificate in certificates:
        for row in np.flatnonzero(answers(probabilities, certificate)):
            decisions[row] = certificate.decision
    return decisions


def answers(probabilities: Floats, certificate: Certificate) -> npt.NDArray[np.bool_]:
    """Which rows a side answers for, shape `(rows,)`."""
    if certificate.threshold is None:
        return np.zeros(len(probabilities), dtype=np.bool_)
    if certificate.decision == "churn":
        return probabilities >= certificate.threshold
    return probabilities <= certificate.threshold


def bound(right: npt.NDArray[np.bool_], accounts: Ints, weights: Floats, confidence: float) -> Bound:
    """How large a share is at least, where rows of one account resemble each other.

    Args:
        right: Shape `(rows,)`.
        accounts: An integer code per account, shape `(rows,)`.
        weights: Of the rows, shape `(rows,)`.
        confidence: One-sided.
    """
    if not len(right):
        return Bound(0.0, 0.0, 0, 0)
    _, number = np.unique(accounts, return_inverse=True)
    by_account = np.bincount(number, weights)
    count = len(by_account)
    share = float(weights @ right / weights.sum())
    residual = np.bincount(number, weights * (right - share))
    variance = float(residual @ residual) / float(weights.sum()) ** 2 * count / max(1, count - 1)
    if variance > 0.0:
        effective = min(float(count), share * (1.0 - share) / variance)
    else:  # all alike: as many accounts of equal weight as would weigh like these
        effective = float(by_account.sum() ** 2 / (by_account @ by_account))
    hits = effective * share
    low = float(betaincinv(hits, effective - hits + 1.0, 1.0 - confidence)) if hits > 0.0 else 0.0
    return Bound(share, low, len(right), count)


def certify(
    reference: RowSample,
    sample: RowSample,
    middles: tuple[float, float],
    policy: CertificationPolicy | None = None,
) -> list[Certificate]:
    """The widest thresholds of both sides whose precision is certified: churn, then stays.

    Every threshold that passed is certified at once, so one may pick among them. Each side keeps to its half of the
    probabilities: no answer says what its own probability denies.

    Args:
        reference: Rows of other accounts, from which the candidates and their order come.
        sample: The calibration rows, of accounts that neither the model nor the reference has seen.
        middles: The score whose probability is one half, as the reference has it and as the sample has it.
        policy: What is asked for.

    Returns:
        The certificates, their thresholds on the scale of the scores.
    """
    policy = policy or CertificationPolicy()
    size = len(np.unique(sample.accounts))
    found = []
    for decision in SIDES:
        passed, tried = _passed(decision, reference, sample, middles[0], policy)
        inside = [c for c in passed if (c.threshold >= middles[1]) == (decision == "churn")]
        widest = max(inside, key=lambda candidate: candidate.coverage, default=None)
        found.append(_certificate(decision, widest, size, tried, policy))
    return found


def on_probabilities(certificate: Certificate, slope: float, intercept: float) -> Certificate:
    """A threshold on raw scores as one on the calibrated probability: the map keeps the order."""
    if certificate.threshold is None:
        return certificate
    moved = float(calibrate(np.array([certificate.threshold]), slope, intercept)[0])
    # Outwards by a hair, so that a score at the threshold itself is answered whatever its last bit.
    return structs.replace(
        certificate, threshold=moved - _HAIR if certificate.decision == "churn" else moved + _HAIR
    )


def withdrawn(certificate: Certificate, reason: str) -> Certificate:
    """The same side without its threshold: it abstains, and says why."""
    return structs.replace(certificate, threshold=None, precision_low=None, coverage=0.0, reason=reason)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A threshold and its record on the sample."""

    threshold: float
    coverage: float
    bound: Bound


def _passed(
    decision: Literal["churn", "stays"],
    reference: RowSample,
    sample: RowSample,
    middle: float,
    policy: CertificationPolicy,
) -> tuple[list[_Candidate], int]:
    """The fixed sequence of one side until the first test that fails: what passed, and how many were tested."""
    sign = 1.0 if decision == "churn" else -1.0
    wanted = 1.0 if decision == "churn" else 0.0
    scores, right = sign * sample.scores, sample.churned == wanted
    passed: list[_Candidate] = []
    tried = 0
    for threshold in _ordered(decision, reference, middle, policy):
        inside = scores >= threshold
        if len(np.unique(sample.accounts[inside])) < policy.fewest:
            continue  # by its size alone, whatever the outcomes: the order stays fixed
        tried += 1
        found = bound(right[inside], sample.accounts[inside], sample.weights[inside], policy.confidence)
        if found.low < policy.precision:
            break
        coverage = float(sample.weights[inside].sum() / sample.weights.sum())
        passed.append(_Candidate(sign * threshold, coverage, found))
    return passed, tried


def _ordered(
    decision: Literal["churn", "stays"], reference: RowSample, middle: float, policy: CertificationPolicy
) -> list[float]:
    """Thresholds in the order they are tested: the surest on the reference's half, then ever wider ones.

    Of scores with their sign turned for "stays", so that higher is narrower.
    """
    if not len(reference.scores):
        return []
    sign, wanted = (1.0, 1.0) if decision == "churn" else (-1.0, 0.0)
    scores, right = sign * reference.scores, reference.churned == wanted
    thresholds = np.unique(np.quantile(scores, [1.0 - share for share in _SHARES]))[::-1]
    sure = []
    for threshold in thresholds[thresholds >= sign * middle]:
        inside = scores >= threshold
        found = bound(right[inside], reference.accounts[inside], reference.weights[inside], policy.confidence)
        sure.append(found.low)
    return [float(threshold) for threshold in thresholds[int(np.argmax(sure)) :]] if sure else []


def _certificate(
    decision: Literal["churn", "stays"],
    found: _Candidate | None,
    sample: int,
    tried: int,
    policy: CertificationPolicy,
) -> Certificate:
    if found is None:
        reason = (
            f"no threshold reaches a precision of {policy.precision:.0%} with {policy.confidence:.0%} confidence "
            f"on {sample} accounts"
            if tried
            else f"{sample} accounts are too few: {policy.fewest} answers are the fewest that could do"
        )
        return Certificate(
            decision=decision,
            threshold=None,
            precision_low=None,
            precision=None,
            coverage=0.0,
            answered=0,
            accounts=0,
            confidence=policy.confidence,
            reason=reason,
        )
    return Certificate(
        decision=decision,
        threshold=found.threshold,
        precision_low=found.bound.low,
        precision=found.bound.share,
        coverage=found.coverage,
        answered=found.bound.rows,
        accounts=found.bound.accounts,
        confidence=policy.confidence,
    )
