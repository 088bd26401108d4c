"""Between the online state and the archive, on a real server: landing, backfill, and the replay of what was served."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis import asyncio as aioredis

from features.definitions import DAY_S
from features.event_table import activities_of, event_table
from features.jobs.backfill import Backfill, Plan, plan
from features.jobs.skew import Report, ServedSample, read_samples, read_tail, verify
from features.offline.archive import Archive
from features.online.usage import SAMPLE_EVERY, UsageLog
from features.shard.archiver import Archiver
from features.shard.event_log import Backlog, read_backlog
from tests.contract.features.test_feature_store import event, some_events
from tests.fakes import wait_until
from tests.feature_bench import NOW, PARTITIONS, Bench
from tocsin.errors import OverloadedError, StorageUnavailableError, UnreadableFileError
from tocsin.streams.records import partition_of
from tocsin.telemetry.reports import Fault
from tocsin.wire.activity import Activity

NAMES = "abcdef"


@pytest.fixture
def bench(client: aioredis.Redis, namespace: str) -> Bench:
    return Bench(client, namespace)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(str(tmp_path / "archive"))


def archiver(bench: Bench, archive: Archive) -> Archiver:
    return Archiver(
        bench.client,
        bench.shard().store.keys,
        archive=lambda: archive,
        held=lambda: range(PARTITIONS),
        clock=bench.clock,
    )


def landed(archive: Archive) -> list[Activity]:
    found = [one for table in archive.read() for one in activities_of(table)]
    return sorted(found, key=lambda one: (one.advertiser_id, one.event_id, one.arrival))


async def backlog(bench: Bench) -> Backlog:
    return await read_backlog(bench.client, bench.shard().store.keys, PARTITIONS)


async def tail(bench: Bench) -> list[Activity]:
    return await read_tail(bench.client, bench.shard().store.keys, PARTITIONS)


# --------------------------------------------------------------------------- landing


async def test_every_version_that_counted_lands_once_and_leaves_redis(bench: Bench, archive: Archive) -> None:
    first, again = event(event_id="1"), event(event_id="1", amount=7.0, arrival=2.0)
    await bench.send(first, event("b"))
    await bench.work()
    await bench.send(first, again)
    await bench.work()
    assert len(await tail(bench)) == 3
    assert await archiver(bench, archive).archive() == 3
    assert landed(archive) == [first, again, event("b")]
    assert await tail(bench) == []
    assert await archiver(bench, archive).archive() == 0


async def test_a_landing_cut_off_before_redis_forgets_counts_once(bench: Bench, archive: Archive) -> None:
    await bench.send(*some_events())
    await bench.work()
    told = await tail(bench)

    class Forgetful:
        def __getattr__(self, name: str) -> Any:
            if name == "execute_command":
                raise ConnectionError("cut off")
            return getattr(bench.client, name)

    cut = archiver(bench, archive)
    cut._client = Forgetful()  # type: ignore[assignment]
    with pytest.raises(StorageUnavailableError):
        await cut.archive()
    assert len(await tail(bench)) == len(told)
    assert (await backlog(bench)).waiting == len(told)
    await bench.send(event("z", event_id="new"))
    await bench.work()
    await archiver(bench, archive).archive()
    assert await tail(bench) == []
    archive.compact(4e9)
    assert {(one.advertiser_id, one.event_id, one.arrival) for one in landed(archive)} == {
        (one.advertiser_id, one.event_id, one.arrival) for one in [*told, event("z", event_id="new")]
    }
    assert len(landed(archive)) == len(told) + 1


async def test_a_block_that_cannot_be_read_is_counted(bench: Bench, archive: Archive) -> None:
    await bench.send(event())
    await bench.work()
    key = bench.shard().store.keys.log(0)
    await bench.client.xadd(key, {"v": 9, "b": b"?"})
    found = archiver(bench, archive)
    assert await found.archive() == 1
    assert found.faults()[Fault.UNREADABLE_LOG] == 1


async def test_the_backlog_tells_what_waits_and_what_landed(bench: Bench, archive: Archive) -> None:
    empty = await backlog(bench)
    assert (empty.waiting, empty.landed, empty.lost, empty.landed_at) == (0, 0, 0, None)
    await bench.send(event(event_id="1"), event(event_id="2"), event("b"))
    await bench.work()
    waiting = await backlog(bench)
    assert (waiting.waiting, waiting.landed) == (3, 0)
    assert sum(waiting.blocks.values()) >= 1
    assert all(
        (waiting.oldest_age_s[p] >= 0) and (n or not waiting.oldest_age_s[p])
        for p, n in waiting.blocks.items()
    )
    await archiver(bench, archive).archive()
    landed = await backlog(bench)
    assert (landed.waiting, landed.landed, landed.lost) == (0, 3, 0)
    assert set(landed.blocks.values()) == {0}
    assert landed.landed_at is not None


async def test_two_landers_at_once_count_each_event_once(bench: Bench, archive: Archive) -> None:
    await bench.send(*some_events())
    await bench.work()
    told = len(await tail(bench))
    await asyncio.gather(*(archiver(bench, archive).archive() for _ in range(2)))
    found = await backlog(bench)
    assert (found.waiting, found.landed, found.lost) == (0, told, 0)


async def test_what_left_the_log_before_it_landed_is_told(bench: Bench, archive: Archive) -> None:
    await bench.send(event("a", event_id="1"))
    await bench.work()
    await bench.send(event("a", event_id="2"), event("a", event_id="3"))
    await bench.work()
    key = bench.shard().store.keys.log(partition_of("a", PARTITIONS))
    await bench.client.xtrim(key, maxlen=1, approximate=False)
    assert (await backlog(bench)).waiting == 3  # what the trimmed ones held is not known yet
    await archiver(bench, archive).archive()
    found = await backlog(bench)
    assert (found.waiting, found.landed, found.lost) == (0, 2, 1)
    await bench.send(event("a", event_id="4"))
    await bench.work()
    await archiver(bench, archive).archive()
    found = await backlog(bench)
    assert (found.waiting, found.landed, found.lost) == (0, 3, 1)


async def test_a_failed_landing_is_counted_and_compaction_still_has_its_turn(
    bench: Bench, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.send(event())
    await bench.work()
    found = archiver(bench, archive)
    turns: list[str] = []

    def refuse(*_arguments: Any) -> None:
        raise OSError("no space left")

    async def compact() -> None:
        turns.append("compact")
        raise UnreadableFileError("a file is damaged")

    monkeypatch.setattr(archive, "append", refuse)
    monkeypatch.setattr(found, "_compact", compact)
    running = asyncio.create_task(found.run())
    await wait_until(lambda: turns == ["compact"])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert found.faults() == {Fault.LANDING: 1, Fault.COMPACTION: 1, Fault.UNREADABLE_LOG: 0}
    assert (await backlog(bench)).waiting == 1


# --------------------------------------------------------------------------- backfill


def job(bench: Bench, archive: Archive, work: Plan) -> Backfill:
    return Backfill(
        bench.client,
        archive,
        namespace=bench.namespace,
        work=work,
        as_of="now",
        clock=bench.clock,
    )


async def forget(bench: Bench) -> None:
    """Lose the online state; what a backfill noted stays."""
    names = [key async for key in bench.client.scan_iter(match=f"{bench.namespace}:*", count=1000)]
    kept = [name for name in names if b":backfill:" not in name]
    await bench.client.delete(*kept)


async def archived(bench: Bench, archive: Archive, seed: int = 1) -> dict[str, Any]:
    """The state that some events make, all of them landed."""
    await bench.send(*some_events(seed))
    await bench.work(count=3)
    await archiver(bench, archive).archive()
    return await bench.state()


async def test_the_state_comes_back_byte_for_byte(bench: Bench, archive: Archive) -> None:
    before = await archived(bench, archive)
    await forget(bench)
    work = plan(archive, PARTITIONS)
    told: list[int] = []
    done = await job(bench, archive, work).run(range(PARTITIONS), told.append)
    assert await bench.state() == before
    assert sum(told) == done.events == work.events(range(PARTITIONS))
    assert (done.advertisers, done.skipped) == (len(NAMES), 0)
    assert await tail(bench) == []  # they are in the archive already


async def test_it_changes_nothing_where_all_is_known(bench: Bench, archive: Archive) -> None:
    before = await archived(bench, archive)
    await job(bench, archive, plan(archive, PARTITIONS)).run(range(PARTITIONS))
    assert await bench.state() == before


async def test_what_is_newer_online_stays(bench: Bench, archive: Archive) -> None:
    await archived(bench, archive)
    await bench.send(
        event("a", amount=77.0, event_id="0", arrival=99.0), event("a", event_id="live", arrival=9.0)
    )
    await bench.work()
    before = await bench.state()
    await job(bench, archive, plan(archive, PARTITIONS)).run(range(PARTITIONS))
    assert await bench.state() == before


async def test_stopped_in_the_middle_it_goes_on_where_it_was(
    bench: Bench, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await archived(bench, archive)
    await forget(bench)
    monkeypatch.setattr("features.jobs.backfill.PORTION_EVENTS", 5)
    work = plan(archive, PARTITIONS)

    class StoppedError(Exception):
        pass

    def stop(_number: int) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        await job(bench, archive, work).run(range(PARTITIONS), stop)
    assert await bench.state() != before
    done = await job(bench, archive, work).run(range(PARTITIONS))
    assert done.skipped >= 1
    assert done.skipped + done.advertisers == len(NAMES)
    assert await bench.state() == before


async def test_beside_a_live_shard_neither_loses_anything(
    bench: Bench, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    await archived(bench, archive)
    await forget(bench)
    found = job(bench, archive, plan(archive, PARTITIONS))
    handle, live = found._shard.handle, iter(range(100))

    async def overtaken(entries: Any) -> Any:
        stage = await handle(entries)
        if (number := next(live)) % 2 == 0:  # a live shard settles in between
            await bench.send(*(event(name, event_id=f"live-{number}") for name in NAMES))
            await bench.work()
        return stage

    monkeypatch.setattr(found._shard, "handle", overtaken)
    done = await found.run(range(PARTITIONS))
    assert done.again >= 1
    other = Bench(bench.client, f"{bench.namespace}-other")
    numbers = [number for number in range(next(live)) if number % 2 == 0]
    lives = [event(name, event_id=f"live-{number}") for number in numbers for name in NAMES]
    await other.send(*landed(archive), *lives)
    await other.work()
    assert await bench.state() == await other.state()
    await bench.client.delete(
        *[key async for key in bench.client.scan_iter(match=f"{other.namespace}:*", count=1000)]
    )


async def test_a_partition_that_never_rests_is_given_up(
    bench: Bench, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    await archived(bench, archive)
    await forget(bench)
    monkeypatch.setattr("features.jobs.backfill.ATTEMPTS", 3)
    found = job(bench, archive, plan(archive, PARTITIONS))
    handle = found._shard.handle

    async def overtaken(entries: Any) -> Any:
        stage = await handle(entries)
        await bench.client.append(found._shard._keys.applied(entries[0].partition), "moved")
        return stage

    monkeypatch.setattr(found._shard, "handle", overtaken)
    with pytest.raises(OverloadedError, match="moved at each of 3 attempts"):
        await found.run(range(PARTITIONS))


# --------------------------------------------------------------------------- the skew watch


async def served(bench: Bench, as_of: float = NOW) -> list[ServedSample]:
    """Samples of every advertiser, as readers note them."""
    keys = bench.shard().store.keys
    usage = UsageLog(keys, partitions=PARTITIONS, clock=bench.clock)
    for name in NAMES:
        answer = await bench.read(name, as_of=as_of)
        for _ in range(SAMPLE_EVERY):
            usage.record(answer)
    await usage.flush(bench.client)
    return await read_samples(bench.client, keys, limit=1_000)


async def replay(bench: Bench, archive: Archive, samples: list[ServedSample]) -> Report:
    return verify(samples, await tail(bench), archive)


@pytest.mark.parametrize("land", [True, False])
async def test_what_was_served_is_found_again(bench: Bench, archive: Archive, land: bool) -> None:
    await bench.send(*some_events())
    await bench.work()
    await bench.set_watermarks(NOW)
    samples = [*await served(bench), *await served(bench, NOW - 0.4 * DAY_S)]
    if land:
        await archiver(bench, archive).archive()
    report = await replay(bench, archive, samples)
    assert report.clean
    assert report.compared == report.samples >= len(NAMES)


async def test_what_arrives_after_it_was_served_is_not_held_against_it(
    bench: Bench, archive: Archive
) -> None:
    await bench.send(*some_events())
    await bench.work()
    await bench.set_watermarks(NOW)
    samples = await served(bench)
    later = samples[0].recorded_at + 5.0
    await bench.send(*(event(name, event_id="0", amount=9.0, arrival=later) for name in NAMES))
    await bench.work()
    assert (await replay(bench, archive, samples)).clean


async def test_what_arrived_while_it_was_served_may_be_in_it_or_not(bench: Bench, archive: Archive) -> None:
    await bench.send(*(event(name, event_id="1") for name in NAMES))
    await bench.work()
    await bench.set_watermarks(NOW - 100)
    without = await served(bench)
    await bench.send(*(event(name, event_id="2", arrival=NOW - 50) for name in NAMES))
    await bench.work()
    both = [*without, *await served(bench)]
    both = [msgspec.structs.replace(sample, recorded_at=NOW) for sample in both]
    report = await replay(bench, archive, both)
    assert report.clean
    assert report.compared == len(both)
    late = [
        msgspec.structs.replace(
            sample, served=msgspec.structs.replace(sample.served, watermark=NOW - 10), recorded_at=NOW
        )
        for sample in without
    ]
    assert not (await replay(bench, archive, late)).clean  # it promised to know of the second


async def test_a_value_that_was_never_true_is_named(bench: Bench, archive: Archive) -> None:
    await bench.send(event("a", amount=5.0))
    await bench.work()
    await bench.set_watermarks(NOW)
    await archiver(bench, archive).archive()
    (sample, *_) = await served(bench)
    wrong = list(sample.served.values)
    wrong[0] += 1.0
    lie = msgspec.structs.replace(sample, served=msgspec.structs.replace(sample.served, values=tuple(wrong)))
    report = await replay(bench, archive, [sample, lie])
    assert report.mismatches == {"days_since_last_campaign": 1}
    assert report.examples[0].served == (report.examples[0].offline or 0.0) + 1.0


async def test_events_that_never_landed_are_found_out(bench: Bench, archive: Archive) -> None:
    await bench.send(*some_events())
    await bench.work()
    await bench.set_watermarks(NOW)
    samples = await served(bench)
    report = verify(samples, [], archive)
    assert report.mismatches["events_lifetime"] == len(samples)


async def test_vectors_of_other_definitions_are_not_compared(bench: Bench, archive: Archive) -> None:
    await bench.send(event())
    await bench.work()
    await bench.set_watermarks(NOW)
    samples = await served(bench)
    other = [
        msgspec.structs.replace(sample, served=msgspec.structs.replace(sample.served, schema=b"other"))
        for sample in samples
    ]
    report = await replay(bench, archive, other)
    assert (report.compared, report.other_schema) == (0, len(other))
    assert report.clean


def test_a_plan_knows_whose_events_there_are(archive: Archive) -> None:
    archive.append(event_table(some_events()), "one")
    work = plan(archive, PARTITIONS)
    assert work.events(range(PARTITIONS)) == 120
    assert {name for names in work.counts.values() for name in names} == set(NAMES)
    archive.append(event_table(some_events(2)), "two")
    assert plan(archive, PARTITIONS).digest != work.digest
