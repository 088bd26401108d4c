"""The pools: named detached Ray actors, one pool a lane.

`router-p0-0`, `router-p1-0`, … and `shard-0`, …, so that the dashboard reads like the architecture. A pool member
that dies is restarted by Ray under its name and takes up where it was; meanwhile the others take its partitions.
"""

from __future__ import annotations

from typing import Any

import ray

from actors.members import MemberStats, PoolMember
from tocsin.schemas import LaneName
from tocsin.settings import Settings

NAMESPACE = "tocsin"
CALL_TIMEOUT_S = 20.0

RouterActor = ray.remote(PoolMember)
ShardActor = ray.remote(PoolMember)


def member_names(settings: Settings) -> dict[str, LaneName]:
    """Every pool member and its lane, p0 first."""
    names: dict[str, LaneName] = {}
    for lane in LaneName:
        kind = "shard" if lane is LaneName.ACTIVITY else f"router-{lane}"
        names |= {f"{kind}-{number}": lane for number in range(settings.pool_size(lane))}
    return names


def ensure_pools(settings: Settings) -> dict[str, Any]:
    """Start what is not running yet; returns handles by name. Does not wait for them."""
    return {name: _start(name, lane, settings) for name, lane in member_names(settings).items()}


def _start(name: str, lane: LaneName, settings: Settings) -> Any:
    actor = ShardActor if lane is LaneName.ACTIVITY else RouterActor
    return actor.options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        num_cpus=0,
        max_pending_calls=100,
        max_concurrency=4,
        enable_task_events=False,
        resources=_placement(),
    ).remote(name, lane.value, settings)


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


def stop_pools(settings: Settings, *, timeout_s: float = 15.0) -> bool:
    """Drain every member and end its actor. Returns whether all drained in time."""
    handles: list[Any] = []
    for name in member_names(settings):
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
