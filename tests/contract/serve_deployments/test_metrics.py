"""`/metrics` as an ASGI application on a real server: what is told, and what happens without one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from prometheus_client import parser
from redis import asyncio as aioredis

from features.definitions import DAY_S
from features.offline.archive import Archive
from features.shard.archiver import Archiver
from models.registry.registry import Registry
from routing.deliveries import Delivery, OutcomeReason
from routing.intake.admission import AdmissionReason
from routing.ledger.dead_letters import DeadLetters
from routing.ledger.ledger import Ledger
from serve_deployments.activity import REASONS
from serve_deployments.notifications import Notifications
from serve_deployments.operations import Operations
from tests.fakes import START
from tests.feature_bench import NOW, PARTITIONS, Bench
from tocsin.clock import SystemClock
from tocsin.errors import ModelUnavailableError
from tocsin.resilience.breakers import Breakers
from tocsin.settings import Settings
from tocsin.streams.lanes import Lane
from tocsin.streams.leases import LeasePolicy, Leases
from tocsin.streams.records import Record, partition_of
from tocsin.telemetry.metrics import METRICS, Kind
from tocsin.telemetry.reports import Fault, Reports
from tocsin.wire.activity import Activity
from tocsin.wire.dead_letters import DeadLetterFilter
from tocsin.wire.notifications import Envelope, Notification, NotificationState

KEY = "an-api-key-of-some-length"
NOTE = Notification("reminder", "t", "r", "", "", "", "shop", ("log",), "", 0.0, "", {}, START)
read_text: Any = parser.text_string_to_metric_families  # untyped upstream

Values = dict[tuple[str, ...], float]


@asynccontextmanager
async def operations(url: str, namespace: str, **changes: Any) -> AsyncIterator[httpx2.AsyncClient]:
    base = Settings.from_env({})
    app = Operations({}, msgspec.structs.replace(base, redis_url=url, namespace=namespace, **changes))
    transport = httpx2.ASGITransport(app.__serve_build_asgi_app__())
    async with httpx2.AsyncClient(transport=transport, base_url="http://platform") as made:
        yield made
    await app._lanes.client.aclose()


async def told(http: httpx2.AsyncClient) -> Values:
    """Every sample by its name and its labels' values, in the table's order."""
    answer = await http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    values: Values = {}
    for family in read_text(answer.text):
        for sample in family.samples:
            labels = METRICS[sample.name].labels if sample.name in METRICS else sorted(sample.labels)
            values[sample.name, *(sample.labels[label] for label in labels)] = sample.value
    return values


async def deliver(client: aioredis.Redis, lane: Lane, states: list[NotificationState]) -> list[str]:
    """Accept a record for each state and let it end so, 20 ms later; returns their ids."""
    await lane.append([Record(0, msgspec.msgpack.encode(Envelope(NOTE))) for _ in states])
    entries = await lane.read("router", [0], count=10, block_ms=1)
    deliveries = [
        Delivery(entry.record_id(index), envelope)
        for entry in entries
        for index, envelope in enumerate(msgspec.msgpack.decode(entry.block, type=list[Envelope]))
    ]
    for delivery, state in zip(deliveries, states, strict=True):
        delivery.decide(state, OutcomeReason.NONE, START + 0.02)
    ledger = Ledger(lane, client, retention_s=60.0)
    await lane.settle(entries, lambda pipe: ledger.stage(pipe, deliveries))
    return [delivery.id for delivery in deliveries]


def lane_of(client: aioredis.Redis, namespace: str, name: str) -> Lane:
    return Lane(client, namespace=namespace, name=name, partitions=1, block_records=100)


async def test_lanes_tell_what_came_what_ended_and_what_waits(
    url: str, client: aioredis.Redis, namespace: str
) -> None:
    lane = lane_of(client, namespace, "p2")
    await lane.ensure_groups()
    state = NotificationState
    await deliver(client, lane, [state.DELIVERED] * 3 + [state.SUPPRESSED, state.EXPIRED] + [state.DEAD] * 4)
    dead = DeadLetters(lane, client)
    letters = (await dead.scan(DeadLetterFilter(), max_matches=10, max_scanned=10)).letters
    assert await dead.purge(letters[0].id)
    assert await dead.replay(letters[1])
    await lane.append([Record(0, msgspec.msgpack.encode(Envelope(NOTE)))])
    leases = Leases(
        client, keys=lane.keys, name="router-p2-0", partitions=1, policy=LeasePolicy(), clock=SystemClock()
    )
    await leases.beat()
    async with operations(url, namespace) as http:
        values = await told(http)
        assert values["tocsin_up",] == 1
        assert values["tocsin_accepted_total", "p2"] == 10
        for outcome, number in {"delivered": 3, "suppressed": 1, "expired": 1, "dead": 4}.items():
            assert values["tocsin_notifications_total", "p2", outcome] == number
        assert values["tocsin_dead_letters", "p2"] == 2
        assert values["tocsin_dead_letters_purged_total", "p2"] == 1
        assert values["tocsin_dead_letters_replayed_total", "p2"] == 1
        assert values["tocsin_waiting_records", "p2"] == 2
        assert (values["tocsin_blocks", "p2", "waiting"], values["tocsin_blocks", "p2", "pending"]) == (2, 0)
        assert values["tocsin_oldest_age_seconds", "p2"] >= 0
        assert (values["tocsin_consumers", "p2"], values["tocsin_consumers", "p0"]) == (1, 0)
        assert values["tocsin_delivery_latency_seconds_count", "p2"] == 3
        assert values["tocsin_delivery_latency_seconds_sum", "p2"] == pytest.approx(0.06, rel=0.05)
        assert values["tocsin_storage_info", "p2", "fsynced"] == 1
        assert values["tocsin_storage_memory_used_bytes", "p2"] > 0
        dying = await lane.read("router", [0], count=1, block_ms=1)
        assert len(dying) == 1
        assert (await told(http))["tocsin_blocks", "p2", "pending"] == 1


async def test_a_counter_never_falls_when_dead_letters_go(
    url: str, client: aioredis.Redis, namespace: str
) -> None:
    lane = lane_of(client, namespace, "p0")
    await lane.ensure_groups()
    await deliver(client, lane, [NotificationState.DEAD] * 3)
    dead = DeadLetters(lane, client)
    async with operations(url, namespace) as http:
        before = await told(http)
        for letter in (await dead.scan(DeadLetterFilter(), max_matches=3, max_scanned=3)).letters[:2]:
            await dead.replay(letter)
        after = await told(http)
    counters = {name for name, spec in METRICS.items() if spec.kind is Kind.COUNTER}
    assert all(after[key] >= value for key, value in before.items() if key[0] in counters)
    assert after["tocsin_notifications_total", "p0", "dead"] == 3
    assert after["tocsin_dead_letters", "p0"] == 1


async def test_a_consumer_that_is_long_gone_is_not_counted(
    url: str, client: aioredis.Redis, namespace: str
) -> None:
    await client.zadd(lane_of(client, namespace, "p1").keys.members, {"router-p1-0": 1000})
    async with operations(url, namespace) as http:
        assert (await told(http))["tocsin_consumers", "p1"] == 0


async def test_breakers_tell_their_state_and_why_they_opened(
    url: str, client: aioredis.Redis, namespace: str
) -> None:
    breakers = Breakers(client, namespace, SystemClock())
    breakers.get("p2:log", "p2_channels")
    failing = breakers.get("emergency_contacts")
    strange = breakers.get("device_status")
    for _ in range(3):
        failing.record(ok=False, duration_s=0.1, reason="timeout")
        strange.record(ok=False, duration_s=0.1, reason="something a stranger wrote")
    await breakers.sync()
    async with operations(url, namespace) as http:
        values = await told(http)
    name = "emergency_contacts"
    assert {s: values["tocsin_breaker_state", name, s] for s in ("closed", "open", "half_open")} == {
        "closed": 0,
        "open": 1,
        "half_open": 0,
    }
    assert values["tocsin_breaker_failures", name] == 3
    assert values["tocsin_breaker_transitions_total", name, "open"] == 1
    assert values["tocsin_breaker_last_opening_info", name, "timeout"] == 1
    assert values["tocsin_breaker_last_opening_info", "device_status", "other"] == 1
    assert values["tocsin_breaker_state", "p2:log", "closed"] == 1
    assert not any(key[:2] == ("tocsin_breaker_last_opening_info", "p2:log") for key in values)


async def test_the_reason_of_the_last_opening_outlives_its_closing(
    url: str, client: aioredis.Redis, namespace: str
) -> None:
    breakers = Breakers(client, namespace, SystemClock())
    failing = breakers.get("emergency_contacts")
    for _ in range(3):
        failing.record(ok=False, duration_s=0.1, reason="unreachable")
    await breakers.sync()
    await client.hset(
        breakers._keys.state(failing.name), mapping={"state": "closed", "reason": "probe succeeded"}
    )
    async with operations(url, namespace) as http:
        values = await told(http)
    assert values["tocsin_breaker_state", failing.name, "closed"] == 1
    assert values["tocsin_breaker_last_opening_info", failing.name, "unreachable"] == 1


async def test_what_processes_report_is_added_up(url: str, client: aioredis.Redis, namespace: str) -> None:
    key = lane_of(client, namespace, "p1").keys.reports
    for number in (2, 3):
        await Reports(client, key, lambda number=number: {Fault.STORAGE: number, "refused:share": 1}).report()  # type: ignore[misc]
    await client.hset(key, "made up", 1)  # never told: labels are a closed list
    async with operations(url, namespace) as http:
        values = await told(http)
    assert values["tocsin_faults_total", "p1", Fault.STORAGE] == 5
    assert values["tocsin_refused_total", "p1", AdmissionReason.SHARE] == 2
    assert not any("made up" in key for key in values)


async def test_refusals_of_a_replica_are_reported(url: str, client: aioredis.Redis, namespace: str) -> None:
    settings = msgspec.structs.replace(
        Settings.from_env({}), redis_url=url, namespace=namespace, p2_max_records=1
    )
    app = Notifications(settings)
    transport = httpx2.ASGITransport(app.__serve_build_asgi_app__())
    reminder = {"type": "reminder", "title": "t", "recipient": "r"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://platform") as http:
        assert (await http.post("/", json=reminder)).status_code == 202
        assert (await http.post("/", json=[reminder] * 2)).status_code == 429
    for reports in app._gate.reports:
        await reports.report()
    await app._lanes.client.aclose()
    async with operations(url, namespace) as http:
        assert (await told(http))["tocsin_refused_total", "p2", AdmissionReason.RECORDS] == 2


async def test_features_tell_how_fresh_and_how_far_they_are(
    url: str, client: aioredis.Redis, namespace: str
) -> None:
    bench = Bench(client, namespace)
    fresh, backdated = NOW - 2.0, NOW - 900 * DAY_S
    await bench.send(
        Activity("a", fresh, 1.0, "spend", "1"),
        Activity("a", fresh, 1.0, "spend", "2"),
        Activity("a", backdated, 1.0, "spend", "3", backdated=True),
    )
    await bench.work()
    await bench.send(Activity("a", fresh, 9.0, "spend", "1", arrival=2.0))  # a restatement: no new event
    await bench.work()
    keys = bench.shard().store.keys
    await bench.client.set(keys.watermark(0), f"{time.time() - 90:.6f}")
    await bench.client.hset(keys.refused, mapping={"late": 3, "schema:history": 2, "made up": 1})
    await bench.client.xadd(keys.served, {"b": b"?"})
    async with operations(url, namespace, activity_partitions=PARTITIONS) as http:
        values = await told(http)
    assert values["tocsin_feature_latency_seconds_count",] == 4
    assert values["tocsin_feature_freshness_seconds_count",] == 2
    assert values["tocsin_feature_freshness_seconds_sum",] == pytest.approx(4.0, rel=0.05)
    assert values["tocsin_feature_lag_seconds", "0"] >= 90
    assert ("tocsin_feature_lag_seconds", "1") not in values  # nobody ever marked it
    assert values["tocsin_activity_invalid_total", "late"] == 3
    assert {
        reason for name, *labels in values for reason in labels if name == "tocsin_activity_invalid_total"
    } == {*REASONS}
    assert values["tocsin_feature_unfit_vectors_total", "history"] == 2
    assert values["tocsin_feature_unfit_vectors_total", "recent_activity"] == 0
    assert values["tocsin_feature_samples",] == 1


async def test_the_archive_tells_what_waits_and_what_landed(
    url: str, client: aioredis.Redis, namespace: str, tmp_path: Path
) -> None:
    bench = Bench(client, namespace)
    await bench.send(*(Activity("a", NOW - 2.0, 1.0, "spend", str(number)) for number in range(3)))
    await bench.work()
    partition = partition_of("a", PARTITIONS)
    keys = bench.shard().store.keys
    async with operations(url, namespace, activity_partitions=PARTITIONS) as http:
        before = await told(http)
        assert before["tocsin_archive_waiting_records",] == 3
        assert before["tocsin_archive_waiting_blocks", str(partition)] == 1
        assert before["tocsin_archive_waiting_blocks", str(1 - partition)] == 0
        assert before["tocsin_archive_oldest_age_seconds", str(1 - partition)] == 0
        assert ("tocsin_archive_last_landing_timestamp_seconds",) not in before
        archive = Archive(str(tmp_path))
        archiver = Archiver(
            client, keys, archive=lambda: archive, held=lambda: range(PARTITIONS), clock=bench.clock
        )
        await archiver.archive()
        after = await told(http)
        status = (await http.get("/v1/status")).json()["archive"]
    assert (after["tocsin_archive_waiting_records",], after["tocsin_archive_landed_total",]) == (0, 3)
    assert after["tocsin_archive_lost_total",] == 0
    assert after["tocsin_archive_last_landing_timestamp_seconds",] > 1.6e9
    assert (status["waiting"], status["landed"], status["lost"]) == (0, 3, 0)


async def test_the_status_tells_lanes_though_the_model_registry_is_away(
    url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_registry: Registry) -> str:
        raise ModelUnavailableError("the model registry at s3://***@bucket does not answer")

    monkeypatch.setattr(Registry, "champion", away)
    async with operations(url, namespace) as http:
        status = (await http.get("/v1/status")).json()
    assert len(status["lanes"]) == 4
    assert (status["champion"], status["model_versions"]) == ("", 0)
    assert "does not answer" in status["registry_problem"]


async def test_without_storage_it_says_so_and_nothing_else(namespace: str) -> None:
    async with operations("redis://127.0.0.1:1/0", namespace) as http:
        values = await told(http)
    assert values["tocsin_up",] == 0
    assert {name for name, *_ in values} == {"tocsin_up", "tocsin_build_info"}


async def test_the_key_is_asked_for_where_one_is_set(url: str, namespace: str) -> None:
    async with operations(url, namespace, api_key=KEY) as http:
        assert (await http.get("/metrics")).status_code == 401
        answer = await http.get("/metrics", headers={"authorization": f"Bearer {KEY}"})
        assert answer.status_code == 200


async def test_openmetrics_where_it_is_asked_for(url: str, namespace: str) -> None:
    async with operations(url, namespace) as http:
        answer = await http.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


async def test_the_number_of_series_is_bounded(url: str, client: aioredis.Redis, namespace: str) -> None:
    lane = lane_of(client, namespace, "p2")
    await lane.ensure_groups()
    async with operations(url, namespace) as http:
        before = await told(http)
        await deliver(client, lane, [NotificationState.DELIVERED] * 50)
        assert (await told(http)).keys() == before.keys()
