"""What a report is about: an evaluated churn model, or a plain table, with what the reader has to know of its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from models.dataset.labels import LabelCounts
from models.evaluation.certification import Certificate, CertificationPolicy
from models.evaluation.evaluation import Evaluation, Judged
from models.evaluation.leakage import Finding
from models.training.card import TrainedModel
from models.training.plain_table import TableResult

ECE_LIMIT = 0.03


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
        raise ValueError("a model that was loaded has no test rows to report on: evaluate it again")
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
