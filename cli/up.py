"""`tocsin up` and `tocsin down`."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from types import FrameType

from rich.console import Console
from rich.live import Live

from cli.status import lanes_table
from launch import daemon
from launch.local_client import fetch
from launch.platform import Platform
from launch.run_record import AlreadyRunningError, read_run
from launch.runs import logs
from launch.runs.watcher import CHECK_EVERY_S, PartLostError, RestartNeededError
from tocsin.errors import TocsinError
from tocsin.settings import Settings
from tocsin.storage.repair import repair
from tocsin.telemetry.logs import log_folder, write_logs

REFRESH_S = 2.0


class Interrupted(BaseException):
    """SIGTERM or SIGINT arrived while starting."""


def up(settings: Settings, console: Console, *, address: str, detach: bool, run: str) -> None:
    """Start, show a live status, look after the parts, stop on a signal.

    Args:
        settings: Everything that can be set.
        console: Where people read.
        address: A Ray cluster to join; empty: a local one.
        detach: Start in the background.
        run: The run whose logs this continues; empty: a new one.

    Raises:
        TocsinError: it could not start, or a part died and did not come back.
    """
    if detach:
        with console.status("starting"):
            said = daemon.detach(settings, address)
        console.print(said)
        return
    write_logs("platform", log_folder(settings.data_path))
    folder = logs.runs_folder(settings.data_path) / run if run else None
    platform = Platform(
        settings,
        lambda part, line: console.print(f"  {part:<19} {line}", markup=False),
        address=address,
        run=folder,
    )
    stop, up_and_running = threading.Event(), threading.Event()
    try:
        with _signals(stop, up_and_running):
            console.print("[bold]Tocsin is coming up[/bold]")
            with platform:
                up_and_running.set()
                console.print(
                    f"[bold green]Up[/bold green] in {platform.ready_s} s. Ctrl-C or `tocsin down` stops it."
                )
                _stay(settings, console, stop, platform)
                console.print("[bold]Going down[/bold]")
    except AlreadyRunningError as error:
        console.print(error.message + "; nothing to do")
    except Interrupted:
        console.print("stopped before it was up")
        sys.exit(130)
    except PartLostError as error:
        platform.say("platform", f"went down: {error.message}")
        raise
    except RestartNeededError as error:
        _start_over(platform, address, error, stop)
    except Exception as error:
        if folder is None or stop.is_set() or not daemon.restarts(folder):
            raise
        _start_over(platform, address, error, stop)


def _start_over(platform: Platform, address: str, error: Exception, stop: threading.Event) -> None:
    """Start again in place; goes down loudly when that was done too often, or quietly when told to stop."""
    try:
        if not stop.is_set():
            daemon.start_over(platform.run, address, str(error), time.time())
    except PartLostError as lost:
        platform.say("platform", f"going down: {lost.message}")
        raise
    finally:
        platform.stop()


def _stay(settings: Settings, console: Console, stop: threading.Event, platform: Platform) -> None:
    """Look after the parts until told to stop; in a terminal, show the lanes.

    Raises:
        PartLostError: a part keeps dying.
        RestartNeededError: the platform has to start again.
    """
    if not console.is_terminal:
        while not stop.wait(CHECK_EVERY_S):
            platform.watch()
        return
    with Live(console=console, refresh_per_second=2, transient=True) as live:
        while not stop.wait(REFRESH_S):
            platform.watch()
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
    """Stop the platform of this data folder, and whatever processes its death left behind.

    Raises:
        AlreadyRunningError: it has only begun to start; ask again.
    """
    record = read_run(settings)
    with console.status(f"stopping process {record.pid}" if record else "looking for what was left behind"):
        ran = daemon.end(settings, record)
    console.print("down; the data stays" if ran else f"nothing runs in {settings.data_path}")


def repair_storage(settings: Settings, console: Console) -> None:
    """Mend the embedded server's damaged file, keeping a copy.

    Raises:
        TocsinError: it runs, or cannot be mended.
    """
    done = repair(settings.data_path, f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    lost = done.bytes_before - done.bytes_after
    console.print(
        f"{done.said}\n{lost:,} of {done.bytes_before:,} bytes were cut off; as it was: {done.copy}"
    )
    console.print("start with `tocsin up`; delete the copy once nothing is missed")
