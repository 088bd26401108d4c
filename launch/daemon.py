"""A platform in the background: started in a process of its own, found by its run record, ended by a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from launch.run_record import RunRecord, read_run, remove_scratch
from tocsin.errors import StorageUnavailableError
from tocsin.settings import Settings
from tocsin.storage.embedded import read_endpoint, stop_process

DETACH_DEADLINE_S = 120.0
DOWN_DEADLINE_S = 90.0


def log_path(settings: Settings) -> Path:
    """Where a platform in the background writes what it would say in front."""
    return settings.data_path / "logs" / "up.log"


def detach(settings: Settings, address: str) -> str:
    """Start a platform in the background and wait until it is ready. Returns what it said.

    Raises:
        StorageUnavailableError: it did not come up; the message ends with its log.
    """
    path = log_path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
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
    while time.monotonic() < deadline and child.poll() is None:
        record = read_run(settings)
        if record is not None and record.ready:
            return path.read_text(errors="replace").rstrip()
        time.sleep(0.2)
    tail = "\n".join(path.read_text(errors="replace").splitlines()[-8:])
    raise StorageUnavailableError(f"it did not come up:\n{tail}", hint=f"see {path}")


def end(settings: Settings, record: RunRecord | None) -> bool:
    """End a platform in order, and a storage server that its death left behind. Returns whether anything ran.

    Raises:
        StorageUnavailableError: it did not end in time.
    """
    if record is not None:
        process = psutil.Process(record.pid)
        process.send_signal(signal.SIGTERM)
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
    return record is not None or left_behind
