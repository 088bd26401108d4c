"""Sending files to a platform over HTTP: activity and notifications, a batch a request, every bad row accounted for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from launch.local_client import await_lane, client_of, fetch, lane_counts
from tocsin.client import Client
from tocsin.clock import to_datetime
from tocsin.errors import InvalidRecordError, RequestFailedError
from tocsin.settings import Settings
from tocsin.wire.activity import Activity, ActivityRequest
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import NotificationRequest
from tocsin.wire.problems import RecordError

if TYPE_CHECKING:
    from features.importing.importer import ImportBatch, Reject
    from features.importing.options import ReadOptions

NOTIFICATIONS_A_REQUEST = 1000


def send_activity(
    settings: Settings,
    file: Path,
    mapping: dict[str, str] | None,
    rejects: Path | None,
    options: ReadOptions,
    on_rows: Callable[[int, int | None], None],
) -> dict[str, Any]:
    """Send a file's activity and wait until the shards have applied it; returns the counts.

    Args:
        settings: Of the platform.
        file: Parquet or text, or a folder of parts.
        mapping: Column by field; None: Google's weekly spend, or columns with our names.
        rejects: Where bad rows go; None: alongside the file.
        options: How the file is written, where looking at it does not tell.
        on_rows: Called with the rows read so far and how many the file has; None where that is not known.

    Raises:
        TocsinError: the file is unusable or the platform does not answer; what was accepted stays accepted.
    """
    from features.importing.importer import read_activity, write_rejects
    from features.importing.tables import count_rows

    before = lane_counts(settings, LaneName.ACTIVITY)
    whole = file.resolve()
    rejects_path = rejects or whole.with_name(f"{whole.name}.rejects.jsonl")
    rows = accepted = rejected = 0
    total = count_rows(file, options)
    on_rows(0, total)
    with client_of(settings) as client:
        for batch in read_activity(file, mapping, time.time(), options=options):
            rejects_found = list(batch.rejects)
            if batch.activities:
                answer = client.send_activity([request_of(activity) for activity in batch.activities])
                rejects_found += refused(batch, answer.errors)
                accepted += answer.accepted
            if rejects_found:
                rejects_found.sort(key=lambda reject: (reject.file, reject.line))
                write_rejects(rejects_path, rejects_found, append=rejected > 0)
                rejected += len(rejects_found)
            rows += batch.rows
            on_rows(rows, total)
    await_lane(settings, LaneName.ACTIVITY)
    after = lane_counts(settings, LaneName.ACTIVITY)
    return {
        "file": str(file),
        "rows": rows,
        "accepted": accepted,
        "new_or_changed": after.get("applied", 0) - before.get("applied", 0),
        "repeated": after.get("repeated", 0) - before.get("repeated", 0),
        "rejected": rejected,
        "rejects_file": str(rejects_path) if rejected else "",
        "as_of": fetch(settings).get("as_of"),
    }


def refused(batch: ImportBatch, errors: Sequence[RecordError]) -> list[Reject]:
    """What only the platform can refuse, as its settings say (currency, lateness), by line.

    Raises:
        RequestFailedError: a row was refused because of the state the platform is in, not because of its content.
    """
    from features.importing.importer import Reject

    for error in errors:
        if error.code != InvalidRecordError.code:
            reject = Reject(batch.lines[error.index], error.detail, {}, _file(batch, error))
            raise RequestFailedError(
                f"{reject.place} was not accepted: {error.detail}",
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
            _file(batch, error),
        )
        for error in errors
    ]


def _file(batch: ImportBatch, error: RecordError) -> str:
    return batch.files[error.index] if batch.files else ""


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


def send_notifications(
    client: Client, notifications: Sequence[NotificationRequest], on_sent: Callable[[int], None]
) -> dict[str, Any]:
    """Send many; returns receipts counted by lane, duplicates apart, and what the platform refused of them.

    Args:
        client: Of the platform.
        notifications: In the order to send them.
        on_sent: Called with the number accepted so far.

    Raises:
        TocsinError: the platform does not answer.
        RequestFailedError: a record was not accepted because of the state the platform is in, not of its content.
    """
    lanes: dict[str, int] = {}
    duplicates = accepted = 0
    ids: list[str] = []
    refused: list[RecordError] = []
    for start in range(0, len(notifications), NOTIFICATIONS_A_REQUEST):
        answer = client.send_many(notifications[start : start + NOTIFICATIONS_A_REQUEST])
        for error in answer.errors:
            if error.code != InvalidRecordError.code:
                raise RequestFailedError(
                    f"record {start + error.index} was not accepted: {error.detail}",
                    status=503,
                    hint="send them again: what was accepted is not sent twice",
                )
            refused.append(msgspec.structs.replace(error, index=start + error.index))
        for receipt in answer.receipts:
            accepted += 1
            duplicates += receipt.duplicate
            lanes[receipt.lane] = lanes.get(receipt.lane, 0) + 1
            ids.append(receipt.id)
        on_sent(accepted)
    return {
        "accepted": accepted,
        "duplicates": duplicates,
        "lanes": lanes,
        "ids": len(set(ids)),
        "refused": refused,
    }
