"""Judging a churn model of a file: reading is done, training and the report are put together here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from features.importing.activity_log import Log
from tocsin.errors import ConfigurationError

if TYPE_CHECKING:
    from models.evaluation.evaluation import Evaluation
    from models.reporting.subject import Subject
    from models.training.policy import TrainingPolicy
    from models.training.training import Run


def judge(
    log: Log,
    policy: TrainingPolicy,
    train_until: float | None,
    run: Run,
    say: Callable[[str], None],
    name: str,
) -> Subject:
    """Train on a log of activity, test on its later weeks, and collect all that a report says of it.

    Args:
        log: The events, and the rows that were refused.
        policy: Labels, and everything random.
        train_until: Epoch seconds by which labels learned from end; None: the newest quarter of the weeks is the test.
        run: A `map` for independent fits.
        say: Called with a line about each step.
        name: Of the file, for the report.

    Raises:
        TooLittleDataError: says what was found and what is needed.
    """
    from models.dataset.split import TooLittleDataError
    from models.evaluation.data_warnings import cautions, holes
    from models.reporting.subject import of_model
    from models.training.training import train

    refused = (
        [f"{log.refused.text}: what they did is missing; {log.refused.hint}"] if log.refused.text else []
    )
    try:
        trained = train(
            log.events,
            policy,
            now=0.0 if train_until is None else train_until,
            train_until=train_until,
            # Google's rows are whole weeks, so the grid has to be theirs; elsewhere the date given sets it.
            anchor=None if log.weekly else train_until,
            run=run,
            say=say,
        )
    except TooLittleDataError as error:
        problems = [error.message, *holes(log.events, policy.labels), *refused]
        raise TooLittleDataError(". ".join(problems), hint=error.hint) from error
    warnings: list[str] = []
    if trained.judged is not None:
        tested = sorted(set(trained.judged.as_of.tolist()))
        warnings = cautions(log.events, tested, policy.labels, trained.card.evaluation)
    return of_model(trained, name, [*refused, *warnings])


def summary(subject: Subject) -> dict[str, Any]:
    """The result as values for JSON: the documented keys first, then what they rest on."""
    from models.evaluation.leakage import blocking
    from models.reporting.subject import calibration_reason

    found: Evaluation = subject.evaluation
    decided = found.decided
    return {
        "auc": found.model.auc,
        "pr_auc": found.model.average_precision,
        "brier": found.model.brier,
        "ece": found.model.calibration_error,
        "lift_at_10": found.model.lift_10,
        "precision_at_threshold": decided.precision,
        "coverage": decided.coverage,
        "rows": found.rows,
        "advertisers": found.advertisers,
        "churn_rate": found.base_rate,
        "baselines": {
            "recency": {"auc": found.baseline.auc if subject.timed else None},
            "logistic": {"auc": found.logistic.auc},
        },
        "abstains": decided.rows == 0,
        "precision_low": decided.precision_low,
        "ece_reason": calibration_reason(found),
        "ece_at_true_level": found.calibration_error_recentred,
        "log_loss": found.model.log_loss,
        "lift_at_5": found.model.lift_5,
        "intervals": msgspec.to_builtins(found.intervals),
        "gains": {
            "recency": [found.auc_gain_low, found.auc_gain_high] if subject.timed else None,
            "logistic": [found.logistic_gain.low, found.logistic_gain.high],
        },
        "cautions": list(subject.cautions),
        "label": subject.label,
        "labels": msgspec.to_builtins(dict(subject.labels)),
        "certificates": msgspec.to_builtins(list(subject.certificates)),
        "answered": msgspec.to_builtins(found.answered),
        "made": dict(subject.facts),
        "selection": dict(subject.selection),
        "leakage": msgspec.to_builtins(list(subject.findings)),
        "blocked_by": [finding.name for finding in blocking(subject.findings)],
        "segments": msgspec.to_builtins(found.segments),
    }


def write_page(html: Path | None, subject: Subject, say: Callable[[str], None]) -> None:
    """Write the report as a page, where a file was named for it.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    if html is None:
        return
    say("drawing the report")
    from models.reporting.report import html as page

    try:
        html.write_text(page(subject), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"the report cannot be written: {error}", hint="name another file"
        ) from error
