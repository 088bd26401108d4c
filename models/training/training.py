"""From events to a measured churn model.

    events ─► weekly cutoffs ─► labels + point-in-time features ─► split in time, and accounts into two sides
           ─► candidates on rolling inner folds ─► the best, fitted on the fitting side's accounts
           ─► calibrated, and its thresholds certified, on the other side's newest weeks
           ─► test, once ─► a threshold that the test refutes is withdrawn ─► leakage gate

What was measured is what serves: the model is not refitted on the test rows, so the figures are its own. How time and
accounts are cut stands in `models.dataset.split`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import sklearn

from models.dataset.inputs import INPUTS, INPUTS_NAME, INPUTS_VERSION
from models.dataset.labels import (
    DAY_S,
    count_labels,
    data_end,
    dated_by_day,
    observed_until,
    weekly_cutoffs,
    with_population,
)
from models.dataset.matrix import Floats, calibrate
from models.dataset.split import Split, TooLittleDataError, rolling_folds, split_at, temporal_split
from models.evaluation.certification import (
    Certificate,
    Ints,
    RowSample,
    certify,
    on_probabilities,
)
from models.evaluation.evaluation import Evaluation, Judged, confirm, evaluate
from models.evaluation.expected_difference import sample
from models.evaluation.leakage import Finding, ceiling, future_shuffle, label_permutation
from models.evaluation.measures import auc
from models.training.calibration import Calibration, calibrate_weeks
from models.training.candidates import (
    BLENDED,
    CANDIDATES,
    RECENCY,
    Steps,
    choose,
    fit_balanced,
    logistic_baseline,
    recency_baseline,
    score,
)
from models.training.card import ModelCard, TrainedModel
from models.training.policy import TrainingPolicy
from models.training.rows import LabelledSet, features_at, labelled_set, segments_of
from tocsin.clock import to_datetime

__all__ = [
    "CANDIDATES",
    "LabelledSet",
    "features_at",
    "fit",
    "fit_and_score",
    "labelled_set",
    "train",
]

_MORE = "import more activity, then run it again"

Job = tuple[str, int, LabelledSet, LabelledSet]  # candidate, seed, rows to fit on, rows to score
Run = Callable[[Callable[[Job], Floats], Sequence[Job]], Iterable[Floats]]


@dataclass(frozen=True, slots=True)
class _Sides:
    """The training rows by what they are for. The two sides share no account."""

    fitting: LabelledSet  # all training weeks
    calibrating: LabelledSet  # the newest of them
    before: tuple[float, ...]  # the cutoffs before those newest


@dataclass(frozen=True, slots=True)
class _Reference:
    """Scores of the fitting side's own later weeks: what the order of the thresholds is taken from."""

    sample: RowSample
    middle: float  # the score whose probability is one half there

    @classmethod
    def of(cls, scores: Floats, churned: Floats, accounts: Ints, as_of: Floats) -> _Reference:
        return cls(
            RowSample.of_weeks(scores, churned, accounts, as_of),
            calibrate_weeks(scores, churned, as_of).middle,
        )


def train(
    events: pd.DataFrame,
    policy: TrainingPolicy | None = None,
    *,
    now: float,
    train_until: float | None = None,
    anchor: float | None = None,
    run: Run = map,
    say: Callable[[str], None] = lambda _: None,
) -> TrainedModel:
    """Train, choose, calibrate, certify and measure a churn model.

    Args:
        events: As made by `features.offline.point_in_time.event_frame`, in any order of time.
        policy: Split, sizes and seed.
        now: Written down as the time of creation, seconds since the epoch; nothing else depends on it.
        train_until: Labels learned from end by then, and every cutoff from then on is tested, seconds since the
            epoch. By default the newest `test_share` of the cutoffs is tested.
        anchor: A moment the weekly grid runs through; the end of the data by default.
        run: How to do independent fits; `map`, or one that spreads them over machines.
        say: Told what is being done, a phrase each.

    Raises:
        TooLittleDataError: Too short a span, too few rows, or one class only; says what was found and is needed.
    """
    policy = policy or TrainingPolicy()
    split = _split(events, policy, train_until, anchor)
    say(f"features of {len(split.train) + len(split.test)} weeks")
    rows = labelled_set(events, (*split.train, *split.test), policy.labels)
    tested = rows.at(split.test)
    sides = _sides(rows, split, policy)
    _check(rows.at(split.train), policy.min_rows, "train on")
    _check(sides.fitting, policy.min_rows // 2, "fit on")
    _check(sides.calibrating, policy.min_calibration_rows, "calibrate on")
    _check(tested, policy.min_test_rows, "test on")
    say("choosing among " + ", ".join(CANDIDATES))
    selection, reference = _select(sides, policy, run)
    winner = choose(selection)
    say(f"fitting {winner}, calibrating, certifying")
    estimator = fit(CANDIDATES[winner](policy.seed), sides.fitting)
    calibration, certificates = _calibrate(
        score(estimator, sides.calibrating.raw), reference.get(winner), estimator, sides, policy
    )
    say("testing on later weeks")
    judged = _judge(estimator, calibration, sides.fitting, tested)
    resampling = replace(policy.evaluation, seed=policy.seed)
    certificates = confirm(judged, certificates, policy.certification)
    evaluation = evaluate(judged, certificates, resampling, policy.certification)
    say("asking the leakage gate")
    findings = _gate(events, rows, split, winner, evaluation.model.auc, policy)
    card = _card(
        sides,
        tested,
        split,
        policy,
        algorithm=winner,
        selection=selection,
        calibration=calibration,
        certificates=certificates,
        evaluation=evaluation,
        findings=findings,
        now=now,
    )
    return TrainedModel(estimator=estimator, card=card, judged=judged, reference=sample(tested.raw))


def _split(
    events: pd.DataFrame, policy: TrainingPolicy, train_until: float | None, anchor: float | None
) -> Split:
    if events.empty:
        raise TooLittleDataError("there is no activity to train on", hint=_MORE)
    times = events["event_time"].to_numpy(dtype=np.float64)
    data = data_end(events)
    first, last, daily = float(times.min()), data.moment, dated_by_day(times[times <= data.bound])
    cutoffs = with_population(
        times, weekly_cutoffs(first, last, policy.labels, anchor=anchor, dates_only=daily), policy.labels
    )
    end = observed_until(last, dates_only=daily)
    if train_until is None:
        if len(cutoffs) < policy.min_cutoffs:
            raise TooLittleDataError(
                f"the activity spans {max(0, int((end - first) // DAY_S))} days; training needs "
                f"{policy.min_span_days} ({policy.min_cutoffs} weekly cutoffs, {policy.labels.active_window_days} "
                f"days before the first and {policy.labels.horizon_days} after the last)",
                hint=_MORE,
            )
        return temporal_split(cutoffs, policy.test_share, policy.labels.gap_s)
    split = split_at(cutoffs, train_until, policy.labels.gap_s)
    if len(split.train) < policy.min_train_cutoffs or not split.test:
        raise TooLittleDataError(
            f"the activity of {_day(first)} to {_day(end)} has {len(split.train)} weekly cutoffs whose labels end by "
            f"{_day(train_until)} and {len(split.test)} complete ones from then on; {policy.min_train_cutoffs} and 1 "
            f"are needed",
            hint="train until a later or an earlier day, ask for a shorter horizon, or give more activity",
        )
    return split


def _day(moment: float) -> str:
    return f"{to_datetime(moment):%Y-%m-%d}"


def _sides(rows: LabelledSet, split: Split, policy: TrainingPolicy) -> _Sides:
    """Fitting and calibrating accounts of the training weeks."""
    count = max(1, round(len(split.train) * policy.calibration_share))
    before, newest = split.train[:-count], split.train[-count:]
    held_out = rows.positions >= 1.0 - policy.calibration_accounts
    return _Sides(
        fitting=rows.where(~held_out & np.isin(rows.as_of, split.train)),
        calibrating=rows.where(held_out & np.isin(rows.as_of, newest)),
        before=before,
    )


def _check(rows: LabelledSet, minimum: int, purpose: str) -> None:
    found = len(rows.churned)
    if found < minimum:
        raise TooLittleDataError(f"{found} labelled rows to {purpose}; {minimum} are needed", hint=_MORE)
    if rows.one_class:
        outcome = "churned" if rows.churned[0] else "stayed"
        raise TooLittleDataError(
            f"all {found} labelled rows to {purpose} {outcome}; both outcomes are needed", hint=_MORE
        )


def fit(steps: Steps, rows: LabelledSet) -> Any:
    """A pipeline fitted on week-balanced rows."""
    return fit_balanced(steps, rows.raw, rows.churned, rows.as_of)


def fit_and_score(job: Job) -> Floats:
    """One independent fit: scores of later rows by a candidate fitted on earlier ones."""
    name, seed, earlier, later = job
    return score(fit(CANDIDATES[name](seed), earlier), later.raw)


def _select(
    sides: _Sides, policy: TrainingPolicy, run: Run
) -> tuple[dict[str, float], dict[str, _Reference]]:
    """Mean AUC of each candidate and of recency over the folds; each candidate's scores and outcomes on them.

    Both empty where the weeks before the calibration window are too few to hold a fold with both outcomes.
    """
    rows = sides.fitting
    folds = [
        (rows.at(fold.train), rows.at(fold.test))
        for fold in rolling_folds(sides.before, policy.folds, policy.fold_share, policy.labels.gap_s)
    ]
    folds = [(a, b) for a, b in folds if not (a.one_class or b.one_class)]
    if not folds:
        return {}, {}
    jobs = [(name, policy.seed, earlier, later) for name in BLENDED for earlier, later in folds]
    scores = iter(list(run(fit_and_score, jobs)))
    held_out = {name: [next(scores) for _ in folds] for name in BLENDED}
    # The blend is the mean of the other two, so they need not be fitted again.
    held_out["blend"] = [np.mean(both, axis=0) for both in zip(*held_out.values(), strict=True)]
    later = [part for _, part in folds]
    days = INPUTS.index(RECENCY)
    ranked = {"recency": [part.raw[:, days] for part in later], **held_out}
    selection = {
        name: float(np.mean([auc(part.churned, s) for part, s in zip(later, scores, strict=True)]))
        for name, scores in ranked.items()
    }
    churned, accounts, as_of = (
        np.concatenate([getattr(part, name) for part in later])
        for name in ("churned", "advertisers", "as_of")
    )
    return selection, {
        name: _Reference.of(np.concatenate(parts), churned, accounts, as_of)
        for name, parts in held_out.items()
    }


def _calibrate(
    scores: Floats,
    reference: _Reference | None,
    estimator: Any,
    sides: _Sides,
    policy: TrainingPolicy,
) -> tuple[Calibration, list[Certificate]]:
    """The map from scores to probabilities, and thresholds on the probabilities."""
    rows = sides.calibrating
    calibration = calibrate_weeks(scores, rows.churned, rows.as_of)
    sample = RowSample.of_weeks(scores, rows.churned, rows.advertisers, rows.as_of)
    if reference is None:  # no fold was possible: what it learned from gives candidates as well
        seen = sides.fitting
        reference = _Reference.of(score(estimator, seen.raw), seen.churned, seen.advertisers, seen.as_of)
    middles = reference.middle, calibration.middle
    found = certify(reference.sample, sample, middles, policy.certification)
    return calibration, [on_probabilities(side, calibration.slope, calibration.intercept) for side in found]


def _judge(estimator: Any, calibration: Calibration, fitted: LabelledSet, tested: LabelledSet) -> Judged:
    """The one look at the test rows. The baselines learn from the same rows as the model."""
    days = INPUTS.index(RECENCY)
    return Judged(
        churned=tested.churned,
        model=calibrate(score(estimator, tested.raw), calibration.slope, calibration.intercept),
        recency=recency_baseline(fitted.raw[:, days], fitted.churned, tested.raw[:, days]),
        logistic=logistic_baseline(fitted.raw, fitted.churned, tested.raw),
        advertisers=tested.advertisers,
        as_of=tested.as_of,
        segments=segments_of(tested, INPUTS),
    )


def _gate(
    events: pd.DataFrame,
    rows: LabelledSet,
    split: Split,
    winner: str,
    found_auc: float,
    policy: TrainingPolicy,
) -> list[Finding]:
    fitted, tested = np.isin(rows.as_of, split.train), np.isin(rows.as_of, split.test)

    def again(churned: Floats) -> Floats:
        return fit_and_score(
            (winner, policy.seed, replace(rows, churned=churned).where(fitted), rows.where(tested))
        )

    return [
        future_shuffle(events, split.train + split.test, features_at, policy.seed),
        label_permutation(rows.churned, rows.as_of, tested, again, policy.seed),
        ceiling(found_auc),
    ]


def _card(
    sides: _Sides,
    tested: LabelledSet,
    split: Split,
    policy: TrainingPolicy,
    *,
    algorithm: str,
    selection: dict[str, float],
    calibration: Calibration,
    certificates: list[Certificate],
    evaluation: Evaluation,
    findings: list[Finding],
    now: float,
) -> ModelCard:
    fitting = sides.fitting
    _, week = np.unique(fitting.as_of, return_inverse=True)
    weekly_rates = np.bincount(week, fitting.churned) / np.bincount(week)
    parts: Mapping[str, LabelledSet] = {
        "fitting": fitting,
        "calibration": sides.calibrating,
        "test": tested,
    }
    newest = np.unique(sides.calibrating.as_of)
    return ModelCard(
        created_at=to_datetime(now),
        algorithm=algorithm,
        selection=selection,
        feature_view=INPUTS_NAME,
        feature_view_version=INPUTS_VERSION,
        feature_names=list(INPUTS),
        typical=_typical(fitting.raw),
        calibration=calibration,
        base_rate=float(np.median(weekly_rates)),
        evaluation=evaluation,
        training_rows=len(fitting.churned),
        training_advertisers=len(np.unique(fitting.advertisers)),
        training_cutoffs=[to_datetime(split.train[0]), to_datetime(split.train[-1])],
        test_cutoffs=[to_datetime(split.test[0]), to_datetime(split.test[-1])],
        active_window_days=policy.labels.active_window_days,
        horizon_days=policy.labels.horizon_days,
        seed=policy.seed,
        sklearn_version=sklearn.__version__,
        embargo_days=policy.labels.embargo_days,
        label=policy.labels.definition,
        labels={
            name: count_labels(part.churned, part.as_of, part.advertisers) for name, part in parts.items()
        },
        calibration_cutoffs=[to_datetime(newest[0]), to_datetime(newest[-1])],
        certificates=certificates,
        findings=findings,
    )


def _typical(raw: Floats) -> dict[str, float | None]:
    medians: dict[str, float | None] = {}
    for index, name in enumerate(INPUTS):
        known = raw[:, index][~np.isnan(raw[:, index])]
        medians[name] = float(np.median(known)) if len(known) else None
    return medians
