"""`tocsin logs`: what all parts of a platform logged, as one."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from launch.logs.files import LogFiles, folders_of
from launch.logs.records import LEVELS, LogRecord, Wanted
from launch.run_record import read_run
from tocsin.settings import Settings
from tocsin.telemetry.logs import log_folder

LOOK_EVERY_S = 0.5
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
STYLES = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red", "DEBUG": "dim"}


def show(
    settings: Settings,
    console: Console,
    wanted: Wanted,
    number: int,
    *,
    follow: bool,
    json: bool,
    emit: Callable[[object], None],
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Print the last records, and with `follow` what comes after them until Ctrl-C."""
    files = LogFiles(folders_of(settings.data_path, read_run(settings)))
    found = files.last(wanted, number)
    _print(found, console, json=json, emit=emit)
    if not follow:
        if not found and not json:
            console.print(f"nothing logged in {log_folder(settings.data_path)} that fits")
        return
    try:
        while True:
            pause(LOOK_EVERY_S)
            _print(files.added(wanted), console, json=json, emit=emit)
    except KeyboardInterrupt:
        return


def _print(
    records: Iterable[LogRecord], console: Console, *, json: bool, emit: Callable[[object], None]
) -> None:
    for record in records:
        if json:
            emit(record)
            continue
        line = Text(record.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z ", style="dim")
        line.append(f"{record.level or '-':<8} ", style=STYLES.get(record.level, ""))
        line.append(f"{record.part:<16} ", style="cyan")
        line.append(record.message)
        if record.request_id:
            line.append(f"  request={record.request_id}", style="dim")
        if record.trace:
            line.append("\n  " + record.trace.replace("\n", "\n  "))
        console.print(line)


def wanted_of(parts: Iterable[str], level: str, since: str, request: str, now: datetime) -> Wanted:
    """The options as what is wanted.

    Raises:
        BadParameter: the level or the time is none.
    """
    if level and level.upper() not in LEVELS:
        raise typer.BadParameter(f"--level is one of {', '.join(LEVELS)}")
    return Wanted(
        parts=tuple(parts),
        level=level.upper(),
        since=_moment(since, now) if since else None,
        request_id=request,
    )


def _moment(text: str, now: datetime) -> datetime:
    if span := re.fullmatch(r"(\d{1,6})([smhd])", text):
        return now - timedelta(seconds=int(span[1]) * UNITS_S[span[2]])
    try:
        moment = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise typer.BadParameter(
            "--since is a span such as 10m, 2h or 1d, or an RFC 3339 time with an offset"
        )
    return moment
