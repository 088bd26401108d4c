"""`tocsin train`: from the event log to a champion, or to one who challenges it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from cli.output import certified
from launch.training import train
from tocsin.settings import Settings

if TYPE_CHECKING:
    from models.training.card import ModelCard


def train_command(
    settings: Settings, console: Console, *, promote: bool, json: bool, emit: Callable[[object], None]
) -> None:
    """Train, compare, store, perhaps promote; say what happened.

    Raises:
        TocsinError: storage does not answer, or there is too little data.
    """
    with console.status("training on the stored activity") as status:
        result, card = train(settings, promote=promote, say=status.update)
    if json:
        emit(result)
        return
    console.print(_table(card))
    console.print(
        f"{result['rows']:,} labelled rows of {result['advertisers']:,} advertisers; {card.algorithm}; "
        f"AUC gain {card.evaluation.auc_gain:+.3f} "
        f"(95% {card.evaluation.auc_gain_low:+.3f} to {card.evaluation.auc_gain_high:+.3f})"
    )
    said = "is the champion now" if result["promoted"] else "was stored, not promoted"
    if result["stage"] == "shadow":
        said = "is tried alongside the champion now, first in shadow"
    console.print(f"[bold]{result['version']}[/bold] {said}: {result['reason']}")
    if result["stage"] == "shadow":
        console.print(
            "`tocsin models list` shows how far it is; `tocsin models promote VERSION --now` skips the rest"
        )


def _table(card: ModelCard) -> Table:
    evaluation = card.evaluation
    table = Table(
        "measure",
        "model",
        "recency baseline",
        "logistic baseline",
        title="On later weeks than it was trained on",
        title_justify="left",
    )
    for name, label in (
        ("auc", "AUC"),
        ("average_precision", "average precision"),
        ("brier", "Brier score (lower is better)"),
        ("log_loss", "log loss (lower is better)"),
        ("calibration_error", "calibration error (lower is better)"),
    ):
        scores = (evaluation.model, evaluation.baseline, evaluation.logistic)
        table.add_row(label, *(f"{getattr(one, name):.3f}" for one in scores))
    for certificate in card.certificates:
        table.add_row(f'answers "{certificate.decision}"', certified(certificate), "", "")
    return table
