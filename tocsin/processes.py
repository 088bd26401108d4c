"""Processes by a record that outlives them: who it was, whether it still runs, and its end."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid

import msgspec
import psutil


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One process among all that ever had its id. Times are seconds since the epoch."""

    host: str
    pid: int
    started_at: float
    token: str  # unique: tells two holders of a name apart, in one process as well


def this_process() -> ProcessRecord:
    """A record of this process, with a token of its own at each call."""
    process = psutil.Process()
    return ProcessRecord(
        host=socket.gethostname(),
        pid=os.getpid(),
        started_at=process.create_time(),
        token=uuid.uuid4().hex,
    )


def same_process(pid: int, started_at: float) -> psutil.Process | None:
    """A process by its id and the time it was created, seconds since 1970; None where it has ended."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started_at) < 1.0
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def find_process(record: ProcessRecord) -> psutil.Process | None:
    """The process if it still exists on this machine; None for one of another machine, and for a zombie."""
    if record.host != socket.gethostname():
        return None
    with contextlib.suppress(psutil.Error):
        return same_process(record.pid, record.started_at)
    return None


def is_gone(record: ProcessRecord) -> bool:
    """Whether a process of this machine has ended; never true for one of another."""
    return record.host == socket.gethostname() and find_process(record) is None


def is_stopped(record: ProcessRecord) -> bool:
    """Whether a process of this machine is stopped (SIGSTOP, or a debugger): it does not go on by itself."""
    process = find_process(record)
    try:
        return process is not None and process.status() in {
            psutil.STATUS_STOPPED,
            psutil.STATUS_TRACING_STOP,
        }
    except psutil.Error:
        return False


def end_process(record: ProcessRecord, *, timeout_s: float = 2.0) -> bool:
    """SIGKILL a process of this machine, a stopped one too. Returns whether it is gone."""
    process = find_process(record)
    if process is None:
        return True
    try:
        process.kill()
        process.wait(timeout=timeout_s)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:  # it may be somebody else's child: then only its state tells
        return find_process(record) is None
    return True
