"""Readiness, status and metrics on a real server: one truth about who consumes."""

from __future__ import annotations

import time

from redis import asyncio as aioredis

from tests.contract.serve_deployments.test_metrics import operations, told
from tocsin.clock import SystemClock
from tocsin.keys import LaneKeys
from tocsin.processes import this_process
from tocsin.streams.heartbeats import SupervisorHeartbeat
from tocsin.streams.lanes import Lane
from tocsin.streams.leases import LeasePolicy, Leases
from tocsin.wire.lanes import LaneName


async def everybody_beats(client: aioredis.Redis, namespace: str) -> None:
    for name in LaneName:
        keys = LaneKeys(namespace, name)
        await Lane(client, namespace=namespace, name=name, partitions=1, block_records=1).ensure_groups()
        await Leases(
            client, keys=keys, name="one", partitions=1, policy=LeasePolicy(), clock=SystemClock()
        ).beat()


async def test_members_that_stopped_beating_are_nowhere_called_consumers(
    url: str, client: aioredis.Redis, namespace: str
) -> None:
    await everybody_beats(client, namespace)
    for name in LaneName:
        await client.zadd(LaneKeys(namespace, name).members, {"one": (time.time() - 4.5) * 1000})
    async with operations(url, namespace) as http:
        ready = await http.get("/readyz")
        assert ready.status_code == 503
        checks = {check["name"]: check for check in ready.json()["checks"]}
        assert [checks[f"lane {name}"]["ok"] for name in LaneName] == [False] * len(LaneName)
        assert "nobody is told" in checks["lane p0"]["detail"]
        assert "docs/runbooks/lane-does-not-drain.md" in checks["lane p0"]["detail"]
        status = (await http.get("/v1/status")).json()
        assert [lane["consumers"] for lane in status["lanes"]] == [[]] * len(LaneName)
        values = await told(http)
        assert [values["tocsin_consumers", str(name)] for name in LaneName] == [0.0] * len(LaneName)


async def test_members_that_beat_are_consumers_everywhere(
    url: str, client: aioredis.Redis, namespace: str
) -> None:
    await everybody_beats(client, namespace)
    async with operations(url, namespace) as http:
        ready = await http.get("/readyz")
        assert ready.status_code == 200, ready.text
        status = (await http.get("/v1/status")).json()
        assert [lane["consumers"] for lane in status["lanes"]] == [["one"]] * len(LaneName)
        assert (await told(http))["tocsin_consumers", "p0"] == 1


async def test_a_p0_that_waits_though_somebody_beats_is_a_warning(
    url: str, client: aioredis.Redis, namespace: str
) -> None:
    await everybody_beats(client, namespace)
    keys = LaneKeys(namespace, LaneName.P0)
    old_ms = int((time.time() - 60) * 1000)
    await client.xadd(keys.stream(0), {"v": "1", "b": b"x"}, id=f"{old_ms}-0")
    async with operations(url, namespace) as http:
        ready = await http.get("/readyz")
        assert ready.status_code == 200
        (check,) = [check for check in ready.json()["checks"] if check["name"] == "lane p0"]
        assert "has waited 6" in check["warning"]


async def test_a_supervisor_that_does_not_beat_is_named(
    url: str, client: aioredis.Redis, namespace: str
) -> None:
    await everybody_beats(client, namespace)
    async with operations(url, namespace) as http:
        (check,) = [c for c in (await http.get("/readyz")).json()["checks"] if c["name"] == "supervisor"]
        assert (check["ok"], "does not beat" in check["warning"]) == (True, True)
        assert (await http.get("/v1/status")).json()["supervisor"] is False
        await SupervisorHeartbeat(client, namespace, this_process()).beat()
        (check,) = [c for c in (await http.get("/readyz")).json()["checks"] if c["name"] == "supervisor"]
        assert not check.get("warning")
        assert (await told(http))["tocsin_supervisors",] == 1
