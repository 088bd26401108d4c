"""The feature store on a real server: shard, vectors, watermarks, and what happens when two shards meet."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest
from redis import asyncio as aioredis

from features.definitions import DAY_S, FEATURE_NAMES, HISTORY, HOUR_S, RECENT_ACTIVITY
from features.newest import newest_events
from features.online.as_of import AsOf
from features.online.packing import PACKERS
from features.online.result import Status
from features.online.usage import UsageLog
from features.vectors import named
from tests.feature_bench import DAY, NOW, PARTITIONS, Bench
from tests.unit.features.oracle import expected
from tocsin.errors import StateMovedError
from tocsin.storage.optimistic import Guarded
from tocsin.streams.records import Record, partition_of
from tocsin.wire.activity import Activity
from tocsin.wire.lanes import WIRE_VERSION


def event(
    name: str = "a",
    back_days: float = 1.0,
    amount: float = 1.0,
    event_id: str = "e",
    *,
    campaign_id: str = "",
    arrival: float = 1.0,
) -> Activity:
    return Activity(name, NOW - back_days * DAY_S, amount, "spend", event_id, campaign_id, "", arrival)


@pytest.fixture
def bench(client: aioredis.Redis, namespace: str) -> Bench:
    return Bench(client, namespace)


def some_events(seed: int = 1, count: int = 120) -> list[Activity]:
    chance = random.Random(seed)  # noqa: S311 (made-up data)
    return [
        Activity(
            chance.choice("abcdef"),
            NOW - chance.choice([0.01, 0.5, 3.0, 30.0, 800.0]) * DAY_S * chance.random() - 1,
            round(chance.random() * 100, 2),
            "spend",
            str(number % 90),
            chance.choice(["", "x", "y"]),
            "",
            float(chance.randrange(5)),
        )
        for number in range(count)
    ]


# --------------------------------------------------------------------------- what events make


async def test_features_are_what_the_definitions_say_at_any_moment(bench: Bench) -> None:
    told = some_events()
    await bench.send(*told)
    await bench.work()
    for as_of in (NOW, NOW - 0.7 * DAY_S, NOW - 29.3 * DAY_S, (DAY - 100) * DAY_S, NOW - 790 * DAY_S):
        for name in "abcdef":
            wanted = expected([one for one in told if one.advertiser_id == name], as_of)
            found = await bench.features(name, as_of)
            assert {n: found[n] for n in FEATURE_NAMES if "slope" not in n and "volat" not in n} == {
                n: wanted[n] for n in FEATURE_NAMES if "slope" not in n and "volat" not in n
            }


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_order_repeats_and_block_sizes_leave_no_trace(
    client: aioredis.Redis, bench: Bench, namespace: str, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 (shuffling)
    told = some_events(seed)
    await bench.send(*told)
    await bench.work()
    other = Bench(client, f"{namespace}-other")
    shuffled = [*told, *chance.sample(told, 40)]
    chance.shuffle(shuffled)
    for start in range(0, len(shuffled), 11):
        await other.send(*shuffled[start : start + 11])
        await other.work(count=1, shard=chance.choice(["one", "two"]))
    assert await other.state() == await bench.state()
    await client.delete(*[key async for key in client.scan_iter(match=f"{other.namespace}:*")])


async def test_a_restated_event_leaves_nothing_of_its_past(bench: Bench) -> None:
    await bench.send(event(amount=5.0, event_id="1"), event(amount=9.0, event_id="2", campaign_id="x"))
    await bench.work()
    before = await bench.features()
    assert (before["spend_max_7d"], before["campaigns_7d"]) == (9.0, 1.0)
    await bench.send(event(amount=2.0, event_id="2", arrival=2.0))
    await bench.work()
    after = await bench.features()
    assert (after["spend_max_7d"], after["spend_min_7d"], after["spend_7d"], after["campaigns_7d"]) == (
        5.0,
        2.0,
        7.0,
        0.0,
    )
    await bench.send(event(amount=9.0, event_id="2", campaign_id="x"))  # an old version, late
    await bench.work()
    assert await bench.features() == after


async def test_counts_add_up_and_the_log_has_every_version(bench: Bench) -> None:
    old = msgspec.structs.replace(event(event_id="1"), backdated=True)
    await bench.send(old, event(event_id="2"))
    await bench.work()
    await bench.send(old, event(event_id="2", amount=3.0, arrival=7.0))
    await bench.work()
    counts: dict[bytes, bytes] = await bench.client.hgetall(bench.lane.keys.counts)
    assert (counts[b"applied"], counts[b"repeated"]) == (b"3", b"1")
    key = bench.shard().store.keys.log(partition_of("a", PARTITIONS))
    logged = [
        activity
        for _, fields in await bench.client.xrange(key)
        for activity in msgspec.msgpack.decode(fields[b"b"], type=list[Activity])
    ]
    assert [(one.event_id, one.amount, one.arrival) for one in logged] == [
        ("1", 1.0, old.event_time),  # its past counts as known when it happened
        ("2", 1.0, 1.0),
        ("2", 3.0, 7.0),
    ]
    latency = await bench.client.hgetall(bench.lane.keys.latency)
    assert sum(map(int, latency.values())) == 4


async def test_a_block_that_cannot_be_read_is_set_aside(bench: Bench) -> None:
    await bench.lane.ensure_groups()
    await bench.lane.append([Record(0, b"\xc1")])
    await bench.send(event())
    await bench.work()
    assert (await bench.features())["spend_7d"] == 1.0
    assert (await bench.client.hget(bench.lane.keys.counts, "quarantined")) == b"1"
    assert (await bench.lane.depth()).blocks == 0


async def test_state_of_another_version_is_folded_anew_from_the_events(bench: Bench) -> None:
    await bench.send(event(event_id="1", amount=2.0))
    await bench.work()
    keys = bench.shard().store.keys
    await bench.client.set(keys.history("a"), b"\x01old")
    await bench.client.delete(keys.vectors("a"))
    assert (await bench.features())["spend_7d"] == 2.0
    await bench.send(event(event_id="2", amount=3.0))
    await bench.work(shard="two")
    assert (await bench.features())["spend_7d"] == 5.0


# --------------------------------------------------------------------------- two shards, one partition


async def test_a_shard_that_was_overtaken_writes_nothing_and_does_its_work_again(bench: Bench) -> None:
    await bench.send(event(event_id="1", amount=1.0))
    entries = await bench.take()
    late = await bench.shard("slow").handle(entries)
    await bench.lane.settle(entries, await bench.shard("quick").handle(entries))
    await bench.send(event(event_id="2", amount=2.0))
    await bench.work(shard="quick")
    state = await bench.state()
    with pytest.raises(StateMovedError):
        await bench.lane.settle(entries, late)
    assert await bench.state() == state
    assert await bench.lane.unsettled(entries) == []
    await bench.send(event(event_id="3", amount=4.0))
    await bench.work(shard="slow")
    assert (await bench.features())["lifetime_spend"] == 7.0


async def test_what_a_shard_remembers_is_dropped_when_another_one_wrote(bench: Bench) -> None:
    for number, shard in enumerate(["one", "two", "one", "one", "two"]):
        await bench.send(event(event_id=str(number), amount=2.0**number))
        await bench.work(shard=shard)
    assert (await bench.features())["lifetime_spend"] == 31.0


async def test_an_unconfirmed_write_is_believed_when_it_happened_and_forgotten_when_not(bench: Bench) -> None:
    shard = bench.shard()
    await bench.send(event(event_id="1", amount=1.0))
    entries = await bench.take()
    await shard.handle(entries)  # never settled
    stage = await shard.handle(entries)
    await bench.lane.settle(entries, stage)  # settled, and nobody told the shard
    await bench.send(event(event_id="2", amount=2.0))
    await bench.work()
    assert (await bench.features())["lifetime_spend"] == 3.0
    assert len(shard.history_cache) == 1


async def test_the_guard_holds_at_the_memory_limit_too(bench: Bench) -> None:
    await bench.send(event(event_id="1"))
    entries = await bench.take()
    stage = await bench.shard().handle(entries)
    assert isinstance(stage, Guarded)
    ids = {entry.partition: [entry.entry] for entry in entries}
    await bench.client.set(bench.shard().store.keys.applied(entries[0].partition), b"somebody else")
    with pytest.raises(StateMovedError):
        await bench.lane._settle_at_limit(ids, stage, stage.expected)
    assert await bench.state() == {}
    again = await bench.shard().handle(entries)
    assert isinstance(again, Guarded)
    await bench.lane._settle_at_limit(ids, again, again.expected)
    assert (await bench.features())["spend_7d"] == 1.0


async def test_a_large_unit_settles_at_the_memory_limit(bench: Bench) -> None:
    await bench.lane.ensure_groups()
    bench.lane._block_records = 500
    await bench.send(*(event(f"n{number}") for number in range(9_000)))
    await bench.send(*(event("many", event_id=str(number)) for number in range(4_500)))
    for partition in range(PARTITIONS):
        entries = await bench.lane.read("one", [partition], count=100, block_ms=1)
        stage = await bench.shard().handle(entries)
        assert isinstance(stage, Guarded)
        await bench.lane._settle_at_limit({partition: [e.entry for e in entries]}, stage, stage.expected)
    assert await bench.shard().store.count() == 9_001
    assert (await bench.features("many"))["events_7d"] == 4_500.0


# --------------------------------------------------------------------------- age and status


async def test_one_round_trip_answers_for_many(bench: Bench) -> None:
    await bench.send(*some_events())
    await bench.work()
    await bench.set_watermarks(NOW)
    before: dict[str, Any] = await bench.client.info("commandstats")
    answer = await bench.read(*"abcdef")
    after: dict[str, Any] = await bench.client.info("commandstats")
    assert after["cmdstat_mget"]["calls"] - before["cmdstat_mget"]["calls"] == 1
    assert after.get("cmdstat_hvals", {}) == before.get("cmdstat_hvals", {})
    assert answer.wanted == []
    assert {status for place in range(6) for status in answer.statuses(place)} == {Status.PRESENT}
    columns = answer.columns(["spend_28d", "events_7d"])
    assert columns["spend_28d"] == [answer.vector(n)[FEATURE_NAMES.index("spend_28d")] for n in range(6)]


@pytest.mark.parametrize(
    ("lag_s", "recent", "history"),
    [
        (0.0, Status.PRESENT, Status.PRESENT),
        (RECENT_ACTIVITY.ttl_s, Status.PRESENT, Status.PRESENT),
        (RECENT_ACTIVITY.ttl_s + 1, Status.STALE, Status.PRESENT),
        (HISTORY.ttl_s, Status.STALE, Status.PRESENT),
        (HISTORY.ttl_s + 1, Status.STALE, Status.STALE),
    ],
)
async def test_a_shard_that_is_behind_makes_values_stale(
    bench: Bench, lag_s: float, recent: Status, history: Status
) -> None:
    await bench.send(event(back_days=20.0))
    await bench.work()
    await bench.set_watermarks(NOW - lag_s)
    answer = await bench.read("a", "nobody")
    assert answer.statuses(0) == [recent, history]
    assert answer.reads(0)[0].age_s == lag_s
    assert answer.statuses(1) == [Status.NEVER, Status.NEVER]


async def test_before_its_first_event_an_advertiser_is_known_and_its_values_are_missing(bench: Bench) -> None:
    await bench.send(event())
    await bench.work()
    answer = await bench.read("a", as_of=NOW - 2 * DAY_S - 1)
    assert answer.statuses(0) == [Status.MISSING, Status.MISSING]


async def test_the_watermark_follows_what_is_applied(bench: Bench) -> None:
    await bench.send(event())
    mine = partition_of("a", PARTITIONS)
    materializer = bench.materializer()
    (entry,) = bench_entries = await bench.take()
    await materializer.write_watermarks()
    accepted = int(entry.entry.partition("-")[0]) / 1000
    assert materializer.watermarks[mine] == accepted  # pending: nothing after it is known to be in
    assert materializer.watermarks[1 - mine] >= accepted
    await bench.lane.settle(bench_entries, await bench.shard().handle(bench_entries))
    await materializer.write_watermarks()
    assert materializer.watermarks[mine] >= accepted
    stored = await bench.client.get(bench.shard().store.keys.watermark(mine))
    assert float(stored or 0) == materializer.watermarks[mine]


# --------------------------------------------------------------------------- vectors that do not fit


async def test_vectors_of_other_definitions_are_counted_and_never_used(bench: Bench) -> None:
    await bench.send(event(amount=7.0))
    await bench.work()
    keys = bench.shard().store.keys
    body = await bench.client.get(keys.vectors("a"))
    at = PACKERS[1].bytes.start + 8  # the schema hash of `history`
    await bench.client.set(keys.vectors("a"), body[:at] + b"otherone" + body[at + 8 :])
    answer = await bench.read("a")
    assert named(answer.vector(0))["spend_28d"] == 7.0
    assert (answer.schema_mismatches, answer.wanted) == ({"history": 1}, ["a"])
    usage = UsageLog(keys, partitions=PARTITIONS, clock=bench.clock)
    usage.record(answer)
    await usage.flush(bench.client)
    assert await bench.client.hgetall(keys.refused) == {b"schema:history": b"1"}
    await bench.materializer().materialize()
    assert (await bench.read("a")).wanted == []


async def test_an_event_dated_ahead_counts_from_its_time_on(bench: Bench) -> None:
    await bench.send(event(event_id="1"), event(event_id="2", back_days=-600 / DAY_S, amount=9.0))
    await bench.work()
    answer = await bench.read("a")
    assert (named(answer.vector(0))["spend_7d"], answer.wanted) == (1.0, ["a"])
    usage = UsageLog(bench.shard().store.keys, partitions=PARTITIONS, clock=bench.clock)
    usage.record(answer)
    await usage.flush(bench.client)
    await bench.materializer().materialize()
    for seconds, spend, wanted in ((0, 1.0, []), (600, 1.0, []), (601, 10.0, ["a"])):
        answer = await bench.read("a", as_of=NOW + seconds)
        assert (named(answer.vector(0))["spend_7d"], answer.wanted) == (spend, wanted)


async def test_popular_vectors_are_renewed_when_their_hour_ends(bench: Bench) -> None:
    await bench.send(event())
    await bench.work()
    usage = UsageLog(bench.shard().store.keys, partitions=PARTITIONS, clock=bench.clock)
    usage.record(await bench.read("a"))
    await usage.flush(bench.client)
    materializer = bench.materializer()
    await materializer.materialize()
    bench.clock.advance(HOUR_S)
    assert (await bench.read("a", as_of=bench.clock.now())).wanted == ["a"]
    await materializer.materialize()
    assert (await bench.read("a", as_of=bench.clock.now())).wanted == []


async def test_served_vectors_are_sampled(bench: Bench) -> None:
    await bench.send(event())
    await bench.work()
    await bench.set_watermarks(NOW)
    keys = bench.shard().store.keys
    usage = UsageLog(keys, partitions=PARTITIONS, clock=bench.clock)
    for _ in range(200):
        usage.record(await bench.read("a"))
    await usage.flush(bench.client)
    assert await bench.client.xlen(keys.served) == 3


async def test_the_end_of_the_data_can_be_now(bench: Bench) -> None:
    shard = bench.shard("old", as_of="latest")
    await bench.send(event(back_days=3_000.0))
    entries = await bench.take()
    await bench.lane.settle(entries, await shard.handle(entries))
    newest = await shard.store.latest()
    assert newest == NOW - 3_000 * DAY_S
    as_of = await AsOf("latest", shard.store.latest, bench.clock).now()
    assert as_of == (DAY - 2_999) * DAY_S
    answer = await bench.read("a", as_of=as_of)
    assert (answer.wanted, named(answer.vector(0))["days_since_last_campaign"]) == ([], 0.0)


async def test_one_record_dated_today_moves_nobody_in_data_of_the_past(bench: Bench) -> None:
    """Over partitions, a restart of the shard, and the stray's own later events."""
    names = [f"old-{number}" for number in range(20)]
    for number, name in enumerate(names):
        await bench.send(event(name, event_id=f"{number}", back_days=3_000.0 + number))
    for shard in ("old", "restarted"):
        bench.shard(shard, as_of="latest")
    await bench.work(shard="old")
    await bench.send(event("stray", 0.5), event("old-3", 3_000.0, event_id="late"))
    await bench.work(shard="restarted")
    store = bench.shard("restarted").store
    assert {partition_of(name, PARTITIONS) for name in names} == set(range(PARTITIONS))
    found = await store.newest()
    scores = [score for _, score in await bench.client.zrange(store.keys.advertisers, 0, -1, withscores=True)]
    assert found == newest_events(np.array(scores))
    assert found is not None
    assert (found.newest, found.ahead) == (NOW - 0.5 * DAY_S, 1)
    as_of = await AsOf("latest", store.latest, bench.clock).now()
    assert as_of == (DAY - 2_999) * DAY_S
    answer = await bench.read("old-0", "old-3", as_of=as_of)
    assert answer.wanted == []  # both were packed for that moment
    assert [named(answer.vector(at))["days_since_last_campaign"] for at in (0, 1)] == [0.0, 0.0]


@pytest.mark.parametrize("count", [0, 1, 4, 5, 99, 100, 101, 250])
async def test_the_end_of_the_data_is_the_same_stored_and_in_a_log(bench: Bench, count: int) -> None:
    store = bench.shard().store
    scores = [
        NOW - (number**2 % 97) * DAY_S / 3 - (0 if number < 3 else 40 * DAY_S) for number in range(count)
    ]
    if scores:
        await bench.client.zadd(store.keys.advertisers, {f"a{at}": score for at, score in enumerate(scores)})
    assert await store.newest() == newest_events(np.array(scores))


async def test_the_wire_version_of_the_log_is_the_lanes(bench: Bench) -> None:
    await bench.send(event())
    await bench.work()
    key = bench.shard().store.keys.log(partition_of("a", PARTITIONS))
    ((_, fields),) = await bench.client.xrange(key)
    assert int(fields[b"v"]) == WIRE_VERSION
