"""`tocsin import`: files in, over HTTP, with every bad row accounted for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from launch.local_client import await_lane, client_of, lane_counts
from tocsin.client import Client
from tocsin.clock import to_datetime
from tocsin.errors import InvalidRecordError, RequestFailedError
from tocsin.settings import Settings
from tocsin.wire.activity import Activity, ActivityRequest
from tocsin.wire.lanes import NOTIFICATION_LANES
from tocsin.wire.notifications import NotificationRequest
from tocsin.wire.problems import RecordError

if TYPE_CHECKING:
    from features.importing.importer import ImportBatch, Reject

ALERT_BATCH = 1000


def progress_bar(console: Console) -> Progress:
    """The bar every long job shows."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=not console.is_terminal,
    )


def parse_mapping(pairs: Sequence[str]) -> dict[str, str] | None:
    """`["amount=Spend"]` as `{"amount": "Spend"}`; None when there is none.

    Raises:
        BadParameter: a pair has no `=`, or a field stands twice.
    """
    mapping: dict[str, str] = {}
    for pair in pairs:
        field, equals, column = pair.partition("=")
        if not (field and equals and column) or field in mapping:
            raise typer.BadParameter(f"{pair!r} is not FIELD=COLUMN, as in --map amount=Spend_USD")
        mapping[field.strip()] = column.strip()
    return mapping or None


def import_activity(
    settings: Settings,
    console: Console,
    file: Path,
    pairs: Sequence[str],
    rejects: Path | None,
    *,
    json: bool,
    emit: Callable[[object], None],
) -> None:
    """Import one file and say what happened.

    Raises:
        TocsinError: the file is unusable or the platform does not answer; what was accepted stays accepted.
    """
    result = send_activity(settings, console, file, parse_mapping(pairs), rejects)
    if json:
        emit(result)
        return
    console.print(
        f"[bold]{file.name}[/bold]: {result['rows']:,} rows, {result['accepted']:,} accepted "
        f"({result['new_or_changed']:,} new or changed, {result['repeated']:,} already known), "
        f"{result['rejected']:,} rejected"
    )
    if result["rejects_file"]:
        console.print(f"  every rejected row, with its line and reason: {result['rejects_file']}")


def send_activity(
    settings: Settings, console: Console, file: Path, mapping: dict[str, str] | None, rejects: Path | None
) -> dict[str, Any]:
    """Send a file's activity and wait until the shards have applied it; returns the counts.

    Raises:
        TocsinError: as `import_activity`.
    """
    from features.importing.importer import read_activity, write_rejects
    from features.importing.tables import count_rows

    before = lane_counts(settings, "activity")
    rejects_path = rejects or file.with_name(file.name + ".rejects.jsonl")
    rows = accepted = rejected = 0
    batches = read_activity(file, mapping, time.time())
    with client_of(settings) as client, progress_bar(console) as bar:
        task = bar.add_task(f"importing {file.name}", total=count_rows(file))
        for batch in batches:
            rejects_found = list(batch.rejects)
            if batch.activities:
                answer = client.send_activity([request_of(activity) for activity in batch.activities])
                rejects_found += _refused(batch, answer.errors)
                accepted += answer.accepted
            if rejects_found:
                rejects_found.sort(key=lambda reject: reject.line)
                write_rejects(rejects_path, rejects_found, append=rejected > 0)
                rejected += len(rejects_found)
            rows += batch.rows
            bar.update(task, completed=rows)
    await_lane(settings, "activity")
    after = lane_counts(settings, "activity")
    return {
        "file": str(file),
        "rows": rows,
        "accepted": accepted,
        "new_or_changed": after.get("applied", 0) - before.get("applied", 0),
        "repeated": after.get("repeated", 0) - before.get("repeated", 0),
        "rejected": rejected,
        "rejects_file": str(rejects_path) if rejected else "",
    }


def _refused(batch: ImportBatch, errors: Sequence[RecordError]) -> list[Reject]:
    """What only the platform can refuse, as its settings say (currency, lateness), by line.

    Raises:
        RequestFailedError: a row was refused for what the platform was in, not for what it holds.
    """
    from features.importing.importer import Reject

    for error in errors:
        if error.code != InvalidRecordError.code:
            raise RequestFailedError(
                f"line {batch.lines[error.index]} was not accepted: {error.detail}",
                status=503,
                hint="import the file again: what is known changes nothing",
            )
    return [
        Reject(
            batch.lines[error.index],
            f"{error.detail}: {error.limit}" if error.limit else error.detail,
            {
                name: str(value)
                for name, value in msgspec.to_builtins(request_of(batch.activities[error.index])).items()
                if value not in (None, "")
            },
        )
        for error in errors
    ]


def request_of(activity: Activity) -> ActivityRequest:
    """An imported row as the platform takes it."""
    return ActivityRequest(
        advertiser_id=activity.advertiser_id,
        event_time=to_datetime(activity.event_time),
        amount=activity.amount,
        kind=activity.kind,  # type: ignore[arg-type]  # the importer checked it
        event_id=activity.event_id,
        campaign_id=activity.campaign_id,
        currency=activity.currency,
        arrival=to_datetime(activity.arrival) if activity.arrival else None,
        backdated=not activity.arrival,
    )


def import_alerts(
    settings: Settings, console: Console, file: Path, *, json: bool, emit: Callable[[object], None]
) -> None:
    """Send one feed's alerts and say where each went.

    Raises:
        TocsinError: the file is unusable or the platform does not answer.
    """
    from routing.intake.cap import read_alerts

    feed = read_alerts(file)
    with client_of(settings) as client:
        result = send_notifications(client, console, feed.alerts, f"sending {file.name}")
    rejects = [{"position": r.position, "id": r.id, "reason": r.reason} for r in feed.rejects]
    if json:
        emit({"file": str(file), **result, "rejected": rejects})
        return
    lanes = ", ".join(f"{result['lanes'].get(lane, 0):,} on {lane}" for lane in NOTIFICATION_LANES)
    console.print(
        f"[bold]{file.name}[/bold]: {result['accepted']:,} alerts accepted ({lanes}), "
        f"{result['duplicates']:,} of them sent before, {len(rejects):,} rejected"
    )
    for reject in rejects:
        console.print(f"  entry {reject['position']}: {reject['reason']}")


def send_notifications(
    client: Client, console: Console, notifications: Sequence[NotificationRequest], title: str
) -> dict[str, Any]:
    """Send many; returns receipts counted by lane, duplicates apart.

    Raises:
        TocsinError: the platform does not answer, or refused a record.
    """
    lanes: dict[str, int] = {}
    duplicates = accepted = 0
    ids: list[str] = []
    with progress_bar(console) as bar:
        task = bar.add_task(title, total=len(notifications))
        for start in range(0, len(notifications), ALERT_BATCH):
            answer = client.send_many(notifications[start : start + ALERT_BATCH])
            if answer.errors:
                first = answer.errors[0]
                raise RequestFailedError(f"record {start + first.index}: {first.detail}", status=422)
            for receipt in answer.receipts:
                accepted += 1
                duplicates += receipt.duplicate
                lanes[receipt.lane] = lanes.get(receipt.lane, 0) + 1
                ids.append(receipt.id)
            bar.update(task, completed=accepted)
    return {"accepted": accepted, "duplicates": duplicates, "lanes": lanes, "ids": len(set(ids))}
