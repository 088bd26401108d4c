"""How good are the probabilities, compared with two baselines, on rows later than anything trained on.

Intervals come from drawing whole advertisers again and again, each with all its rows: the weeks of one advertiser
resemble each other, and single rows would look like more evidence than they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from models.evaluation.certification import Certificate, CertificationPolicy, answers, bound, withdrawn
from models.evaluation.measures import (
    CalibrationBin,
    Floats,
    Ranked,
    Tally,
    auc,
    calibration_table,
    recentred,
)

__all__ = [
    "Evaluation",
    "EvaluationPolicy",
    "Judged",
    "Scores",
    "auc",
    "calibration_table",
    "evaluate",
    "score",
]

Ints = npt.NDArray[np.int64]


class Scores(Struct, frozen=True, kw_only=True):
    """One model on one set of rows. Lower is better for `brier`, `log_loss` and `calibration_error`."""

    auc: float
    average_precision: float  # area under precision and recall; compare with the base rate
    brier: float
    log_loss: float
    calibration_error: float
    lift_5: float  # churn among the highest 5% by the base rate
    lift_10: float


class Interval(Struct, frozen=True, kw_only=True):
    """95%, resampling advertisers with all their rows."""

    low: float
    high: float


class Answered(Struct, frozen=True, kw_only=True):
    """What came of the answers of one side of the decision, or of both."""

    decision: Literal["churn", "stays", "either"]
    rows: int
    advertisers: int
    coverage: float  # share of the rows answered
    precision: float | None  # share of the answers that were right; null without any
    precision_low: float | None  # lower bound, one-sided at the confidence of the certificate


class Segment(Struct, frozen=True, kw_only=True):
    """The same measures on a part of the rows; null where they are not defined."""

    by: str
    name: str
    rows: int
    advertisers: int
    base_rate: float
    auc: float | None
    recency_auc: float | None
    brier: float
    calibration_error: float
    coverage: float
    precision: float | None


class Week(Struct, frozen=True, kw_only=True):
    """One cutoff of the test: the level that was predicted and the one that came."""

    as_of: float  # seconds since the epoch
    rows: int
    predicted: float
    observed: float
    auc: float | None


class Evaluation(Struct, frozen=True, kw_only=True):
    """The model and the two baselines on the same test rows."""

    rows: int
    advertisers: int
    base_rate: float
    model: Scores
    baseline: Scores  # recency
    logistic: Scores
    auc_gain: float  # model minus recency
    auc_gain_low: float  # 95% interval
    auc_gain_high: float
    logistic_gain: Interval  # of the AUC, model minus logistic baseline
    intervals: dict[str, Interval]  # of the model's scores, by their name
    calibration: list[CalibrationBin]
    level_error: float  # mean probability minus base rate
    calibration_error_recentred: float  # what is left of the error once the level is right
    answered: list[Answered]  # churn, stays, either: at the certified thresholds
    segments: list[Segment]
    weeks: list[Week]

    @property
    def beats_baseline(self) -> bool:
        """Whether the whole interval of the gain over recency lies above 0."""
        return self.auc_gain_low > 0.0

    @property
    def decided(self) -> Answered:
        """Both sides together."""
        return self.answered[-1]


@dataclass(frozen=True, slots=True)
class EvaluationPolicy:
    """How much resampling, and from which seed."""

    resamples: int = 400
    bins: int = 10
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Segmentation:
    """A partition of rows: the parts' names in their order, and the number of each row's part, shape `(rows,)`."""

    names: tuple[str, ...]
    part: Ints


@dataclass(frozen=True, slots=True)
class Judged:
    """Test rows: what was said of each and what came. Arrays share their first axis, `rows`."""

    churned: Floats  # 0 or 1
    model: Floats  # calibrated probabilities
    recency: Floats  # probabilities of the recency baseline
    logistic: Floats  # and of the logistic one
    advertisers: Ints  # an integer code per advertiser, from 0 up
    as_of: Floats  # the cutoff, seconds since the epoch
    segments: Mapping[str, Segmentation] = field(default_factory=dict)  # by what


def score(churned: Floats, probabilities: Floats) -> Scores:
    """Ranking and probability measures of one model; both arrays are of shape `(rows,)`."""
    return scores_of(Ranked(churned, probabilities).tally())


def scores_of(tally: Tally) -> Scores:
    """All measures of one tally."""
    return Scores(
        auc=tally.auc(),
        average_precision=tally.average_precision(),
        brier=tally.brier(),
        log_loss=tally.log_loss(),
        calibration_error=tally.calibration_error(),
        lift_5=tally.lift(0.05),
        lift_10=tally.lift(0.10),
    )


def evaluate(
    judged: Judged,
    certificates: Sequence[Certificate] = (),
    policy: EvaluationPolicy | None = None,
    certification: CertificationPolicy | None = None,
) -> Evaluation:
    """Measure a model and the baselines on the same rows; both outcomes must occur.

    Args:
        judged: The test rows.
        certificates: Where the model answers.
        policy: Resampling; 400 times by default.
        certification: The confidence of the lower bounds.
    """
    policy = policy or EvaluationPolicy()
    models = {
        name: Ranked(judged.churned, getattr(judged, name)) for name in ("model", "recency", "logistic")
    }
    drawn = _resample(judged, models, policy)
    found = {name: scores_of(ranked.tally()) for name, ranked in models.items()}
    gain, logistic_gain = (_interval(drawn[name]) for name in ("gain", "logistic_gain"))
    return Evaluation(
        rows=len(judged.churned),
        advertisers=len(np.unique(judged.advertisers)),
        base_rate=float(judged.churned.mean()),
        model=found["model"],
        baseline=found["recency"],
        logistic=found["logistic"],
        auc_gain=found["model"].auc - found["recency"].auc,
        auc_gain_low=gain.low,
        auc_gain_high=gain.high,
        logistic_gain=logistic_gain,
        intervals={name: _interval(drawn[name]) for name in Scores.__struct_fields__},
        calibration=calibration_table(judged.churned, judged.model, policy.bins),
        level_error=float(judged.model.mean() - judged.churned.mean()),
        calibration_error_recentred=Ranked(judged.churned, recentred(judged.churned, judged.model))
        .tally()
        .calibration_error(policy.bins),
        answered=judge_answers(judged, certificates, certification),
        segments=_segments(judged, certificates),
        weeks=_weeks(judged),
    )


def judge_answers(
    judged: Judged,
    certificates: Sequence[Certificate],
    certification: CertificationPolicy | None = None,
) -> list[Answered]:
    """What came of the answers: of the side of churn, of that of stays, of both."""
    confidence = (certification or CertificationPolicy()).confidence
    said = {"churn": np.zeros(len(judged.churned), dtype=np.bool_)}
    said["stays"] = said["churn"].copy()
    for certificate in certificates:
        said[certificate.decision] = answers(judged.model, certificate)
    right = np.where(said["churn"], judged.churned, 1.0 - judged.churned)
    sides = (("churn", said["churn"]), ("stays", said["stays"]), ("either", said["churn"] | said["stays"]))
    return [
        _answered(name, mask, right, judged.advertisers, confidence)  # type: ignore[arg-type]
        for name, mask in sides
    ]


def confirm(
    judged: Judged,
    certificates: Sequence[Certificate],
    certification: CertificationPolicy | None = None,
) -> list[Certificate]:
    """Certificates that the later rows do not refute; a side they refute abstains from now on, and says why."""
    asked = (certification or CertificationPolicy()).precision
    kept = []
    for certificate in certificates:
        came = judge_answers(judged, [certificate], certification)[-1]
        if certificate.threshold is None or (came.precision_low is not None and came.precision_low >= asked):
            kept.append(certificate)
            continue
        found = (
            "it gave no answer there"
            if came.precision_low is None
            else f"the lower bound is {came.precision_low:.1%}"
        )
        reason = (
            f"certified on the calibration rows, not confirmed by the test: of {came.rows} answers on later rows "
            f"{came.precision or 0.0:.1%} were right, {found}, and {asked:.0%} is asked for"
        )
        kept.append(withdrawn(certificate, reason))
    return kept


def _answered(
    decision: Literal["churn", "stays", "either"],
    mask: npt.NDArray[np.bool_],
    right: Floats,
    advertisers: Ints,
    confidence: float,
) -> Answered:
    found = bound(right[mask] == 1.0, advertisers[mask], np.ones(int(mask.sum())), confidence)
    return Answered(
        decision=decision,
        rows=found.rows,
        advertisers=found.accounts,
        coverage=found.rows / len(mask),
        precision=found.share if found.rows else None,
        precision_low=found.low if found.rows else None,
    )


def _resample(
    judged: Judged, models: Mapping[str, Ranked], policy: EvaluationPolicy
) -> dict[str, list[float]]:
    """Each measure of the model, and its AUC's gains, over draws of whole advertisers."""
    rng = np.random.default_rng(policy.seed)
    population = int(judged.advertisers.max()) + 1
    drawn: dict[str, list[float]] = {
        name: [] for name in (*Scores.__struct_fields__, "gain", "logistic_gain")
    }
    for _ in range(policy.resamples):
        counts = np.bincount(rng.integers(0, population, population), minlength=population)
        weights = counts[judged.advertisers].astype(np.float64)
        if not weights.any():
            continue
        found = scores_of(models["model"].tally(weights))
        for name in Scores.__struct_fields__:
            drawn[name].append(getattr(found, name))
        drawn["gain"].append(found.auc - models["recency"].tally(weights).auc())
        drawn["logistic_gain"].append(found.auc - models["logistic"].tally(weights).auc())
    return drawn


def _interval(values: Sequence[float]) -> Interval:
    finite = np.array(values)[np.isfinite(values)]
    if not len(finite):
        return Interval(low=float("nan"), high=float("nan"))
    low, high = np.percentile(finite, (2.5, 97.5))
    return Interval(low=float(low), high=float(high))


def _segments(judged: Judged, certificates: Sequence[Certificate]) -> list[Segment]:
    found = []
    for by, segmentation in judged.segments.items():
        for number, name in enumerate(segmentation.names):
            inside = segmentation.part == number
            if not inside.any():
                continue
            part = Judged(
                churned=judged.churned[inside],
                model=judged.model[inside],
                recency=judged.recency[inside],
                logistic=judged.logistic[inside],
                advertisers=judged.advertisers[inside],
                as_of=judged.as_of[inside],
            )
            found.append(_segment(by, name, part, certificates))
    return found


def _segment(by: str, name: str, part: Judged, certificates: Sequence[Certificate]) -> Segment:
    tally = Ranked(part.churned, part.model).tally()
    decided = judge_answers(part, certificates)[-1]
    return Segment(
        by=by,
        name=name,
        rows=len(part.churned),
        advertisers=len(np.unique(part.advertisers)),
        base_rate=float(part.churned.mean()),
        auc=_known(tally.auc()),
        recency_auc=_known(auc(part.churned, part.recency)),
        brier=tally.brier(),
        calibration_error=tally.calibration_error(),
        coverage=decided.coverage,
        precision=decided.precision,
    )


def _weeks(judged: Judged) -> list[Week]:
    weeks = []
    for as_of in np.unique(judged.as_of):
        inside = judged.as_of == as_of
        weeks.append(
            Week(
                as_of=float(as_of),
                rows=int(inside.sum()),
                predicted=float(judged.model[inside].mean()),
                observed=float(judged.churned[inside].mean()),
                auc=_known(auc(judged.churned[inside], judged.model[inside])),
            )
        )
    return weeks


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
