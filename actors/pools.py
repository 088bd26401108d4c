"""The pools: named detached Ray actors, one pool a lane.

`router-p0-0`, `router-p1-0`, … and `shard-0`, …, and a `supervisor`, so that the dashboard reads like the
architecture. A pool member that dies is restarted by Ray under its name and takes up where it was; meanwhile the
others take its partitions.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import ray
from ray.util import list_named_actors

from actors.members import Assemble, MemberStats, PoolMember
from actors.supervisor import OpenGuard, Supervisor
from tocsin.actor_names import NAMESPACE, P0_STANDBY, SUPERVISOR, kind_of, member_name, member_names
from tocsin.processes import ProcessRecord, end_process
from tocsin.settings import Settings
from tocsin.telemetry.logs import log_folder, write_logs
from tocsin.wire.lanes import LaneName

CALL_TIMEOUT_S = 20.0


def ensure_pools(settings: Settings, assemble: Assemble) -> dict[str, Any]:
    """Start what is not running yet; returns handles by name. Does not wait for them."""
    return {name: _start(name, lane, settings, assemble) for name, lane in member_names(settings).items()}


def ensure_supervisor(settings: Settings, assemble: Assemble, guard: OpenGuard) -> Any:
    """Start the supervisor unless it runs; returns its handle."""
    return SupervisorActor.options(**_options(SUPERVISOR)).remote(settings, assemble, guard)


def _start(name: str, lane: LaneName, settings: Settings, assemble: Assemble) -> Any:
    actor = ShardActor if lane is LaneName.ACTIVITY else RouterActor
    return actor.options(**_options(name), resources=_placement()).remote(
        name, lane.value, settings, assemble
    )


def _options(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "max_restarts": -1,
        "num_cpus": 0,
        "max_pending_calls": 100,
        "max_concurrency": 4,
        "enable_task_events": False,
    }


class RayPool:
    """Members as named Ray actors.

    Args:
        settings: What members are made with.
        assemble: Puts together what they host.
    """

    def __init__(self, settings: Settings, assemble: Assemble) -> None:
        self._settings = settings
        self._assemble = assemble

    def size(self, lane: LaneName) -> int:
        """How many members of a lane there are."""
        return len(running_members(lane))

    def grow(self, lane: LaneName) -> None:
        """Start one more, under the lowest number that is free."""
        taken = set(running_members(lane))
        number = next(n for n in range(len(taken) + 1) if member_name(lane, n) not in taken)
        _start(member_name(lane, number), lane, self._settings, self._assemble)

    def shrink(self, lane: LaneName) -> None:
        """Drain the member with the highest number and end its actor; its partitions go to the others."""
        names = sorted(running_members(lane), key=lambda name: int(name.rpartition("-")[2]))
        if names:
            _end([names[-1]], timeout_s=CALL_TIMEOUT_S)

    def replace(self, name: str, process: ProcessRecord) -> bool:
        """End the process of a member; Ray starts another under its name.

        On this machine by its process id, as a stopped process answers no call; on another through Ray.
        """
        if process.host == socket.gethostname():
            return end_process(process)
        try:
            ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=False)
        except (ValueError, ray.exceptions.RayError):
            return False
        return True


class MemberShell(PoolMember):
    """The shell: a member in a process of its own, which has a log."""

    def __init__(self, name: str, lane: str, settings: Settings, assemble: Assemble) -> None:
        write_logs(name, log_folder(settings.data_path))
        super().__init__(name, lane, settings, assemble)


class SupervisorShell(Supervisor):
    """The shell: a supervisor that moves Ray actors, and starts by itself after a restart."""

    def __init__(self, settings: Settings, assemble: Assemble, guard: OpenGuard) -> None:
        write_logs("supervisor", log_folder(settings.data_path))
        super().__init__(
            settings,
            RayPool(settings, assemble),
            guard,
            standby=lambda: PoolMember(P0_STANDBY, LaneName.P0, settings, assemble),
        )
        self.start()


RouterActor = ray.remote(MemberShell)
ShardActor = ray.remote(MemberShell)
SupervisorActor = ray.remote(SupervisorShell)


def running_members(lane: LaneName | None = None) -> list[str]:
    """Names of the members that there are, of one lane or of all."""
    listing: Any = list_named_actors  # untyped upstream
    found = [item["name"] for item in listing(all_namespaces=True) if item["namespace"] == NAMESPACE]
    lanes = LaneName if lane is None else (lane,)
    kinds = {kind_of(one) for one in lanes}
    return [name for name in found if name.rpartition("-")[0] in kinds]


def _placement() -> dict[str, float]:
    """Where a cluster has nodes for routers, pools go there."""
    resources: Any = ray.cluster_resources  # untyped upstream
    return {"router": 0.01} if "router" in resources() else {}


def await_pools(handles: dict[str, Any], *, timeout_s: float = 60.0) -> list[MemberStats]:
    """Wait until every member consumes.

    Raises:
        GetTimeoutError: one did not come up in time.
        RayActorError: one could not start; the message holds its error.
    """
    found: list[MemberStats] = ray.get(
        [handle.stats.remote() for handle in handles.values()], timeout=timeout_s
    )
    return found


def stop_pools(*, timeout_s: float = 15.0) -> bool:
    """Drain every member and end its actor, the supervisor first. Returns whether all drained in time."""
    _end([SUPERVISOR], timeout_s=timeout_s)  # or it would start members again
    return _end(running_members(), timeout_s=timeout_s)


def _end(names: Sequence[str], *, timeout_s: float) -> bool:
    """Stop actors in order and end them. Returns whether each stopped in time."""
    handles: list[Any] = []
    for name in names:
        try:
            handles.append(ray.get_actor(name, namespace=NAMESPACE))
        except ValueError:
            continue
    stopping = [handle.stop.remote(timeout_s) for handle in handles]
    done, late = (
        ray.wait(stopping, num_returns=len(stopping), timeout=timeout_s + 2) if stopping else ([], [])
    )
    drained = not late
    for reference in done:
        try:
            drained = ray.get(reference) and drained
        except ray.exceptions.RayError:
            drained = False  # it died while draining: what it held stays pending
    for handle in handles:
        ray.kill(handle)
    return drained
