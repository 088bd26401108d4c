"""One server a folder: a lock that the server process itself keeps for as long as it lives.

The lock (`flock`) belongs to an open file that the server inherits, so it ends with the server, however that ends,
and not with whoever started it. A server that was stopped and forgotten still holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

import psutil

from tocsin.processes import same_process

TERM_WAIT_S = 15.0
KILL_WAIT_S = 5.0


def try_lock(folder: Path) -> int | None:
    """Lock a folder. Returns the descriptor to hand to the server; None where a server has it."""
    descriptor = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def write_holder(descriptor: int, pid: int, started_at: float) -> None:
    """Note in the lock's file which process keeps it."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{pid} {started_at!r}\n".encode(), 0)


def holder(folder: Path) -> psutil.Process | None:
    """The process that the lock's file names, if it is still that one."""
    with contextlib.suppress(OSError, ValueError):
        pid, started_at = (folder / "server.lock").read_text(encoding="ascii").split()
        return same_process(int(pid), float(started_at))
    return None


def end_process(process: psutil.Process) -> None:
    """Wake it if it is stopped, ask it to end, and kill it after 15 s."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()  # a stopped process cannot obey
        process.terminate()
        try:
            process.wait(timeout=TERM_WAIT_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(timeout=KILL_WAIT_S)
