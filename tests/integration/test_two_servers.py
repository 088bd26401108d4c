"""P0 on a server of its own: what is where, and that it goes on while the main server is dead, paused or full."""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import redis

from actors.members import PoolMember
from actors.supervisor import Supervisor
from launch.assembly import guard, host
from launch.platform import Platform
from launch.storage import prepare
from serve_deployments.dead_letters import DeadLetterApplication
from serve_deployments.emergency_calls import EmergencyCallIntake
from serve_deployments.http.application import Application
from serve_deployments.notifications import Notifications
from serve_deployments.operations import Operations
from tests.support import Foreign, eventually, foreign_server, free_settings
from tocsin.errors import ConfigurationError, StorageUnavailableError
from tocsin.ports import free_port
from tocsin.processes import ProcessRecord
from tocsin.settings import Settings
from tocsin.storage.embedded import server_binary
from tocsin.wire.lanes import LaneName

pytestmark = pytest.mark.integration

P0 = {"type": "emergency", "title": "Gas", "recipient": "flat-4"}
P1 = {"type": "device_alert", "alert_type": "low_battery", "title": "Battery", "recipient": "flat-4"}
P2 = {"type": "reminder", "title": "Water the plants", "recipient": "flat-4"}
CALL = {"caller": "resident-7", "kind": "medical", "contacts": ["daughter"]}


@pytest.fixture
def main(tmp_path: Path) -> Iterator[Foreign]:
    folder = tmp_path / "main"
    folder.mkdir()
    with foreign_server(server_binary(), folder, appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Foreign]:
    folder = tmp_path / "p0"
    folder.mkdir()
    with foreign_server(server_binary(), folder, appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, main: Foreign, own: Foreign) -> Settings:
    return msgspec.structs.replace(free_settings(tmp_path), redis_url=main.url, redis_url_p0=own.url)


@asynccontextmanager
async def serving(app: Application) -> AsyncIterator[httpx2.AsyncClient]:
    """An application in this process, without Serve."""
    transport = httpx2.ASGITransport(app=app.__serve_build_asgi_app__())
    async with httpx2.AsyncClient(transport=transport, base_url="http://tocsin.test") as http:
        yield http
    lanes: Any = app._lanes  # type: ignore[attr-defined]  # all these applications have one
    await lanes.aclose()


def keys(server: Foreign) -> set[str]:
    """The hash tags on a server, that is: whose keys are there."""
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        found: list[str] = [key.split(":")[1].strip("{}") for key in client.scan_iter(count=1000)]
    return set(found)


def delivered(settings: Settings, router: str, notification_id: str) -> bool:
    log = settings.data_path / "deliveries" / f"{router}.jsonl"
    return notification_id in log.read_text(encoding="utf-8")


async def test_each_lane_is_on_its_server_and_ends_there(
    settings: Settings, main: Foreign, own: Foreign
) -> None:
    await prepare(settings)
    routers = [PoolMember(f"router-{lane}-0", lane, settings, host) for lane in (LaneName.P0, LaneName.P1)]
    try:
        async with (
            serving(Notifications(settings)) as http,
            serving(EmergencyCallIntake(settings)) as calls,
            serving(Operations({}, settings)) as operations,
        ):
            answer = await http.post(
                "/", json=[P0 | {"dedup_key": "d"}, P1], headers={"idempotency-key": "k"}
            )
            p0, p1 = (receipt["id"] for receipt in answer.json()["receipts"])
            called = await calls.post("/", json=CALL, headers={"idempotency-key": "k"})
            assert called.status_code == 202, called.text
            eventually(lambda: delivered(settings, "router-p0-0", p0), what="p0")
            eventually(lambda: delivered(settings, "router-p1-0", p1), what="p1")
            assert {(await http.get(f"/{one}")).json()["state"] for one in (p0, p1)} <= {
                "accepted",  # settled a moment after the delivery
                "delivered",
            }
            status = (await operations.get("/v1/status")).json()
            counts = {lane["lane"]: lane["counts"].get("accepted", 0) for lane in status["lanes"]}
            assert counts == {"p0": 3, "p1": 1, "p2": 0, "activity": 0}  # the call also told the local number
            consumers = {lane["lane"]: lane["consumers"] for lane in status["lanes"]}
            assert (consumers["p0"], consumers["p1"]) == (["router-p0-0"], ["router-p1-0"])
    finally:
        stopped = [router.stop() for router in routers]
    assert all(stopped)
    assert keys(own) == {"p0", "emergency"}
    assert {"p1", "p2", "activity"} <= keys(main)
    assert not keys(main) & {"p0", "emergency"}


@pytest.mark.parametrize("how", ["dead", "paused"])
async def test_p0_is_accepted_and_delivered_without_the_main_server(
    settings: Settings, main: Foreign, how: str
) -> None:
    await prepare(settings)
    router = PoolMember("router-p0-0", LaneName.P0, settings, host)
    apps = Notifications(settings), EmergencyCallIntake(settings), DeadLetterApplication(settings)
    try:
        async with (
            serving(apps[0]) as http,
            serving(apps[1]) as calls,
            serving(apps[2]) as letters,
            serving(Operations({}, settings)) as operations,
        ):
            main.kill() if how == "dead" else main.process.send_signal(signal.SIGSTOP)
            answer = await http.post("/", json=P0)
            assert answer.status_code == 202, answer.text
            receipt = answer.json()["receipts"][0]
            assert receipt["durability"] == "fsynced"
            eventually(lambda: delivered(settings, "router-p0-0", receipt["id"]), what="the delivery")

            async def state() -> str:
                return str((await http.get(f"/{receipt['id']}")).json()["state"])

            assert await state() in {"accepted", "delivered"}
            for _ in range(2):  # a repeat is the first call, without the main server, too
                called = await calls.post("/", json=CALL, headers={"idempotency-key": "k"})
                assert called.status_code == 202, called.text
            for one in called.json()["receipts"]:
                eventually(lambda one=one: delivered(settings, "router-p0-0", one["id"]), what="the call")  # type: ignore[misc]

            assert (await http.post("/", json=P1)).status_code == 503
            atomic = await http.post("/", json=[P1, P0], params={"atomic": "true"})
            assert atomic.status_code == 503
            mixed = (await http.post("/", json=[P1, P0, P2])).json()
            assert [one["index"] for one in mixed["receipts"]] == [1]
            assert [(one["index"], one["code"]) for one in mixed["errors"]] == [
                (0, "storage-unavailable"),
                (2, "storage-unavailable"),
            ]
            assert (await letters.get("/", params={"lane": "p0"})).status_code == 200
            ready = await operations.get("/readyz")
            checks = {check["name"]: check["ok"] for check in ready.json()["checks"]}
            assert (ready.status_code, checks) == (
                503,
                {"storage": False, "storage p0": True, "lane p0": True},
            )
    finally:
        if how == "paused":
            main.process.send_signal(signal.SIGCONT)
        assert router.stop()


async def test_one_server_that_goes_away_between_its_lanes_fails_the_request_as_a_whole(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Notifications(msgspec.structs.replace(settings, redis_url_p0=""))

    async def away(*_: Any, **__: Any) -> None:
        raise StorageUnavailableError("storage is unavailable")

    monkeypatch.setattr(app._lanes.lanes[LaneName.P1], "append", away)
    async with serving(app) as http:  # what was stored is found by the repeat
        assert (await http.post("/", json=[P0, P1])).status_code == 503


async def test_the_other_lanes_go_on_and_stay_guarded_without_p0s_server(
    settings: Settings, own: Foreign
) -> None:
    small = msgspec.structs.replace(settings, p2_max_records=10)
    await prepare(small)
    async with serving(Notifications(small)) as http:
        own.kill()
        assert (await http.post("/", json=P0)).status_code == 503
        assert (await http.post("/", json=[P2] * 5)).status_code == 202
        refused = await http.post("/", json=[P2] * 100)
        assert (refused.status_code, "p2 takes no more records" in refused.text) == (429, True)


class Sizes:
    """A pool that only notes how it was asked to change."""

    def __init__(self) -> None:
        self.grown: set[LaneName] = set()

    def size(self, lane: LaneName) -> int:  # noqa: ARG002 (the port)
        return 1

    def grow(self, lane: LaneName) -> None:
        self.grown.add(lane)

    def shrink(self, lane: LaneName) -> None:
        pass

    def replace(self, name: str, process: ProcessRecord) -> bool:
        raise NotImplementedError


async def test_the_supervisor_watches_p0_without_the_main_server(settings: Settings, main: Foreign) -> None:
    await prepare(settings)
    async with serving(Notifications(settings)) as http:
        assert (await http.post("/", json=[P0] * 200)).status_code == 202
    main.process.send_signal(signal.SIGSTOP)
    pool = Sizes()
    supervisor = Supervisor(msgspec.structs.replace(settings, p0_routers=1), pool, guard)
    supervisor.start()
    try:
        eventually(lambda: pool.grown == {LaneName.P0}, what="the p0 pool growing")
    finally:
        main.process.send_signal(signal.SIGCONT)
        assert supervisor.stop()


async def test_p0_is_not_moved_away_from_what_it_still_holds(settings: Settings, main: Foreign) -> None:
    before = msgspec.structs.replace(settings, redis_url_p0="")
    await prepare(before)
    async with serving(Notifications(before)) as http:
        assert (await http.post("/", json=P0)).status_code == 202
    with pytest.raises(
        ConfigurationError, match="p0 still has 1 blocks, 0 retries and 0 dead letters"
    ) as caught:
        await prepare(settings)
    assert "TOCSIN_REDIS_URL_P0" in caught.value.hint


def test_the_start_reports_both_servers_and_names_the_one_that_is_not_there(
    settings: Settings, main: Foreign, own: Foreign
) -> None:
    lines: list[str] = []
    platform = Platform(settings, lambda part, line: lines.append(f"{part}: {line}"))
    record = platform._start_storage()
    for line, start, url in zip(
        lines, ("storage: external valkey ", "storage p0: external valkey "), (main.url, own.url), strict=True
    ):
        assert line.startswith(start)
        assert line.endswith(f" at {url}, durability fsynced")
    assert re.fullmatch(r"valkey [\d.]+ \(fsynced\), p0: valkey [\d.]+ \(fsynced\)", record)
    gone = msgspec.structs.replace(settings, redis_url_p0=f"redis://:hush@127.0.0.1:{free_port()}/0")
    with pytest.raises(StorageUnavailableError) as caught:
        Platform(gone, lambda _part, _line: None)._start_storage()
    assert "TOCSIN_REDIS_URL_P0" in caught.value.hint
    assert "hush" not in str(caught.value)
