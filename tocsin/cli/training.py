"""`tocsin train`: from the event log to a champion."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from tocsin.schemas import Activity
from tocsin.settings import Settings
from tocsin.storage.connect import CONSUME_TIMEOUT_S, connect, resolve_url

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from models.card import ModelCard


def train_command(
    settings: Settings, console: Console, *, promote: bool, json: bool, emit: Callable[[object], None]
) -> None:
    """Train, compare, store, perhaps promote; say what happened.

    Raises:
        TocsinError: storage does not answer, or there is too little data.
    """
    with console.status("training on the stored activity"):
        result, card = train(settings, promote=promote)
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
    console.print(f"[bold]{result['version']}[/bold] {said}: {result['reason']}")


def train(settings: Settings, *, promote: bool) -> tuple[dict[str, Any], ModelCard]:
    """Train on everything stored.

    Returns:
        What happened, for machines, and the model's card.

    Raises:
        TocsinError: as `train_command`.
    """
    # Fits this small lose more to threads waiting for each other than they gain.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from features.offline import event_table
    from models.registry import Registry
    from models.training import train as fit

    activities = asyncio.run(_events(settings))
    trained = fit(_with_earlier_versions(settings, event_table(activities)), now=time.time())
    registry = Registry(settings.models_path)
    version = registry.save(trained)
    evaluation = trained.card.evaluation
    promoted, reason = False, "promotion was not asked for"
    if promote:
        promoted = evaluation.beats_baseline
        reason = "it beats the recency baseline" if promoted else "it does not beat the recency baseline"
    if promoted:
        registry.promote(version)
    return {
        "version": version,
        "promoted": promoted,
        "reason": reason,
        "auc": evaluation.model.auc,
        "baseline_auc": evaluation.baseline.auc,
        "rows": trained.card.training_rows + evaluation.rows,
        "advertisers": len({activity.advertiser_id for activity in activities}),
        "confident_share": evaluation.confident_share,
        "confident_accuracy": evaluation.confident_accuracy,
    }, trained.card


def _with_earlier_versions(settings: Settings, events: pa.Table) -> pd.DataFrame:
    """The online event log holds the last version of each event, the archive all that landed: with both, what was
    restated later cannot leak into what is learned. A version that is in both counts once.
    """
    import pyarrow as pa

    from features.archive import Archive
    from features.event_table import as_events

    landed = [as_events(table).cast(events.schema) for table in Archive(settings.archive).read()]
    frame: pd.DataFrame = pa.concat_tables([events, *landed]).to_pandas()
    return frame


async def _events(settings: Settings) -> list[Activity]:
    from features.store import FeatureStore

    client = connect(resolve_url(settings), timeout_s=CONSUME_TIMEOUT_S)
    try:
        store = FeatureStore(client, namespace=settings.namespace)
        return [activity async for page in store.events() for activity in page]
    finally:
        await client.aclose()


def _table(card: ModelCard) -> Table:
    evaluation = card.evaluation
    table = Table(
        "measure",
        "model",
        "recency baseline",
        title="On later weeks than it was trained on",
        title_justify="left",
    )
    for name, label in (
        ("auc", "AUC"),
        ("average_precision", "average precision"),
        ("brier", "Brier score (lower is better)"),
        ("log_loss", "log loss (lower is better)"),
    ):
        table.add_row(
            label, f"{getattr(evaluation.model, name):.3f}", f"{getattr(evaluation.baseline, name):.3f}"
        )
    table.add_row("predictions with 80%+ confidence", f"{evaluation.confident_share:.1%}", "")
    if evaluation.confident_accuracy is not None:
        table.add_row("  of these, right", f"{evaluation.confident_accuracy:.1%}", "")
    return table
