"""The libraries of the contest: how their processes are started, and how much of their work is left.

All get three worker processes, as many as ours has routers of the two lanes. They are split as served each
best; `foreign/` says why, file by file.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import redis

WORKERS = 3  # processes that handle jobs, of each library and of ours
FOREIGN = Path(__file__).parent / "foreign"

Command = Sequence[str]  # its first word is a program of the library's environment
Depth = Callable[[redis.Redis], int]


class Runtime(StrEnum):
    """Where a library runs."""

    PYTHON = "python"
    NODE = "node"


class Library(msgspec.Struct, frozen=True, kw_only=True):
    """One way to set a library up."""

    name: str
    package: str  # as its registry calls it
    runtime: Runtime
    workers: Sequence[Command]
    sender: Command
    depth: Depth  # jobs sent and not acknowledged yet
    environ: Mapping[str, str] = {}


def _number(reply: Any) -> int:
    return int(reply)


def _celery_depth(client: redis.Redis) -> int:
    return sum(_number(client.llen(queue)) for queue in ("p0", "p2")) + _number(client.hlen("unacked"))


def _dramatiq_depth(client: redis.Redis) -> int:
    return sum(_number(client.hlen(f"dramatiq:{queue}.msgs")) for queue in ("p0", "p2"))


def _taskiq_depth(client: redis.Redis) -> int:
    left = 0
    for stream in ("p0", "p2"):
        groups: Any = client.xinfo_groups(stream) if client.exists(stream) else []
        left += sum(group["pending"] + (group["lag"] or 0) for group in groups)
    return left


def _bullmq_depth(client: redis.Redis) -> int:
    left = 0
    for queue in ("p0", "p2", "jobs"):
        left += _number(client.llen(f"bull:{queue}:wait")) + _number(client.llen(f"bull:{queue}:active"))
        left += _number(client.zcard(f"bull:{queue}:prioritized"))
    return left


def _celery_worker(queue: str, name: str) -> Command:
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING")
    return ("celery", "-A", "celery_peer", "worker", "-P", "solo", "-Q", queue, "-n", f"{name}@peers", *quiet)


def _taskiq_worker(broker: str, processes: int) -> Command:
    busy = ("--max-async-tasks", "300", "--max-prefetch", "300", "--ack-type", "when_executed")
    quiet = ("--no-parse", "--log-level", "WARNING")
    return ("taskiq", "worker", f"taskiq_peer:{broker}", "--workers", str(processes), *busy, *quiet)


def _bullmq_worker(queue: str, concurrency: int) -> Command:
    return ("node", "bullmq_peer.js", "work", queue, str(concurrency))


CELERY = Library(
    name="celery",
    package="celery",
    runtime=Runtime.PYTHON,
    workers=(_celery_worker("p0", "a"), _celery_worker("p2", "b"), _celery_worker("p2", "c")),
    sender=("python", "send.py", "celery"),
    depth=_celery_depth,
)
DRAMATIQ = Library(
    name="dramatiq",
    package="dramatiq",
    runtime=Runtime.PYTHON,
    workers=(("dramatiq", "dramatiq_peer", "--processes", str(WORKERS), "--threads", "8"),),
    sender=("python", "send.py", "dramatiq"),
    depth=_dramatiq_depth,
    environ={"dramatiq_queue_prefetch": "100"},
)
TASKIQ = Library(
    name="taskiq",
    package="taskiq-redis",
    runtime=Runtime.PYTHON,
    workers=(_taskiq_worker("p0_broker", 1), _taskiq_worker("p2_broker", 2)),
    sender=("python", "send.py", "taskiq"),
    depth=_taskiq_depth,
)
BULLMQ = Library(
    name="bullmq",
    package="bullmq",
    runtime=Runtime.NODE,
    workers=(_bullmq_worker("jobs", 50),) * WORKERS,
    sender=("node", "bullmq_peer.js", "send", "priority"),
    depth=_bullmq_depth,
)
BULLMQ_QUEUES = msgspec.structs.replace(
    BULLMQ,
    name="bullmq_queue_per_priority",
    workers=(_bullmq_worker("p0", 10), _bullmq_worker("p2", 50), _bullmq_worker("p2", 50)),
    sender=("node", "bullmq_peer.js", "send", "queues"),
)

PEERS = (CELERY, DRAMATIQ, TASKIQ, BULLMQ)
VARIANTS = (BULLMQ_QUEUES,)  # reported as well, not compared with ours


def locked_version(library: Library, folder: Path = FOREIGN) -> str:
    """The version the lock file names.

    Raises:
        KeyError: it names none.
    """
    if library.runtime is Runtime.NODE:
        lock = json.loads((folder / "package-lock.json").read_text(encoding="utf-8"))
        return str(lock["packages"][f"node_modules/{library.package}"]["version"])
    lock = tomllib.loads((folder / "uv.lock").read_text(encoding="utf-8"))
    found = {package["name"]: package["version"] for package in lock["package"]}
    return str(found[library.package])
