"""The evaluation report: one self-contained HTML page, its pictures inside it. The same result gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from models.dataset.labels import LabelCounts
from models.evaluation.certification import Certificate
from models.evaluation.evaluation import Answered, Evaluation
from models.reporting import plots
from models.reporting.subject import ECE_LIMIT, Subject, calibration_reason

_NONE = "-"

_MEASURES: tuple[tuple[str, str, str], ...] = (
    ("auc", "ROC-AUC", "the chance that one who churned ranks above one who stayed; 0.5 is a coin"),
    ("average_precision", "PR-AUC", "how pure the top of the list is; its floor is the base rate"),
    ("brier", "Brier score", "mean squared distance of probability and outcome; lower is better"),
    ("log_loss", "log loss", "punishes false certainty; lower is better"),
    ("calibration_error", "calibration error", "expected (ECE), 10 bins of equal width; lower is better"),
    ("lift_5", "lift at 5%", "churn among the riskiest 5% against the base rate"),
    ("lift_10", "lift at 10%", "the same for the riskiest 10%"),
)


class Column(NamedTuple):
    """A column of a table, and whether it holds numbers."""

    title: str
    number: bool = True


Table = tuple[list[Column], list[list[str]]]


def html(subject: Subject) -> str:
    """The page, drawn from `report.html.j2`. Everything but our own pictures is escaped."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found, certificates = subject.evaluation, list(subject.certificates)
    return templates.get_template("report.html.j2").render(
        subject=subject,
        about=(
            f"{subject.facts.get('data', '')} · {found.rows:,} test rows of {found.advertisers:,} advertisers · "
            f"{found.base_rate:.1%} churned"
        ),
        tiles=_tiles(found),
        calibration_reason=calibration_reason(found),
        measures=_measures(found),
        gains=_gains(found, timed=subject.timed),
        certified=[_certified(certificate, found) for certificate in certificates],
        pictures=[
            plots.reliability(found),
            plots.gains(subject.judged, found, recency=subject.timed),
            plots.precision_coverage(subject.judged, certificates, subject.certification.precision),
            plots.histogram(subject.judged, certificates),
        ],
        weeks=plots.weeks(found) if subject.timed else "",
        segments=_segments(found, timed=subject.timed),
        labels=_labels(subject.labels, timed=subject.timed),
        facts=_facts(subject),
    )


def _tiles(found: Evaluation) -> list[tuple[str, str]]:
    auc = found.intervals["auc"]
    tiles = [
        (f"{found.model.auc:.3f}", f"ROC-AUC, {auc.low:.3f} to {auc.high:.3f}"),
        (f"{found.model.average_precision:.3f}", f"PR-AUC; base rate {found.base_rate:.3f}"),
        (f"{found.model.calibration_error:.3f}", f"calibration error; {ECE_LIMIT} is asked for"),
        (f"{found.model.lift_10:.1f} times", "churn among the riskiest 10%"),
    ]
    decided = found.decided
    if decided.precision is None:
        return [*tiles, ("abstains", "no answer is certified at 80%")]
    return [
        *tiles,
        (f"{decided.precision:.0%}", f"of answers right, for {decided.coverage:.0%} of the rows"),
    ]


def _measures(found: Evaluation) -> list[dict[str, str]]:
    return [
        {
            "title": title,
            "text": text,
            "model": f"{getattr(found.model, name):.3f}",
            "interval": f"{found.intervals[name].low:.3f} to {found.intervals[name].high:.3f}",
            "recency": f"{getattr(found.baseline, name):.3f}",
            "logistic": f"{getattr(found.logistic, name):.3f}",
        }
        for name, title, text in _MEASURES
    ]


def _gains(found: Evaluation, *, timed: bool) -> list[str]:
    logistic = found.logistic_gain
    gains = [("logistic", found.model.auc - found.logistic.auc, logistic.low, logistic.high)]
    if timed:
        gains.insert(0, ("recency", found.auc_gain, found.auc_gain_low, found.auc_gain_high))
    return [f"over {name} {gain:+.3f} ({low:+.3f} to {high:+.3f})" for name, gain, low, high in gains]


def _certified(certificate: Certificate, found: Evaluation) -> dict[str, Any]:
    if certificate.threshold is None:
        return {"decision": certificate.decision, "abstains": certificate.reason}
    on_test: dict[str, Answered] = {side.decision: side for side in found.answered}
    side = on_test[certificate.decision]
    sign = "≥" if certificate.decision == "churn" else "≤"
    return {
        "decision": certificate.decision,
        "abstains": "",
        "threshold": f"p {sign} {certificate.threshold:.3f}",
        "precision_low": f"{certificate.precision_low:.1%}",
        "observed": (
            f"observed {certificate.precision:.1%}, {certificate.answered:,} rows of {certificate.accounts:,} accounts"
        ),
        "coverage": f"{certificate.coverage:.1%}",
        "test_precision": "no answers" if side.precision is None else f"{side.precision:.1%}",
        "test_precision_low": (
            "no answers" if side.precision_low is None else f"at least {side.precision_low:.1%}"
        ),
        "test_coverage": f"{side.coverage:.1%}",
    }


def _segments(found: Evaluation, *, timed: bool) -> Table:
    columns = [Column("by", number=False), Column("segment", number=False)]
    columns += [Column(title) for title in ("rows", "advertisers", "churned", "AUC")]
    columns += [Column("recency AUC")] if timed else []
    columns += [Column(title) for title in ("Brier", "ECE", "answered", "right")]
    rows = [
        [
            part.by,
            part.name,
            f"{part.rows:,}",
            f"{part.advertisers:,}",
            f"{part.base_rate:.1%}",
            _or_none(part.auc),
            *([_or_none(part.recency_auc)] if timed else []),
            f"{part.brier:.3f}",
            f"{part.calibration_error:.3f}",
            f"{part.coverage:.0%}",
            _NONE if part.precision is None else f"{part.precision:.1%}",
        ]
        for part in found.segments
    ]
    return columns, rows


def _labels(labels: Mapping[str, LabelCounts], *, timed: bool) -> Table:
    columns = [Column("rows for", number=False)]
    columns += [Column("cutoffs")] if timed else []
    columns += [Column(title) for title in ("rows", "advertisers", "churned", "base rate")]
    columns += [Column("by week")] if timed else []
    rows = [
        [
            name,
            *([str(part.cutoffs)] if timed else []),
            f"{part.rows:,}",
            f"{part.advertisers:,}",
            f"{part.churned:,}",
            f"{part.base_rate:.1%}",
            *([f"{part.lowest_week:.1%} to {part.highest_week:.1%}"] if timed else []),
        ]
        for name, part in labels.items()
    ]
    return columns, rows


def _facts(subject: Subject) -> dict[str, str]:
    facts = dict(subject.facts)
    if subject.selection:
        facts["mean AUC when choosing"] = ", ".join(
            f"{name} {value:.3f}" for name, value in subject.selection.items()
        )
    return facts


def _or_none(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f}"
