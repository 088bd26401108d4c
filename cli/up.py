"""`tocsin up` and `tocsin down`."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from rich.console import Console
from rich.live import Live

from cli.status import lanes_table
from launch import daemon
from launch.local_client import fetch
from launch.platform import Platform
from launch.run_record import AlreadyRunningError, read_run
from tocsin.errors import TocsinError
from tocsin.settings import Settings
from tocsin.telemetry.logs import log_folder, write_logs

REFRESH_S = 2.0


class Interrupted(BaseException):
    """SIGTERM or SIGINT arrived while starting."""


def up(settings: Settings, console: Console, *, address: str, detach: bool) -> None:
    """Start, show a live status, stop on a signal.

    Raises:
        TocsinError: it could not start.
    """
    if detach:
        record = read_run(settings)
        if record is not None and record.ready:
            console.print(f"already running at {record.base_url} (process {record.pid}); nothing to do")
            return
        with console.status("starting"):
            said = daemon.detach(settings, address)
        console.print(said)
        return
    write_logs("platform", log_folder(settings.data_path))
    stop, up_and_running = threading.Event(), threading.Event()
    try:
        with _signals(stop, up_and_running):
            platform = Platform(
                settings, lambda part, line: console.print(f"  {part:<19} {line}"), address=address
            )
            console.print("[bold]Tocsin is coming up[/bold]")
            with platform:
                up_and_running.set()
                console.print(
                    f"[bold green]Up[/bold green] in {platform.ready_s} s. Ctrl-C or `tocsin down` stops it."
                )
                _stay(settings, console, stop)
                console.print("[bold]Going down[/bold]")
    except AlreadyRunningError as error:
        console.print(error.message + "; nothing to do")
    except Interrupted:
        console.print("stopped before it was up")
        sys.exit(130)


def _stay(settings: Settings, console: Console, stop: threading.Event) -> None:
    if not console.is_terminal:
        stop.wait()
        return
    with Live(console=console, refresh_per_second=2, transient=True) as live:
        while not stop.wait(REFRESH_S):
            try:
                live.update(lanes_table(fetch(settings)))
            except TocsinError as error:
                live.update(f"[yellow]{error.message}[/yellow]")


@contextlib.contextmanager
def _signals(stop: threading.Event, up_and_running: threading.Event) -> Iterator[None]:
    """First signal: stop in order. While still starting: give up at once."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            return
        stop.set()
        if not up_and_running.is_set():
            raise Interrupted

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def down(settings: Settings, console: Console) -> None:
    """Stop the platform of this data folder, and a storage server its death left behind.

    Raises:
        StorageUnavailableError: it did not end in time.
    """
    record = read_run(settings)
    with console.status(f"stopping process {record.pid}" if record else "looking for what was left behind"):
        ran = daemon.end(settings, record)
    console.print("down; the data stays" if ran else f"nothing runs in {settings.data_path}")
