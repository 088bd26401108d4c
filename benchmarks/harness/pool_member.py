"""A pool member in a process of its own.

It is `actors.members.PoolMember`, the class the Ray actor is made of: the same code, the same thread and event loop,
without Ray around it. Ray has no part in the path of a notification.
"""

from __future__ import annotations

import contextlib
from multiprocessing.connection import Connection

from actors.members import PoolMember
from benchmarks.harness.processes import receive, send
from launch.assembly import host
from tocsin.settings import Settings


def member(pipe: Connection, name: str, lane: str, settings: Settings) -> None:
    """Consume a lane until the pipe closes, then drain."""
    found = PoolMember(name, lane, settings, host)
    send(pipe, found.stats().name)
    with contextlib.suppress(EOFError):
        receive(pipe, str)
    found.stop()
