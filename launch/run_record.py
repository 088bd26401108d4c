"""Who runs in a data folder: the lock that one platform at a time holds, and its record in `<data>/run.json`."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from pathlib import Path
from typing import IO

import msgspec
import psutil

from launch.runs import logs, processes
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
    logs: str = ""  # the folder of this run
    ready: bool = False
    trouble: str = ""  # what died and is being brought back

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


def last_record(settings: Settings) -> RunRecord | None:
    """The record in this data folder, of a platform that runs or was killed."""
    with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
        return msgspec.json.decode(record_path(settings).read_bytes(), type=RunRecord)
    return None


def clear_killed(settings: Settings) -> int:
    """Clear away what a platform that was killed left: its processes but storage, and Ray's working files.

    Its logs stay. The caller holds the lock, or knows that nobody does.

    Returns:
        How many processes there were.
    """
    record = last_record(settings)
    storage = processes.storage_pids(settings.data_path)
    run = Path(record.logs) if record is not None and record.logs else None
    ended = processes.end_all(processes.of_folder(settings.data_path, run, but=storage))
    if record is not None:
        clear_scratch(Path(record.scratch) if record.scratch else None, run)
        record_path(settings).unlink(missing_ok=True)
    return ended


def clear_scratch(scratch: Path | None, run: Path | None) -> None:
    """Remove Ray's working files, once its logs are in the run's folder."""
    if scratch is None:
        return
    if run is not None:
        logs.keep_ray_logs(scratch, run)
    shutil.rmtree(scratch, ignore_errors=True)
