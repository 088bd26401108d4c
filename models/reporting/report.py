"""The evaluation report: one self-contained HTML page, its pictures inside it. The same result gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from models.dataset.labels import LabelCounts
from models.evaluation.certification import Certificate, CertificationPolicy
from models.evaluation.evaluation import Answered, Evaluation, Judged, Scores
from models.evaluation.leakage import Finding
from models.reporting import plots
from models.training.card import TrainedModel
from models.training.plain_table import TableResult

ECE_LIMIT = 0.03
_DASH = "-"
_COMPARED = (
    "Model and baselines learned from the same rows and are judged on the same others. Intervals are 95%, drawing "
    "whole advertisers again and again, because the weeks of one advertiser resemble each other."
)

_MEASURES: tuple[tuple[str, str, str], ...] = (
    ("auc", "ROC-AUC", "the chance that one who churned ranks above one who stayed; 0.5 is a coin"),
    ("average_precision", "PR-AUC", "how pure the top of the list is; its floor is the base rate"),
    ("brier", "Brier score", "mean squared distance of probability and outcome; lower is better"),
    ("log_loss", "log loss", "punishes false certainty; lower is better"),
    ("calibration_error", "calibration error", "expected (ECE), 10 bins of equal width; lower is better"),
    ("lift_5", "lift at 5%", "churn among the riskiest 5% against the base rate"),
    ("lift_10", "lift at 10%", "the same for the riskiest 10%"),
)

_CSS = """
:root{color-scheme:light}*{box-sizing:border-box}
body{margin:0;background:#f4f5f7;color:#22262d}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif}
main{max-width:1040px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:18px;margin:34px 0 8px}p{margin:6px 0 10px;max-width:78ch}
.sub{color:#5c626b}.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:18px 0}
.tile,.card{background:#fff;border:1px solid #dfe2e7;border-radius:8px;padding:12px 14px}
.tile b{display:block;font-size:24px;line-height:1.2}.tile span{color:#5c626b;font-size:12.5px;display:block}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr));gap:14px}
.card svg{width:100%;height:auto;display:block}
ul{margin:6px 0;padding-left:20px;max-width:78ch}
.scroll{overflow-x:auto;background:#fff;border:1px solid #dfe2e7;border-radius:8px}
table{border-collapse:collapse;width:100%;font-size:13.5px}th,td{padding:7px 12px;text-align:left;vertical-align:top}
th{background:#eef0f3;font-weight:600;white-space:nowrap}tr+tr td{border-top:1px solid #e9ebef}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.ok{color:#2f7d5b;font-weight:600}.no{color:#b3382c;font-weight:600}.dim{color:#6a707a}
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a report is about."""

    title: str
    evaluation: Evaluation
    judged: Judged
    certificates: Sequence[Certificate]
    labels: Mapping[str, LabelCounts]
    facts: Mapping[str, str]  # how it was made, in words
    selection: Mapping[str, float]
    label: str  # its definition
    findings: Sequence[Finding] = ()
    cautions: Sequence[str] = ()  # what to know about the data, a sentence each
    timed: bool = True  # cutoffs in time, and a recency baseline
    certification: CertificationPolicy = field(default_factory=CertificationPolicy)


def of_model(trained: TrainedModel, source: str, cautions: Sequence[str] = ()) -> Subject:
    """The report's subject for a churn model just trained, with its data warnings.

    Raises:
        ValueError: the model was loaded, so its test rows are not at hand.
    """
    card, judged = trained.card, trained.judged
    if judged is None:
        raise ValueError("a model that was loaded has no test rows to report on: evaluate it anew")
    periods = {
        "trained on the weeks": card.training_cutoffs,
        "calibrated on the weeks": card.calibration_cutoffs,
        "tested on the weeks": card.test_cutoffs,
    }
    return Subject(
        title="Churn model",
        evaluation=card.evaluation,
        judged=judged,
        certificates=card.certificates,
        labels=card.labels,
        facts={
            "data": source,
            "model": card.algorithm,
            **{name: " to ".join(f"{t:%Y-%m-%d}" for t in found) for name, found in periods.items()},
            "features": f"{len(card.feature_names)} of {card.feature_view} v{card.feature_view_version}",
            "made with": f"scikit-learn {card.sklearn_version}, seed {card.seed}",
        },
        selection=card.selection,
        label=card.label,
        findings=card.findings,
        cautions=cautions,
    )


def of_table(result: TableResult, source: str, label: str) -> Subject:
    """The report's subject for a plain table."""
    return Subject(
        title="Churn table",
        evaluation=result.evaluation,
        judged=result.judged,
        certificates=result.certificates,
        labels=result.labels,
        facts={"data": source, "model": result.algorithm, "left out": ", ".join(result.dropped) or "nothing"},
        selection=result.selection,
        label=f"the column {label}; there is no time in this table, so the split is random",
        findings=result.findings,
        timed=False,
    )


def calibration_reason(evaluation: Evaluation) -> str:
    """Why the calibration error is above what is asked for; empty where it is not."""
    found = evaluation.model.calibration_error
    if found <= ECE_LIMIT:
        return ""
    observed = [week.observed for week in evaluation.weeks]
    return (
        f"the calibration error is {found:.3f}, above {ECE_LIMIT}: on average {evaluation.base_rate:.1%} churned and "
        f"{evaluation.base_rate + evaluation.level_error:.1%} were predicted, the weeks ranging from "
        f"{min(observed):.1%} to {max(observed):.1%}; with the level of the test weeks known it would be "
        f"{evaluation.calibration_error_recentred:.3f}, which is what the shape of the probabilities is to blame for"
    )


def html(subject: Subject) -> str:
    """The page."""
    found = subject.evaluation
    about = (
        f"{subject.facts.get('data', '')} · {found.rows:,} test rows of {found.advertisers:,} advertisers · "
        f"{found.base_rate:.1%} churned"
    )
    parts = [
        f"<h1>{escape(subject.title)}: evaluation</h1>",
        f"<p class=sub>{escape(about)}</p>",
        _tiles(subject),
        _noted(subject.cautions),
        "<h2>Against the baselines</h2>",
        f"<p>{_COMPARED}</p>",
        _measures(subject),
        "<h2>What “80%” means here</h2>",
        _certified(subject),
        "<h2>Pictures</h2>",
        _pictures(subject),
        "<h2>By segment</h2>",
        _segments(found, timed=subject.timed),
        "<h2>Labels</h2>",
        f"<p>{escape(subject.label)}.</p>",
        _labels(subject.labels, timed=subject.timed),
    ]
    if subject.findings:
        parts += ["<h2>Leakage gate</h2>", _findings(subject.findings)]
    parts += ["<h2>How it was made</h2>", _made(subject)]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(subject.title)}: evaluation</title><style>{_CSS}</style></head>\n<body><main>\n{body}\n"
        "</main></body></html>\n"
    )


def _tiles(subject: Subject) -> str:
    found = subject.evaluation
    auc = found.intervals["auc"]
    tiles = [
        (f"{found.model.auc:.3f}", f"ROC-AUC, {auc.low:.3f} to {auc.high:.3f}"),
        (f"{found.model.average_precision:.3f}", f"PR-AUC; base rate {found.base_rate:.3f}"),
        (f"{found.model.calibration_error:.3f}", f"calibration error; {ECE_LIMIT} is asked for"),
        (f"{found.model.lift_10:.1f}&times;", "churn among the riskiest 10%"),
    ]
    decided = found.decided
    if decided.precision is None:
        tiles.append(("abstains", "no answer is certified at 80%"))
    else:
        tiles.append(
            (f"{decided.precision:.0%}", f"of answers right, for {decided.coverage:.0%} of the rows")
        )
    inner = "".join(
        f"<div class=tile><b>{value}</b><span>{escape(text)}</span></div>" for value, text in tiles
    )
    reason = calibration_reason(found)
    return f"<div class=tiles>{inner}</div>" + (f"<p>Calibration: {escape(reason)}.</p>" if reason else "")


def _noted(cautions: Sequence[str]) -> str:
    """What the reader should know about the data; nothing where there is nothing to say."""
    if not cautions:
        return ""
    return (
        "<h2>Before you rely on it</h2><ul>"
        + "".join(f"<li>{escape(caution[:1].upper() + caution[1:])}.</li>" for caution in cautions)
        + "</ul>"
    )


def _measures(subject: Subject) -> str:
    found = subject.evaluation
    rows = []
    for name, title, text in _MEASURES:
        interval = found.intervals[name]
        span = f"<span class=dim>{interval.low:.3f} to {interval.high:.3f}</span>"
        cells = [
            f"<td>{title}<br><span class=dim>{text}</span></td>",
            f"<td class=n><b>{getattr(found.model, name):.3f}</b><br>{span}</td>",
        ]
        shown = [found.baseline, found.logistic] if subject.timed else [found.logistic]
        cells += [_number(scores, name) for scores in shown]
        rows.append("".join(cells))
    header = ["measure", "*model", *(["*recency"] if subject.timed else []), "*logistic"]
    gains = []
    if subject.timed:
        gains.append(("recency", found.auc_gain, found.auc_gain_low, found.auc_gain_high))
    logistic = found.logistic_gain
    gains.append(("logistic", found.model.auc - found.logistic.auc, logistic.low, logistic.high))
    said = "; ".join(
        f"over {name} {gain:+.3f} ({low:+.3f} to {high:+.3f})" for name, gain, low, high in gains
    )
    return _table(header, rows) + f"<p>Gain of the AUC: {said}.</p>"


def _number(scores: Scores, name: str) -> str:
    return f"<td class=n>{getattr(scores, name):.3f}</td>"


def _certified(subject: Subject) -> str:
    asked = subject.certification
    came: dict[str, Answered] = {side.decision: side for side in subject.evaluation.answered}
    rows = []
    for certificate in subject.certificates:
        side = came[certificate.decision]
        if certificate.threshold is None:
            rows.append(
                f"<td><b>{certificate.decision}</b></td><td colspan=5><span class=no>abstains</span>: "
                f"{escape(certificate.reason)}</td>"
            )
            continue
        sign = "≥" if certificate.decision == "churn" else "≤"
        low = f"{side.precision_low:.1%}" if side.precision_low is not None else "no answers"
        precision = f"{side.precision:.1%}" if side.precision is not None else "no answers"
        rows.append(
            f"<td><b>{certificate.decision}</b></td><td class=n>p {sign} {certificate.threshold:.3f}</td>"
            f"<td class=n>{certificate.precision_low:.1%}<br><span class=dim>observed {certificate.precision:.1%}, "
            f"{certificate.answered:,} rows of {certificate.accounts:,} accounts</span></td>"
            f"<td class=n>{certificate.coverage:.1%}</td>"
            f"<td class=n>{precision}<br><span class=dim>at least {low}</span></td><td class=n>{side.coverage:.1%}</td>"
        )
    text = (
        f"An answer is given only where its precision is certified: with {asked.confidence:.0%} confidence, at least "
        f"{asked.precision:.0%} of the answers of that side are right. The proof is made on accounts the model never "
        "saw, every week weighing the same, and respects that accounts repeat; the later test must confirm it, or the "
        "side is withdrawn. Everywhere else the model abstains, and its probability is all there is."
    )
    header = ["answer", "*threshold", "*certified precision", "*coverage", "*on the test", "*coverage there"]
    return f"<p>{escape(text)}</p>" + _table(header, rows)


def _pictures(subject: Subject) -> str:
    certificates = list(subject.certificates)
    pictures = [
        plots.reliability(subject.evaluation),
        plots.gains(subject.judged, subject.evaluation, recency=subject.timed),
        plots.precision_coverage(subject.judged, certificates, subject.certification.precision),
        plots.histogram(subject.judged, certificates),
    ]
    grid = "".join(f"<div class=card>{picture}</div>" for picture in pictures)
    wide = (
        f"<div class=card style='margin-top:14px'>{plots.weeks(subject.evaluation)}</div>"
        if subject.timed
        else ""
    )
    return f"<div class=grid>{grid}</div>{wide}"


def _segments(found: Evaluation, *, timed: bool) -> str:
    recency = {"*recency AUC"} if not timed else set()
    return _listed(
        [
            {
                "by": part.by,
                "segment": part.name,
                "*rows": f"{part.rows:,}",
                "*advertisers": f"{part.advertisers:,}",
                "*churned": f"{part.base_rate:.1%}",
                "*AUC": _or_dash(part.auc),
                "*recency AUC": _or_dash(part.recency_auc),
                "*Brier": f"{part.brier:.3f}",
                "*ECE": f"{part.calibration_error:.3f}",
                "*answered": f"{part.coverage:.0%}",
                "*right": _DASH if part.precision is None else f"{part.precision:.1%}",
            }
            for part in found.segments
        ],
        without=recency,
    )


def _labels(labels: Mapping[str, LabelCounts], *, timed: bool) -> str:
    weekly = {"*cutoffs", "*by week"} if not timed else set()
    return _listed(
        [
            {
                "rows for": name,
                "*cutoffs": str(part.cutoffs),
                "*rows": f"{part.rows:,}",
                "*advertisers": f"{part.advertisers:,}",
                "*churned": f"{part.churned:,}",
                "*base rate": f"{part.base_rate:.1%}",
                "*by week": f"{part.lowest_week:.1%} to {part.highest_week:.1%}",
            }
            for name, part in labels.items()
        ],
        without=weekly,
    )


def _listed(rows: Sequence[Mapping[str, str]], *, without: set[str]) -> str:
    """A table of rows by column name; a name that begins with a star is a column of numbers."""
    header = [name for name in (rows[0] if rows else {}) if name not in without]
    cells = [
        "".join(f"<td{' class=n' if name[0] == '*' else ''}>{escape(row[name])}</td>" for name in header)
        for row in rows
    ]
    return _table(header, cells)


def _findings(findings: Iterable[Finding]) -> str:
    rows = [
        f"<td>{escape(one.name)}</td><td class={'ok' if one.passed else 'no'}>{'passed' if one.passed else 'blocks'}"
        f"</td><td>{escape(one.text)}</td>"
        for one in findings
    ]
    return _table(["check", "outcome", "found"], rows)


def _made(subject: Subject) -> str:
    facts = dict(subject.facts)
    if subject.selection:
        facts["mean AUC when choosing"] = ", ".join(
            f"{name} {value:.3f}" for name, value in subject.selection.items()
        )
    return _table([], [f"<td>{escape(name)}</td><td>{escape(value)}</td>" for name, value in facts.items()])


def _table(header: Sequence[str], rows: Iterable[str]) -> str:
    titles = "".join(
        f"<th class=n>{title[1:]}</th>" if title.startswith("*") else f"<th>{title}</th>" for title in header
    )
    head = f"<tr>{titles}</tr>" if header else ""
    return f"<div class=scroll><table>{head}{''.join(f'<tr>{row}</tr>' for row in rows)}</table></div>"


def _or_dash(value: float | None) -> str:
    return _DASH if value is None else f"{value:.3f}"
