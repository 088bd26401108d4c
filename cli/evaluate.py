"""`tocsin evaluate`: how good a churn model of this data is, judged as it would be met. Needs nothing running."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.import_files import parse_mapping
from features.importing.activity_log import ActivityFormat, read_log
from features.importing.options import ReadOptions
from launch import evaluation

if TYPE_CHECKING:
    from models.reporting.subject import Subject

OF_A_LOG = "A log of activity"
OF_A_TABLE = "A plain table"
HELP = (
    "How well can churn be foretold from this file? Needs nothing running, stores nothing.\n\n"
    "Every week asks of those active in the last 28 days who does nothing in the next 28. A model learns from weeks "
    "whose answer is known by a day, is calibrated, and is judged on all later weeks next to two baselines: days since "
    "the last activity, and a plain logistic regression. It answers (churn, stays) only where at least 80% of the "
    "answers are shown to be right, and abstains elsewhere; a leakage gate looks for answers that leaked in.\n\n"
    "[bold]tocsin evaluate --activity spend.parquet --format google-ads --train-until 2019-02-17 --html report.html"
    "[/bold]\n\n"
    "[bold]tocsin evaluate --activity sales.csv --map advertiser_id=customer --map event_time=date --map amount=total"
    "[/bold]\n\n"
    "[bold]tocsin evaluate --table customers.csv --label Churn[/bold]\n\n"
    "Read auc against both baselines; ece is how far probabilities are off (0.03 is good, ece_reason says why where it "
    "is more); precision_at_threshold is of the answers given, coverage how many get one. Exit code 1: refused, with "
    "what was found and the next step. More: docs/churn.md"
)


def evaluate_activity(
    console: Console,
    file: Path,
    *,
    file_format: ActivityFormat | None,
    pairs: Sequence[str],
    options: ReadOptions,
    train_until: str,
    active_days: int,
    horizon_days: int,
    embargo_days: int,
    seed: int,
    parallel: bool,
    html: Path | None,
    json: bool,
    emit: Callable[[object], None],
) -> None:
    """Train on what ends by a date, test on all that follows, say how good it is.

    Raises:
        TocsinError: the file is unusable, or there is too little data; says what was found and what is needed.
    """
    # Fits this small lose more to threads waiting for each other than they gain.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from models.dataset.labels import LabelPolicy
    from models.training.policy import TrainingPolicy

    policy = TrainingPolicy(labels=LabelPolicy(active_days, horizon_days, embargo_days), seed=seed)
    train_until_s, mapping = _midnight(train_until), parse_mapping(pairs)
    with ExitStack() as stack:
        status = stack.enter_context(console.status(f"reading {file.name}"))
        log = read_log(file, file_format, mapping, options, status.update)
        run: Any = map
        if parallel:
            from actors.parallel import spread

            status.update("starting Ray")
            run = stack.enter_context(spread())
        subject = evaluation.judge(log, policy, train_until_s, run, status.update, file.name)
        evaluation.write_page(html, subject, status.update)
    result = evaluation.summary(subject)
    result["rejected_rows"] = log.refused.refused
    result["rejected"] = log.refused.reasons
    _show(console, subject, result, html, json=json, emit=emit)


def evaluate_labelled_table(
    console: Console,
    file: Path,
    label: str,
    options: ReadOptions,
    *,
    seed: int,
    html: Path | None,
    json: bool,
    emit: Callable[[object], None],
) -> None:
    """Judge a plain table with a label column: 70% to learn from, 30% to test on, random state 42.

    Raises:
        TocsinError: the file is unusable, or there is too little data.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from models.reporting.subject import of_table
    from models.training.plain_table import TablePolicy, evaluate_table, read_table

    with console.status(f"reading {file.name}") as status:
        frame, churned, dropped = read_table(file, label, options)
        status.update("choosing, fitting, calibrating, testing")
        subject = of_table(evaluate_table(frame, churned, dropped, TablePolicy(seed=seed)), file.name, label)
        evaluation.write_page(html, subject, status.update)
    _show(console, subject, evaluation.summary(subject), html, json=json, emit=emit)


def _midnight(day: str) -> float | None:
    if not day:
        return None
    try:
        return datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC).timestamp()
    except ValueError as error:
        raise typer.BadParameter(
            f"{day!r} is not a day, as in 2019-02-17", param_hint="--train-until"
        ) from error


def _show(
    console: Console,
    subject: Subject,
    result: dict[str, Any],
    html: Path | None,
    *,
    json: bool,
    emit: Callable[[object], None],
) -> None:
    if json:
        emit(result)
        return
    found = subject.evaluation
    table = Table(
        "measure", "model", "recency", "logistic", title="On rows it was not trained on", title_justify="left"
    )
    for name, text in (
        ("auc", "ROC-AUC"),
        ("average_precision", "PR-AUC"),
        ("brier", "Brier score (lower is better)"),
        ("calibration_error", "calibration error (lower is better)"),
        ("lift_10", "lift at 10%"),
    ):
        recency = f"{getattr(found.baseline, name):.3f}" if subject.timed else "-"
        table.add_row(
            text, f"{getattr(found.model, name):.3f}", recency, f"{getattr(found.logistic, name):.3f}"
        )
    console.print(table)
    console.print(f"{found.rows:,} rows of {found.advertisers:,} advertisers; {found.base_rate:.1%} churned")
    console.print(subject.label)
    for certificate in subject.certificates:
        console.print(_said(certificate, subject))
    if reason := result["ece_reason"]:
        console.print(reason)
    for finding in subject.findings:
        if not finding.passed:
            console.print(
                f"[bold red]the leakage gate blocks it: {finding.name}[/bold red]; {escape(finding.text)}"
            )
    for caution in subject.cautions:
        console.print(f"[yellow]note:[/yellow] {escape(caution)}")
    if html is not None:
        console.print(f"report: {html}")


def _said(certificate: Any, subject: Subject) -> str:
    if certificate.threshold is None:
        return f"{certificate.decision}: abstains; {certificate.reason}"
    side = next(one for one in subject.evaluation.answered if one.decision == certificate.decision)
    sign = "≥" if certificate.decision == "churn" else "≤"
    return (
        f"{certificate.decision} where the probability is {sign} {certificate.threshold:.3f}: certified precision "
        f"{certificate.precision_low:.1%}; on the test {side.precision:.1%} (at least {side.precision_low:.1%}) for "
        f"{side.coverage:.1%} of the rows"
    )
