"""Training on what is stored: from the event log to a champion, or to one who challenges it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tocsin.errors import ConflictError, ModelUnavailableError
from tocsin.settings import Settings
from tocsin.storage.connect import CONSUME_TIMEOUT_S, connect, resolve_url
from tocsin.wire.activity import Activity

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from models.evaluation.leakage import Finding
    from models.registry.journal import JournalEntry
    from models.registry.registry import Registry
    from models.training.card import ModelCard


def train(
    settings: Settings, *, promote: bool, say: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, Any], ModelCard]:
    """Train on everything stored; `say` is called with each step.

    Returns:
        What happened, for machines, and the model's card.

    Raises:
        TocsinError: storage does not answer, or there is too little data.
    """
    # Fits this small lose more to threads waiting for each other than they gain.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from features.offline.point_in_time import event_table
    from launch.archive_jobs import served_skew
    from models.evaluation.leakage import blocking
    from models.registry.registry import Registry
    from models.training.training import train as fit

    activities = asyncio.run(_events(settings))
    events = _with_earlier_versions(settings, event_table(activities))
    trained = fit(events, now=time.time(), say=say)
    registry = Registry(settings.models_location)
    version = registry.save(trained)
    evaluation = trained.card.evaluation
    stage, reason = "", "promotion was not asked for"
    findings: list[Finding] = []
    if promote:
        findings = [served_skew(settings, trained.card.feature_names)]
        blocked = [finding.text for finding in blocking([*trained.card.findings, *findings])]
        reason = "it beats the recency baseline"
        if blocked:
            reason = f"the leakage gate blocks it: {'; '.join(blocked)}"
        elif not evaluation.beats_baseline:
            reason = "it does not beat the recency baseline"
        else:
            stage, reason = _put_forward(registry, version, reason, findings)
    return {
        "version": version,
        "promoted": stage == "idle",
        "stage": stage,
        "reason": reason,
        "auc": evaluation.model.auc,
        "baseline_auc": evaluation.baseline.auc,
        "rows": sum(part.rows for part in trained.card.labels.values()),
        "advertisers": len({activity.advertiser_id for activity in activities}),
        "coverage": evaluation.decided.coverage,
        "precision_at_threshold": evaluation.decided.precision,
    }, trained.card


def _put_forward(registry: Registry, version: str, reason: str, findings: list[Finding]) -> tuple[str, str]:
    """Try it alongside the champion; where none serves it becomes that at once. Returns its stage, and why."""
    try:
        registry.load()
    except ModelUnavailableError:  # nothing to be compared with
        put: Callable[..., JournalEntry] = registry.promote
    else:
        put = registry.begin
    try:
        entry = put(version, reason=reason, findings=findings)
    except ConflictError as error:  # another version is being tried
        return "", error.message
    return "shadow" if entry.lineup.under_way else "idle", reason


def _with_earlier_versions(settings: Settings, events: pa.Table) -> pd.DataFrame:
    """The online event log holds the last version of each event, the archive all that landed: with both, what was
    restated later cannot leak into what is learned. A version that is in both counts once.
    """
    import pyarrow as pa

    from features.event_table import as_events
    from features.offline.archive import Archive

    landed = [as_events(table).cast(events.schema) for table in Archive(settings.archive).read()]
    frame: pd.DataFrame = pa.concat_tables([events, *landed]).to_pandas()
    return frame


async def _events(settings: Settings) -> list[Activity]:
    from features.online.store import FeatureStore

    client = connect(resolve_url(settings), timeout_s=CONSUME_TIMEOUT_S)
    try:
        store = FeatureStore(client, namespace=settings.namespace)
        return [activity async for page in store.events() for activity in page]
    finally:
        await client.aclose()
