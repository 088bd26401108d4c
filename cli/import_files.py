"""`tocsin import`: files sent to the platform, with a bar, and every bad row accounted for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from cli.status import now_lines
from features.importing.options import LOOK, ReadOptions
from launch import file_import
from launch.local_client import client_of
from tocsin.client import Client
from tocsin.settings import Settings
from tocsin.wire.lanes import NOTIFICATION_LANES
from tocsin.wire.notifications import NotificationRequest
from tocsin.wire.problems import RecordError

if TYPE_CHECKING:
    from routing.intake.cap import AlertFeed

MAX_SHOWN = 50  # rejected alerts

# The options of every command that reads a table: one spelling and one meaning for each.
PANEL = "How the file is written, where looking at it does not tell"

FILES = (
    "Parquet or text (.csv, .tsv, .txt; compressed as .gz, .zst, .bz2, .xz or a .zip of one; UTF-8 or UTF-16), or a "
    "folder of parts."
)
TimeFormat = Annotated[
    str,
    typer.Option(
        "--time-format",
        help="How times are written, where not as 2019-02-17, 2019-02-17T08:30:00+01:00, 20190217 or a number since "
        "1970 (its unit shows): a pattern as '%d.%m.%Y %H:%M', or s, ms, us, ns.",
        rich_help_panel=PANEL,
    ),
]
Decimal = Annotated[
    str,
    typer.Option(
        "--decimal",
        help="The decimal mark of amounts, . or , where the first rows do not show it.",
        rich_help_panel=PANEL,
    ),
]
Encoding = Annotated[
    str,
    typer.Option(
        "--encoding", help="Of text that is not Unicode: latin-1, cp1252, shift_jis, …", rich_help_panel=PANEL
    ),
]
Delimiter = Annotated[
    str,
    typer.Option(
        "--delimiter",
        help="Between the columns of text, where it is none of , ; | and tab.",
        rich_help_panel=PANEL,
    ),
]


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
    options: ReadOptions,
    *,
    json: bool,
    emit: Callable[[object], None],
) -> None:
    """Import one file and say what happened.

    Raises:
        TocsinError: the file is unusable or the platform does not answer; what was accepted stays accepted.
    """
    result = send_activity(settings, console, file, parse_mapping(pairs), rejects, options)
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
    if result["as_of"]:
        for line in now_lines(result["as_of"], time.time()):
            console.print(line)


def rejected_alerts(feed: AlertFeed, refused: Sequence[RecordError]) -> list[dict[str, Any]]:
    """What was not sent of a feed, and what the platform refused of it, by position in the document."""
    here = [{"position": r.position, "id": r.id, "reason": r.reason} for r in feed.rejects]
    there = [
        {
            "position": feed.positions[error.index],
            "id": feed.alerts[error.index].dedup_key or "",
            "reason": f"{error.detail}: {error.limit}" if error.limit else error.detail,
        }
        for error in refused
    ]
    return sorted([*here, *there], key=lambda reject: int(str(reject["position"])))


def import_alerts(
    settings: Settings, console: Console, file: Path, *, json: bool, emit: Callable[[object], None]
) -> None:
    """Send one feed's alerts and say where each went; one that is refused holds up none of the others.

    Raises:
        TocsinError: the file is unusable or the platform does not answer.
    """
    from routing.intake.cap import read_alerts

    feed = read_alerts(file, time.time())
    with client_of(settings) as client:
        result = send_notifications(client, console, feed.alerts, f"sending {file.name}")
    rejects = rejected_alerts(feed, result.pop("refused"))
    if json:
        emit({"file": str(file), **result, "rejected": rejects})
        return
    lanes = ", ".join(f"{result['lanes'].get(lane, 0):,} on {lane}" for lane in NOTIFICATION_LANES)
    console.print(
        f"[bold]{file.name}[/bold]: {result['accepted']:,} alerts accepted ({lanes}), "
        f"{result['duplicates']:,} of them sent before, {len(rejects):,} rejected"
    )
    for reject in rejects[:MAX_SHOWN]:
        console.print(f"  entry {reject['position']}: {escape(str(reject['reason']))}")
    if len(rejects) > MAX_SHOWN:
        console.print(f"  and {len(rejects) - MAX_SHOWN:,} more: --json lists them all")


def send_activity(
    settings: Settings,
    console: Console,
    file: Path,
    mapping: dict[str, str] | None,
    rejects: Path | None,
    options: ReadOptions = LOOK,
) -> dict[str, Any]:
    """Send a file's activity with a bar, as `launch.file_import.send_activity`."""
    with progress_bar(console) as bar:
        task = bar.add_task(f"importing {file.name}", total=None)
        return file_import.send_activity(
            settings,
            file,
            mapping,
            rejects,
            options,
            lambda rows, total: bar.update(task, completed=rows, total=total),
        )


def send_notifications(
    client: Client, console: Console, notifications: Sequence[NotificationRequest], title: str
) -> dict[str, Any]:
    """Send many with a bar, as `launch.file_import.send_notifications`."""
    with progress_bar(console) as bar:
        task = bar.add_task(title, total=len(notifications))
        return file_import.send_notifications(
            client, notifications, lambda sent: bar.update(task, completed=sent)
        )
