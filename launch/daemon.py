"""A platform in the background: started in a process of its own, found by its run record, ended by a signal."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import psutil

from launch.run_record import RunRecord, clear_killed, read_run, take_lock
from launch.runs import logs
from launch.runs.processes import MARK
from launch.runs.watcher import WITHIN_S, PartLostError
from tocsin.errors import StorageUnavailableError
from tocsin.settings import Settings
from tocsin.storage.embedded import read_endpoint, stop_process

QUIET_DEADLINE_S = 180.0  # without a new line: a storage server that loads says so every few seconds
DOWN_DEADLINE_S = 90.0
POLL_S = 0.2
RESTARTS = 3


def detach(settings: Settings, address: str) -> str:
    """Start a platform in the background and wait until it is ready. Returns what it said.

    One that is on its way up already is waited for instead.

    Raises:
        StorageUnavailableError: it did not come up; the message ends with its log.
    """
    record = read_run(settings)
    if record is not None:
        return _await_other(settings, record)
    settings.data_path.mkdir(parents=True, exist_ok=True, mode=0o700)
    run = logs.new_run(settings.data_path, time.time())
    path = run / "up.log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as log:
        child = subprocess.Popen(  # noqa: S603 (ourselves)
            _command(run, address),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | settings.to_env(),
        )
    size, moved_at = 0, time.monotonic()
    while time.monotonic() - moved_at < QUIET_DEADLINE_S and child.poll() is None:
        record = read_run(settings)
        if record is not None and record.ready:
            return path.read_text(errors="replace").rstrip()
        if path.stat().st_size != size:
            size, moved_at = path.stat().st_size, time.monotonic()
        time.sleep(POLL_S)
    tail = "\n".join(path.read_text(errors="replace").splitlines()[-8:])
    raise StorageUnavailableError(f"it did not come up:\n{tail}", hint=f"see {path}")


def _await_other(settings: Settings, found: RunRecord) -> str:
    """Wait for a platform that somebody else started, or that starts again."""
    deadline = time.monotonic() + QUIET_DEADLINE_S
    record: RunRecord | None = found
    while time.monotonic() < deadline and record is not None:
        if record.ready:
            return f"already running at {record.base_url} (process {record.pid}); nothing to do"
        time.sleep(POLL_S)
        record = read_run(settings)
    raise StorageUnavailableError(
        f"process {found.pid}, which was coming up, "
        + ("ended" if record is None else f"is not ready after {QUIET_DEADLINE_S:g} s: {record.trouble}"),
        hint=f"see {found.logs}; `tocsin down` ends it",
    )


def end(settings: Settings, record: RunRecord | None) -> bool:
    """End a platform in order, then every process of this data folder that is left, storage last.

    One that does not obey is killed: what was accepted is on the disk.

    Returns:
        Whether anything ran.
    """
    if record is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(record.pid)
            process.resume()
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=DOWN_DEADLINE_S)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait(timeout=DOWN_DEADLINE_S)
    if not settings.data_path.is_dir():
        return False
    with take_lock(settings):  # or it is one that has only begun to start
        ended = clear_killed(settings)
        endpoint = read_endpoint(settings.data_path)
        left_behind = endpoint is not None and stop_process(endpoint)
    return record is not None or left_behind or ended > 0


def start_over(run: Path, address: str, reason: str, now: float) -> NoReturn:
    """Replace this process by a new `up` of the same run; its id, its log and the storage server stay.

    Args:
        run: The folder of its logs.
        address: The Ray cluster it joined, or empty.
        reason: Why.
        now: Seconds since 1970.

    Raises:
        PartLostError: it was tried three times within ten minutes.
    """
    times = restarts(run)
    if sum(now - at < WITHIN_S for at in times) >= RESTARTS:
        raise PartLostError(
            f"started over {RESTARTS} times within {WITHIN_S / 60:g} minutes, and again: {reason}",
            hint=f"{run} says why (ray/, platform.log); `tocsin up` tries again, with everything that was accepted",
        )
    with (run / "restarts").open("a", encoding="ascii") as file:
        file.write(f"{now!r}\n")
    for number in [int(path.name) for path in Path("/dev/fd").iterdir()]:
        if number > 2:
            with contextlib.suppress(OSError):
                os.set_inheritable(number, False)  # noqa: FBT003 (its signature)
    sys.stdout.flush()
    sys.stderr.flush()
    os.environ.pop(MARK, None)
    os.execv(sys.executable, _command(run, address))  # noqa: S606 (ourselves)


def restarts(run: Path) -> list[float]:
    """When a run was started over, seconds since 1970."""
    with contextlib.suppress(OSError, ValueError):
        return [float(line) for line in (run / "restarts").read_text(encoding="ascii").split()]
    return []


def _command(run: Path, address: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "cli",
        "up",
        "--run",
        run.name,
        *(["--address", address] if address else []),
    ]
