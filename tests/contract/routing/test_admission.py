"""The gate and the memory limit on a real server: who is refused, and that everything accepted drains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx2
import msgspec
import pytest
from redis import asyncio as aioredis

from routing.channels import Failure, FailureReason
from routing.delivery.deliver import Deliver
from routing.delivery.router import Router
from routing.delivery.stages.expire import Expire
from routing.intake.admission import AdmissionReason
from routing.ledger.dead_letters import DeadLetters
from routing.ledger.ledger import Ledger
from serve_deployments.activity import ActivityIntake
from serve_deployments.notifications import Notifications
from tests.fakes import OneByOne, wait_until
from tests.gates import NOW, PARTITIONS, Post, delivered
from tocsin.clock import SystemClock
from tocsin.errors import OverloadedError
from tocsin.resilience.retry import RetryPolicy
from tocsin.settings import Settings
from tocsin.storage.connect import connect
from tocsin.storage.embedded import EmbeddedServer
from tocsin.streams.lanes import Lane
from tocsin.streams.leases import LeasePolicy, Leases
from tocsin.streams.records import Record
from tocsin.wire.dead_letters import DeadLetterFilter
from tocsin.wire.lanes import NOTIFICATION_LANES, LaneName
from tocsin.wire.notifications import Envelope, Notification

LIMIT_MIB = 16
KINDS: dict[str, dict[str, str]] = {
    "p0": {"type": "emergency"},
    "p1": {"type": "device_alert", "alert_type": "low_battery"},
    "p2": {"type": "reminder"},
}
ENCODE = msgspec.msgpack.encode


class Told(OneByOne):
    """A channel that notes whom it told, and fails while told to."""

    name = "log"

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.ids: list[str] = []
        self.failure: Failure | None = None

    def answer(self, notification_id: str, notification: Notification) -> Failure | None:  # noqa: ARG002 (the port)
        if self.failure is None:
            self.ids.append(notification_id)
        return self.failure


@pytest.fixture(scope="module")
def small_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that may use 16 MiB, as the setting makes it."""
    server = EmbeddedServer(tmp_path_factory.mktemp("small"), maxmemory_mib=LIMIT_MIB)
    yield server.start().url
    server.stop()


@pytest.fixture
async def small(small_url: str) -> AsyncIterator[aioredis.Redis]:
    client = connect(small_url, timeout_s=3.0)
    await client.flushall()
    yield client
    await client.config_set("maxmemory", f"{LIMIT_MIB}mb")
    await client.flushall()
    await client.aclose()


@pytest.fixture
async def http(small: aioredis.Redis, small_url: str) -> AsyncIterator[httpx2.AsyncClient]:
    changes: dict[str, Any] = {f"{name}_partitions": PARTITIONS for name in NOTIFICATION_LANES}
    app = Notifications(msgspec.structs.replace(Settings.from_env({}), redis_url=small_url, **changes))
    transport = httpx2.ASGITransport(app.__serve_build_asgi_app__())
    async with httpx2.AsyncClient(transport=transport, base_url="http://platform") as made:
        yield made
    await app._lanes.client.aclose()


def notes(lane: str, number: int, body: int = 4000) -> list[dict[str, str]]:
    return [
        {"title": "t", "recipient": f"r{n}", "body": chr(97 + n % 26) * body} | KINDS[lane]
        for n in range(number)
    ]


async def fill(http: httpx2.AsyncClient, lane: str) -> httpx2.Response:
    """Send until a lane is refused; returns the refusal."""
    for _ in range(1000):
        answer = await http.post("/", json=notes(lane, 50))
        if answer.status_code != 202:
            return answer
    raise AssertionError(f"{lane} was never refused")


async def memory_ratio(client: aioredis.Redis) -> float:
    info: dict[str, Any] = await client.info("memory")
    return float(info["used_memory"]) / float(info["maxmemory"])


async def consume(lane: Lane, leases: Leases, router: Router, done: asyncio.Event) -> None:
    """What a consumer does, in turn: its heartbeat, its leases, retries that are due, blocks."""
    clock = SystemClock()
    while not done.is_set():
        await leases.beat()
        held = leases.held()
        assert held == list(range(PARTITIONS))
        for partition in held:
            await lane.promote(partition, clock.now(), limit=100)
        entries = await lane.read(leases.name, held, count=8, block_ms=10)
        if entries:
            await lane.settle(entries, await router.handle(entries))


@asynccontextmanager
async def routers(client: aioredis.Redis, told: Told) -> AsyncIterator[dict[str, Lane]]:
    """A router a lane; they join when the server may be full already."""
    clock, done = SystemClock(), asyncio.Event()
    lanes: dict[str, Lane] = {}
    tasks = []
    for name in NOTIFICATION_LANES:
        lane = Lane(client, namespace="tocsin", name=name, partitions=PARTITIONS, block_records=100)
        await lane.ensure_groups()
        leases = Leases(
            client, keys=lane.keys, name=f"{name}-0", partitions=PARTITIONS, policy=LeasePolicy(), clock=clock
        )
        retry = RetryPolicy(max_attempts=3, base_s=0.05, cap_s=0.05)
        deliver = Deliver({"log": told}, retry, clock)
        router = Router((Expire(name),), deliver, Ledger(lane, client, retention_s=600.0), lane.keys, clock)
        tasks.append(asyncio.create_task(consume(lane, leases, router, done)))
        lanes[str(name)] = lane
    try:
        yield lanes
    finally:
        done.set()
        await asyncio.gather(*tasks)


async def counts(client: aioredis.Redis, lane: Lane) -> dict[str, int]:
    found: Any = await client.hgetall(lane.keys.counts)
    return {field.decode(): int(number) for field, number in found.items() if int(number)}


async def drained(lane: Lane) -> bool:
    depth = await lane.depth()
    return depth.blocks == depth.pending == depth.retrying == 0


# --------------------------------------------------------------------------- the whole, from full to empty


async def test_p2_goes_first_then_p1_and_p0_only_when_the_server_is_full_and_all_lanes_drain(
    http: httpx2.AsyncClient, small: aioredis.Redis
) -> None:
    refused = await fill(http, "p2")
    problem = refused.json()
    assert (refused.status_code, problem["type"]) == (429, "urn:tocsin:problem:overloaded")
    assert problem["detail"].startswith("p2 takes no more records now (memory)")
    assert refused.headers["retry-after"] == "10"
    assert 0.75 <= await memory_ratio(small) < 0.9
    for lane in ("p1", "p0"):
        assert (await http.post("/", json=notes(lane, 20))).status_code == 202

    mixed = await http.post("/", json=notes("p2", 1) + notes("p0", 1) + notes("p2", 1))
    body = mixed.json()
    assert (mixed.status_code, body["accepted"], body["rejected"]) == (202, 1, 2)
    assert [one["index"] for one in body["receipts"]] == [1]
    assert [(one["index"], one["code"], one["retry_after_s"]) for one in body["errors"]] == [
        (0, "overloaded", 10.0),
        (2, "overloaded", 10.0),
    ]
    accepted = (await small.hget("tocsin:{p0}:counts", "accepted")) or b"0"
    atomic = await http.post("/", json=notes("p0", 1) + notes("p2", 1), params={"atomic": "true"})
    assert atomic.status_code == 429
    assert (await small.hget("tocsin:{p0}:counts", "accepted")) == accepted

    assert "p1 takes no more records" in (await fill(http, "p1")).json()["detail"]
    assert 0.85 <= await memory_ratio(small) < 1.0
    for _ in range(3):
        assert (await http.post("/", json=notes("p0", 20, body=100))).status_code == 202
    full = await fill(http, "p0")
    assert (full.status_code, full.headers["retry-after"]) == (429, "5")
    assert "memory limit" in full.json()["detail"]
    await small.config_set("maxmemory", "8mb")  # far beyond its limit: nothing that is freed makes room

    told = Told()
    async with routers(small, told) as lanes:
        for each in lanes.values():
            await wait_until(lambda each=each: drained(each), timeout_s=30.0)  # type: ignore[misc]
        assert all(each.settled_at_limit for each in lanes.values())
        for each in lanes.values():
            found = await counts(small, each)
            assert found["accepted"] == found["delivered"], each.name
        assert len(told.ids) == len(set(told.ids))
    await small.config_set("maxmemory", f"{LIMIT_MIB}mb")

    async def taken_again() -> bool:
        return (await http.post("/", json=notes("p2", 1))).status_code == 202

    await wait_until(taken_again, every_s=0.1)


async def test_retries_dead_letters_replays_and_purges_go_on_at_the_limit(
    http: httpx2.AsyncClient, small: aioredis.Redis
) -> None:
    assert (await http.post("/", json=notes("p2", 40))).status_code == 202
    assert (await http.post("/", json=notes("p0", 10))).status_code == 202
    await small.config_set("maxmemory", "1mb")
    told = Told()
    told.failure = Failure(FailureReason.TARGET_ERROR, "the target answered 503")
    async with routers(small, told) as lanes:
        dead = {name: DeadLetters(lane, small) for name, lane in lanes.items()}

        async def all_dead() -> bool:
            return (await dead["p2"].total(), await dead["p0"].total()) == (40, 10)

        await wait_until(all_dead, timeout_s=20.0)
        for name, number in (("p2", 40), ("p0", 10)):
            assert await counts(small, lanes[name]) == {"accepted": number, "dead": number}
        told.failure = None
        scan = await dead["p2"].scan(DeadLetterFilter(), max_matches=40, max_scanned=40)
        for letter in scan.letters[:30]:
            assert await dead["p2"].replay(letter)
        for letter in scan.letters[30:]:
            assert await dead["p2"].purge(letter.id)
        await wait_until(lambda: drained(lanes["p2"]), timeout_s=20.0)
        assert await counts(small, lanes["p2"]) == {"accepted": 40, "delivered": 30, "purged": 10}


async def test_a_settle_at_the_limit_that_was_carried_out_is_not_done_twice(small: aioredis.Redis) -> None:
    lane = Lane(small, namespace="tocsin", name="p2", partitions=1, block_records=10)
    await lane.ensure_groups()
    note = Notification("reminder", "t", "r", "", "", "", "s", ("log",), "", 0.0, "", {}, NOW)
    await lane.append([Record(0, ENCODE(Envelope(note)))])
    entries = await lane.read("c", [0], count=1, block_ms=1)
    await small.config_set("maxmemory", "1mb")
    for again in (False, True):
        await lane.settle(entries, delivered(lane, 1), again=again)
    assert (await counts(small, lane), lane.settled_at_limit) == ({"accepted": 1, "delivered": 1}, 1)
    with pytest.raises(OverloadedError):
        await lane.append([Record(0, ENCODE(Envelope(note)))])


async def test_activity_gives_way_like_p2(small: aioredis.Redis, small_url: str) -> None:
    app = ActivityIntake(msgspec.structs.replace(Settings.from_env({}), redis_url=small_url))
    transport = httpx2.ASGITransport(app.__serve_build_asgi_app__())
    event = {"advertiser_id": "a", "event_time": "2026-01-31T00:00:00Z", "amount": 1.0}
    async with httpx2.AsyncClient(transport=transport, base_url="http://platform") as http:
        assert (await http.post("/", json=event)).status_code == 202
        await small.setrange("ballast", 8 * 2**20, b"x")
        await small.config_set("maxmemory", "11mb")

        async def refused() -> bool:
            return (await http.post("/", json=event)).status_code == 429

        await wait_until(refused, every_s=0.05)
        assert (
            (await http.post("/", json=event)).json()["detail"].startswith("activity takes no more records")
        )
    await app._lanes.client.aclose()


# --------------------------------------------------------------------------- the gate


@pytest.fixture
async def post(small: aioredis.Redis) -> Post:
    made = Post(small, "tocsin", p2_max_records=100)
    await made.lane.ensure_groups()
    return made


async def test_facts_are_the_servers(post: Post, small: aioredis.Redis) -> None:
    assert (await post.facts()).records == 0
    await post.send(25)
    await asyncio.sleep(0.02)
    read = await post.lane.read("c", range(PARTITIONS), count=1, block_ms=1)
    facts = await post.facts()
    assert (facts.records, facts.blocks) == (25, 4)
    assert facts.oldest_age_s >= 0.02
    assert facts.memory_ratio == pytest.approx(await memory_ratio(small), abs=0.05)
    await post.lane.settle(read, delivered(post.lane, 20))
    assert (await post.facts()).records == 5
    assert (await post.facts()).oldest_age_s >= 0.02


async def test_one_sample_serves_the_requests_of_a_quarter_second(post: Post) -> None:
    for _ in range(100):
        await post.gate.decide(LaneName.P2, {"s": 1}, whole=False)
    assert post.gate.samples == 1
    post.clock.advance(0.3)
    await post.gate.decide(LaneName.P2, {"s": 1}, whole=False)  # answers from the old one, asks for a new one
    assert post.gate.samples == 1
    await wait_until(lambda: post.gate.samples == 2)
    post.clock.advance(5.0)
    await asyncio.gather(*(post.gate.decide(LaneName.P2, {"s": 1}, whole=False) for _ in range(20)))
    assert post.gate.samples == 3


async def test_what_was_let_in_since_the_sample_counts(post: Post) -> None:
    assert await post.admits(49) == (True, AdmissionReason.NONE)
    assert await post.admits(51) == (True, AdmissionReason.NONE)
    assert await post.admits(1) == (False, AdmissionReason.RECORDS)
    assert post.gate.refused[LaneName.P2, AdmissionReason.RECORDS] == 1


async def test_without_an_answer_everything_is_let_in(small_url: str) -> None:
    nowhere = connect("redis://127.0.0.1:1/0", timeout_s=0.2)
    post = Post(nowhere, "tocsin", p2_max_records=1)
    assert await post.admits(100) == (True, AdmissionReason.NONE)
    assert (post.gate.samples, post.gate.failures) == (0, 1)
    await nowhere.aclose()


def test_the_setting_reaches_the_server(small_url: str, tmp_path: Path) -> None:
    async def asked() -> dict[str, str]:
        client = connect(small_url, timeout_s=2.0)
        found: dict[str, str] = cast("Any", await client.config_get("maxmemory"))
        await client.aclose()
        return found

    assert {int(value) for value in asyncio.run(asked()).values()} == {LIMIT_MIB * 1024 * 1024}
