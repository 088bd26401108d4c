"""What a receipt may say of the disk: servers that are not ours, in every mode, through to the answer.

`appendfsync no` is the server that never gets round to syncing: what waits for the disk there waits until it is told
to sync every write, or until its patience ends.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from redis import asyncio as aioredis

from serve_deployments.emergency_calls import EmergencyCallIntake
from serve_deployments.http.application import Application
from serve_deployments.notifications import Notifications
from serve_deployments.serving import lane_set as lane_sets
from serve_deployments.serving.lane_set import LaneSet
from tests.fakes import wait_until
from tests.support import Foreign, foreign_server
from tocsin.errors import ConfigurationError, ConflictError, OverloadedError, StorageUnavailableError
from tocsin.settings import Settings
from tocsin.storage import connect as connecting
from tocsin.storage.connect import connect, inspect
from tocsin.storage.embedded import server_binary
from tocsin.streams.lanes import Lane
from tocsin.streams.records import Placement, Record
from tocsin.wire.lanes import Durability, LaneName

PATIENT_MS = 60_000
HASTY_MS = 20


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Foreign]:
    folder = tmp_path_factory.mktemp("foreign")
    with foreign_server(server_binary(), folder, appendonly="yes", appendfsync="everysec") as server:
        yield server


@pytest.fixture
async def admin(valkey: Foreign) -> AsyncIterator[aioredis.Redis]:
    client = connect(valkey.url, timeout_s=10.0)
    yield client
    for name, value in {"maxmemory": "0", "appendfsync": "everysec", "appendonly": "yes"}.items():
        await client.config_set(name, value)
    await wait_until(lambda: aof_is_on(client))
    await client.flushall()
    await client.aclose()


async def aof_is_on(client: aioredis.Redis) -> bool:
    info = await client.info("persistence")
    return not (info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])


@asynccontextmanager
async def lane_on(url: str) -> AsyncIterator[Lane]:
    """A lane over connections of its own: none of them has written anything yet."""
    client = connect(url, timeout_s=90.0)
    try:
        yield Lane(client, namespace="tocsin", name="p0", partitions=1, block_records=1)
    finally:
        await client.aclose()


@pytest.fixture
async def lane(valkey: Foreign, admin: aioredis.Redis) -> AsyncIterator[Lane]:
    async with lane_on(valkey.url) as made:
        await made.ensure_groups()
        yield made


def one(dedup_key: str = "") -> list[Record]:
    return [Record(0, msgspec.msgpack.encode("x"), dedup_key)]


async def blocked(client: aioredis.Redis) -> bool:
    return int((await client.info("clients"))["blocked_clients"]) == 1


# --------------------------------------------------------------------------- the lane


async def test_readers_have_a_record_while_its_sender_waits_for_the_disk(
    lane: Lane, admin: aioredis.Redis
) -> None:
    await admin.config_set("appendfsync", "no")
    sending = asyncio.create_task(lane.append_synced(one(), wait_ms=PATIENT_MS))
    (entry,) = await lane.read("router", [0], count=1, block_ms=5000)
    await wait_until(lambda: blocked(admin))
    assert not sending.done()
    await admin.config_set("appendfsync", "always")
    assert await sending == ([Placement(entry.record_id(0))], True)


async def test_what_is_not_synced_in_time_is_stored_and_not_called_synced(
    lane: Lane, admin: aioredis.Redis
) -> None:
    await admin.config_set("appendfsync", "no")
    (placement,), synced = await lane.append_synced(one(), wait_ms=HASTY_MS)
    (entry,) = await lane.read("router", [0], count=1, block_ms=1)
    assert (placement.id, synced) == (entry.record_id(0), False)


async def test_a_server_that_syncs_each_write_says_so_at_once(lane: Lane, admin: aioredis.Redis) -> None:
    await admin.config_set("appendfsync", "always")
    await admin.script_flush()
    for _ in range(2):  # the script is not known to the server, and then it is
        _, synced = await lane.append_synced(one(), wait_ms=PATIENT_MS)
        assert synced


async def test_without_an_append_only_file_nothing_is_synced(lane: Lane, admin: aioredis.Redis) -> None:
    await admin.config_set("appendonly", "no")
    placements, synced = await lane.append_synced(one(), wait_ms=PATIENT_MS)
    assert (len(placements), synced) == (1, False)


async def test_a_user_who_may_not_wait_is_not_told_it_is_synced(
    valkey: Foreign, lane: Lane, admin: aioredis.Redis
) -> None:
    await admin.execute_command("ACL", "SETUSER", "hasty", "on", ">secret", "~*", "&*", "+@all", "-waitaof")  # type: ignore[no-untyped-call]
    await admin.config_set("appendfsync", "always")
    async with lane_on(valkey.url.replace("redis://", "redis://hasty:secret@")) as as_hasty:
        placements, synced = await as_hasty.append_synced(one(), wait_ms=PATIENT_MS)
    assert (len(placements), synced) == (1, False)


async def test_a_repeat_is_synced_when_the_first_is_and_not_before(
    valkey: Foreign, lane: Lane, admin: aioredis.Redis
) -> None:
    await admin.config_set("appendfsync", "no")
    by_key = {"idempotency_key": "k", "fingerprint": "f"}
    (first,), _ = await lane.append_synced(one("d"), wait_ms=HASTY_MS, **by_key)
    keys = (lane.keys.dedup("d"), lane.keys.idempotency("k"))
    before = [await admin.pexpiretime(key) for key in keys]
    again = Placement(first.id, duplicate=True)
    for request in ({}, by_key):
        async with lane_on(valkey.url) as another:  # on a connection that wrote nothing yet
            assert await another.append_synced(one("d"), wait_ms=HASTY_MS, **request) == ([again], False)
    await admin.config_set("appendfsync", "always")
    for request in ({}, by_key):
        assert await lane.append_synced(one("d"), wait_ms=PATIENT_MS, **request) == ([again], True)
    assert [await admin.pexpiretime(key) for key in keys] == before  # and it is kept no longer than before
    assert await admin.xlen(lane.keys.stream(0)) == 1


async def test_a_request_that_is_refused_waits_for_nothing(lane: Lane, admin: aioredis.Redis) -> None:
    await lane.append(one("d"), idempotency_key="k", fingerprint="f")
    await admin.config_set("appendfsync", "no")
    with pytest.raises(ConflictError):
        await lane.append_synced(one(), wait_ms=PATIENT_MS, idempotency_key="k", fingerprint="g")
    await admin.config_set("maxmemory", "1mb")
    with pytest.raises(OverloadedError):
        await lane.append_synced(one(), wait_ms=PATIENT_MS)
    (repeat,), _ = await lane.append_synced(one("d"), wait_ms=HASTY_MS)
    assert repeat.duplicate  # which takes no memory


async def test_a_connection_that_breaks_while_waiting_is_no_promise(
    lane: Lane, admin: aioredis.Redis
) -> None:
    await admin.config_set("appendfsync", "no")
    sending = asyncio.create_task(lane.append_synced(one(), wait_ms=PATIENT_MS))
    await wait_until(lambda: blocked(admin))
    await admin.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(StorageUnavailableError):
        await sending


# --------------------------------------------------------------------------- what a server says of itself


async def facts(url: str) -> tuple[Durability, bool]:
    client = connect(url, timeout_s=5.0)
    try:
        found = await inspect(client)
    finally:
        await client.aclose()
    return found.durability, found.confirms


async def test_a_mode_is_claimed_as_it_is(valkey: Foreign, admin: aioredis.Redis) -> None:
    assert await facts(valkey.url) == (Durability.EVERYSEC, False)  # this Valkey's WAITAOF is not believed
    await admin.config_set("appendfsync", "always")
    assert await facts(valkey.url) == (Durability.FSYNCED, False)
    await admin.config_set("no-appendfsync-on-rewrite", "yes")
    assert await facts(valkey.url) == (Durability.EVERYSEC, False)
    await admin.config_set("no-appendfsync-on-rewrite", "no")
    await admin.config_set("appendfsync", "no")
    assert await facts(valkey.url) == (Durability.MEMORY, False)
    await admin.config_set("appendonly", "no")
    assert await facts(valkey.url) == (Durability.MEMORY, False)


@pytest.mark.parametrize(
    ("flavour", "version", "believed"),
    [
        ("redis", "7.0.15", False),
        ("redis", "7.2.0", True),
        ("redis", "7.2.11", True),
        ("redis", "7.4.2", False),
        ("redis", "8.0.0", True),
        ("redis", "8.2.3", True),
        ("redis", "10.0.1", True),
        ("valkey", "7.2.11", True),
        ("valkey", "8.0.0", False),
        ("valkey", "9.1.2", False),
        ("dragonfly", "8.0.0", False),
        ("redis", "8", True),
        ("redis", "unstable", False),
    ],
)
def test_waitaof_is_believed_where_it_is_known_to_tell_the_truth(
    flavour: str, version: str, believed: bool
) -> None:
    assert connecting._confirms(flavour, version) is believed


# --------------------------------------------------------------------------- receipts


KINDS = ({"type": "emergency"}, {"type": "device_alert", "alert_type": "low_battery"}, {"type": "reminder"})
ALL_LANES = [{"title": "t", "recipient": "r"} | kind for kind in KINDS]
CALL = {"caller": "c", "kind": "fire", "contacts": ["a"]}


@pytest.fixture
def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this Valkey's WAITAOF told the truth in every mode."""
    monkeypatch.setitem(connecting.CONFIRMING, "valkey", (((7, 2), (1000, 0)),))


@asynccontextmanager
async def serving(app: Application) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app.__serve_build_asgi_app__())
    async with httpx2.AsyncClient(transport=transport, base_url="http://platform") as http:
        yield http
    lanes: LaneSet = app._lanes  # type: ignore[attr-defined]  # both applications have one
    await lanes.aclose()


@pytest.fixture
def settings(valkey: Foreign) -> Settings:
    return msgspec.structs.replace(Settings.from_env({}), redis_url=valkey.url)


async def durabilities(http: httpx2.AsyncClient, body: Any, **headers: str) -> list[str]:
    answer = await http.post("/", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    return [receipt["durability"] for receipt in answer.json()["receipts"]]


@pytest.mark.usefixtures("believed")
async def test_a_p0_is_confirmed_and_the_others_have_the_servers_mode(
    settings: Settings, admin: aioredis.Redis
) -> None:
    async with serving(Notifications(settings)) as http, serving(EmergencyCallIntake(settings)) as calls:
        for client, body in ((http, ALL_LANES), (calls, CALL)):
            await durabilities(client, body)  # both know the mode for the next 30 s
        await admin.config_set("appendfsync", "always")  # so that nobody waits for the disk here
        assert await durabilities(http, ALL_LANES) == ["fsynced", "everysec", "everysec"]
        assert set(await durabilities(calls, CALL)) == {"fsynced"}


@pytest.mark.usefixtures("believed")
async def test_a_p0_that_is_not_confirmed_in_time_has_the_servers_mode_and_so_has_its_repeat(
    settings: Settings, admin: aioredis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_sets, "CONFIRM_MS", HASTY_MS)
    p0 = ALL_LANES[0] | {"dedup_key": "d"}
    key = {"idempotency-key": "k"}
    async with serving(Notifications(settings)) as http, serving(EmergencyCallIntake(settings)) as calls:
        for client, body in ((http, ALL_LANES), (calls, CALL)):
            await durabilities(client, body)
        await admin.config_set("appendfsync", "no")
        for _ in range(2):
            assert await durabilities(http, p0) == ["everysec"]
            assert await durabilities(http, ALL_LANES, **key) == ["everysec"] * 3
            assert set(await durabilities(calls, CALL, **key)) == {"everysec"}


@pytest.mark.usefixtures("believed")
async def test_when_too_many_wait_for_the_disk_the_next_does_not(
    settings: Settings, admin: aioredis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_sets, "MAX_CONFIRMING", 1)
    monkeypatch.setattr(lane_sets, "CONFIRM_MS", PATIENT_MS)
    lanes = LaneSet(settings, tuple(LaneName), timeout_s=90.0)
    await lanes.durability(LaneName.P0)
    await admin.config_set("appendfsync", "no")
    waiting = asyncio.create_task(lanes.append(LaneName.P0, one()))
    await wait_until(lambda: blocked(admin))
    assert (await lanes.append(LaneName.P0, one()))[1] is Durability.EVERYSEC
    assert not waiting.done()
    await admin.config_set("appendfsync", "always")
    assert (await waiting)[1] is Durability.FSYNCED
    await lanes.aclose()


@pytest.mark.usefixtures("admin")
async def test_a_waitaof_that_is_not_believed_is_not_asked(settings: Settings) -> None:
    async with serving(Notifications(settings)) as http:
        assert await durabilities(http, ALL_LANES) == ["everysec"] * 3


async def test_a_p0_is_stored_where_the_server_tells_nothing_of_itself(
    settings: Settings, admin: aioredis.Redis
) -> None:
    user = ("ACL", "SETUSER", "blind", "on", ">secret", "~*", "&*", "+@all", "-info", "-config")
    await admin.execute_command(*user)  # type: ignore[no-untyped-call]
    blind = settings.redis_url.replace("redis://", "redis://blind:secret@")
    async with serving(Notifications(msgspec.structs.replace(settings, redis_url=blind))) as http:
        assert await durabilities(http, ALL_LANES[0]) == ["memory"]
        assert (await http.post("/", json=ALL_LANES[2])).status_code == 503


async def test_a_server_that_evicts_takes_a_p0_and_nothing_else(
    settings: Settings, admin: aioredis.Redis
) -> None:
    await admin.config_set("maxmemory-policy", "allkeys-lru")
    lanes = LaneSet(settings, tuple(LaneName))
    _, durability = await lanes.append(LaneName.P0, one())
    assert durability is Durability.MEMORY
    with pytest.raises(ConfigurationError, match="evicts"):
        await lanes.append(LaneName.P2, one())
    await admin.config_set("maxmemory-policy", "noeviction")
    await lanes.aclose()


# --------------------------------------------------------------------------- whatever Redis is installed


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Foreign]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not installed (Debian package redis-server)")
    folder: Path = tmp_path_factory.mktemp("redis")
    with foreign_server(binary, folder, appendonly="yes", appendfsync="everysec") as server:
        yield server


async def test_a_real_redis_gets_the_receipts_its_version_can_give(redis_server: Foreign) -> None:
    client = connect(redis_server.url, timeout_s=5.0)
    version = str((await client.info("server"))["redis_version"])
    await client.aclose()
    settings = msgspec.structs.replace(Settings.from_env({}), redis_url=redis_server.url)
    async with serving(Notifications(settings)) as http:
        expected: Sequence[str] = ["everysec"] * 3
        if connecting._confirms("redis", version):
            expected = ["fsynced", "everysec", "everysec"]
        assert await durabilities(http, ALL_LANES) == expected
    async with lane_on(redis_server.url) as lane:  # asked all the same, 7.0 does not know the command
        _, synced = await lane.append_synced(one(), wait_ms=5000)
        assert synced is not version.startswith("7.0")
