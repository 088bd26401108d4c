"""Who runs in a data folder: the lock that one platform at a time holds, and its record in `<data>/run.json`."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from pathlib import Path
from typing import IO

import msgspec
import psutil

from tocsin.errors import TocsinError
from tocsin.settings import Settings


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What `<data>/run.json` says about the platform that runs there."""

    pid: int
    started_at: float  # of the process
    base_url: str
    dashboard_url: str
    token_path: str
    storage: str
    scratch: str  # Ray's working files; gone when it stops
    ready: bool = False

    def alive(self) -> bool:
        """Whether that process still runs."""
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started_at) < 1.0
        except psutil.NoSuchProcess:
            return False


class AlreadyRunningError(TocsinError):
    """Another platform holds the data folder."""

    code = "already-running"

    def __init__(self, record: RunRecord | None, data: Path) -> None:
        self.record = record
        where = f" at {record.base_url} (process {record.pid})" if record else ""
        super().__init__(f"a platform already runs in {data}{where}", hint="`tocsin status` shows it")


def record_path(settings: Settings) -> Path:
    """Where the record is kept."""
    return settings.data_path / "run.json"


def take_lock(settings: Settings) -> IO[str]:
    """Make the data folder and lock it for this process. The lock ends with the file that is returned.

    Raises:
        AlreadyRunningError: another process holds it.
    """
    data = settings.data_path
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = (data / "lock").open("w", encoding="ascii")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise AlreadyRunningError(read_run(settings), data) from None
    return lock


def read_run(settings: Settings) -> RunRecord | None:
    """The record of a running platform in this data folder; None when none runs."""
    try:
        record = msgspec.json.decode(record_path(settings).read_bytes(), type=RunRecord)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return record if record.alive() else None


def write_run(settings: Settings, record: RunRecord) -> None:
    """Replace the record in one step: a reader sees the old one or the new one."""
    path = record_path(settings)
    temporary = path.with_suffix(".json.new")
    temporary.write_bytes(msgspec.json.encode(record))
    temporary.replace(path)


def remove_scratch(settings: Settings) -> None:
    """Remove what a platform that was killed left behind of Ray's working files."""
    path = record_path(settings)
    with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
        record = msgspec.json.decode(path.read_bytes(), type=RunRecord)
        if record.scratch and not record.alive():
            shutil.rmtree(record.scratch, ignore_errors=True)
            path.unlink()
