"""What `<data>/run.json` says of the platform that runs there."""

from __future__ import annotations

import contextlib
import shutil

import msgspec
import psutil

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


def read_run(settings: Settings) -> RunRecord | None:
    """The record of a running platform in this data folder; None when none runs."""
    try:
        record = msgspec.json.decode((settings.data_path / "run.json").read_bytes(), type=RunRecord)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return record if record.alive() else None


def remove_scratch(settings: Settings) -> None:
    """Remove what a platform that was killed left behind of Ray's working files."""
    path = settings.data_path / "run.json"
    with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
        record = msgspec.json.decode(path.read_bytes(), type=RunRecord)
        if record.scratch and not record.alive():
            shutil.rmtree(record.scratch, ignore_errors=True)
            path.unlink()
