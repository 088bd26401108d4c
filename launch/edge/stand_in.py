"""Waits beside one HAProxy; should it die without a successor, serves in its place until there is one.

    HAProxy runs ──ends──► another answers (a reload) ─────────────► ends
                      └──► nobody: a stand-in, same configuration ──taken over, or the node stops──► ends
                                                └──Ray's manager gone for 30 s──► ends

The stand-in has an admin socket of its own: Ray still finds its HAProxy dead, and starts another, which takes over.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from launch.edge.wrapper import STAND_IN_CONFIG, STAND_IN_PID, admin_socket, process_behind

MANAGER_AWAY_S = 30.0  # as long as Ray may need to start another manager


def main(arguments: list[str]) -> None:
    """Until there is nothing left to do.

    Args:
        arguments: HAProxy's binary, Ray's configuration file, the process to watch, Ray's manager of it, and that
            one's parent: the raylet, which lives as long as the node.
    """
    binary, config = arguments[0], Path(arguments[1])
    watched, manager, raylet = map(int, arguments[2:])
    node = handle_of(raylet) if raylet > 1 else None
    if raylet > 1 and node is None:
        return
    manager_handle = handle_of(manager)
    process = handle_of(watched)
    if process is not None:
        ended = wait_for([process, node])
        if node in ended:
            return
    if (node is None and manager_handle is None) or not config.exists():
        return  # the platform has stopped
    if process_behind(admin_socket(config.read_text(encoding="utf-8"))) is not None:
        return  # a reload: the next one has its own watcher
    serve(binary, config.with_name(STAND_IN_CONFIG), node, manager_handle)


def serve(binary: str, config: Path, node: int | None, manager: int | None) -> None:
    """Run the stand-in until it is taken over or nobody is left to take it over."""
    child = subprocess.Popen([binary, "-db", "-f", str(config)])  # noqa: S603 (HAProxy, as Ray runs it)
    note = config.with_name(STAND_IN_PID)
    note.write_text(str(child.pid), encoding="ascii")
    try:
        served = os.pidfd_open(child.pid)
        ended = wait_for([served, node, manager])
        if manager in ended and not {served, node} & set(ended):
            wait_for([served, node], MANAGER_AWAY_S)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        note.unlink(missing_ok=True)


def wait_for(handles: list[int | None], timeout_s: float | None = None) -> list[int | None]:
    """Those whose process has ended, once one has; none after the timeout."""
    poll = select.poll()
    for handle in handles:
        if handle is not None:
            poll.register(handle, select.POLLIN)
    return [handle for handle, _ in poll.poll(None if timeout_s is None else timeout_s * 1000)]


def handle_of(pid: int) -> int | None:
    """A descriptor that becomes readable at the end of a process; None if it has ended."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


if __name__ == "__main__":
    main(sys.argv[1:])
