"""`tocsin up` and `tocsin down`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

import psutil
from rich.console import Console
from rich.live import Live

from cli.status import fetch, lanes_table
from launch.platform import AlreadyRunningError, Platform, read_run, remove_scratch
from tocsin.errors import StorageUnavailableError, TocsinError
from tocsin.settings import Settings
from tocsin.storage.embedded import read_endpoint, stop_process

DETACH_DEADLINE_S = 120.0
DOWN_DEADLINE_S = 90.0
REFRESH_S = 2.0


class Interrupted(BaseException):
    """SIGTERM or SIGINT arrived while starting."""


def up(settings: Settings, console: Console, *, address: str, detach: bool) -> None:
    """Start, show a live status, stop on a signal.

    Raises:
        TocsinError: it could not start.
    """
    if detach:
        _detach(settings, console, address)
        return
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


def _detach(settings: Settings, console: Console, address: str) -> None:
    record = read_run(settings)
    if record is not None and record.ready:
        console.print(f"already running at {record.base_url} (process {record.pid}); nothing to do")
        return
    logs = settings.data_path / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    path = logs / "up.log"
    command = [sys.executable, "-m", "cli", "up", *(["--address", address] if address else [])]
    with path.open("wb") as log:
        child = subprocess.Popen(  # noqa: S603 (ourselves)
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | settings.to_env(),
        )
    deadline = time.monotonic() + DETACH_DEADLINE_S
    with console.status("starting"):
        while time.monotonic() < deadline and child.poll() is None:
            record = read_run(settings)
            if record is not None and record.ready:
                console.print(path.read_text(errors="replace").rstrip())
                return
            time.sleep(0.2)
    tail = "\n".join(path.read_text(errors="replace").splitlines()[-8:])
    raise StorageUnavailableError(f"it did not come up:\n{tail}", hint=f"see {path}")


def down(settings: Settings, console: Console) -> None:
    """Stop the platform of this data folder, and a storage server its death left behind.

    Raises:
        StorageUnavailableError: it did not end in time.
    """
    record = read_run(settings)
    if record is not None:
        process = psutil.Process(record.pid)
        process.send_signal(signal.SIGTERM)
        with console.status(f"stopping process {record.pid}"):
            try:
                process.wait(timeout=DOWN_DEADLINE_S)
            except psutil.TimeoutExpired:
                raise StorageUnavailableError(
                    f"process {record.pid} did not end within {DOWN_DEADLINE_S:g} s",
                    hint=f"kill -9 {record.pid}",
                ) from None
    remove_scratch(settings)
    endpoint = read_endpoint(settings.data_path)
    left_behind = endpoint is not None and stop_process(endpoint)
    if record is None and not left_behind:
        console.print(f"nothing runs in {settings.data_path}")
    else:
        console.print("down; the data stays")
