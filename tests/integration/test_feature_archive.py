"""The archive beside the whole platform: landed, brought back on Ray, and what was served found again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from msgspec import structs
from typer.testing import CliRunner

from cli.app import app
from features.event_table import event_table
from features.offline.archive import Archive
from features.shard.archiver import Archiver
from features.simulator import simulate
from launch.file_import import request_of
from launch.local_client import await_lane
from tests.fakes import ManualClock
from tests.platform_fixtures import SIMULATION_END
from tests.support import eventually
from tocsin import Client
from tocsin.keys import FeatureKeys
from tocsin.settings import Settings
from tocsin.storage.connect import CONSUME_TIMEOUT_S, connect, resolve_url

pytestmark = pytest.mark.integration

PREFIX = "archived-"


@pytest.fixture(scope="module")
def advertisers(settings: Settings, client: Client) -> list[str]:
    """Some of our own, with activity told and then told otherwise, all of it landed."""
    events = simulate(advertisers=20, weeks=30, seed=5, end=SIMULATION_END).activities
    told = [request_of(structs.replace(one, advertiser_id=PREFIX + one.advertiser_id)) for one in events]
    client.send_activity(told)
    await_lane(settings, "activity")
    client.send_activity([structs.replace(one, amount=one.amount + 7.0) for one in told[::5]])
    await_lane(settings, "activity")
    asyncio.run(land(settings))
    return sorted({one.advertiser_id for one in told})


async def land(settings: Settings) -> None:
    """What the shards do by themselves every half minute."""
    client = connect(resolve_url(settings), timeout_s=CONSUME_TIMEOUT_S)
    archiver = Archiver(
        client,
        FeatureKeys(settings.namespace),
        archive=lambda: Archive(settings.archive),
        held=lambda: range(settings.partitions("activity")),
        clock=ManualClock(),
    )
    await archiver.archive()
    await client.aclose()


@contextmanager
def server(settings: Settings) -> Iterator[Any]:
    found = redis.Redis.from_url(resolve_url(settings))
    yield found
    found.close()


def state(settings: Settings, advertisers: list[str]) -> dict[bytes, Any]:
    keys = FeatureKeys(settings.namespace)
    with server(settings) as client:
        events = {name: sorted(client.hkeys(keys.events(name))) for name in advertisers}
        bodies = client.mget([keys.history(name) for name in advertisers])
    return {name.encode(): (events[name], body) for name, body in zip(advertisers, bodies, strict=True)}


@pytest.mark.parametrize("parallel", [1, 2])
def test_what_was_lost_comes_back_from_the_archive(
    settings: Settings, advertisers: list[str], parallel: int
) -> None:
    from actors.backfill import backfill, backfill_on_ray
    from features.jobs.backfill import plan

    before = state(settings, advertisers)
    assert all(body for _, body in before.values())
    keys = FeatureKeys(settings.namespace)
    with server(settings) as client:
        for name in advertisers:
            client.delete(keys.history(name), keys.events(name))
        for partition in range(settings.partitions("activity")):
            client.append(keys.applied(partition), "lost")  # or live shards would believe what they remember
        client.delete(*client.keys(f"{settings.namespace}:*backfill*"), "none")
    work = plan(Archive(settings.archive), settings.partitions("activity"))
    told: list[int] = []
    if parallel > 1:
        done = backfill_on_ray(settings, settings.archive, work, parallel=parallel, on_events=told.append)
    else:
        done = asyncio.run(backfill(settings, settings.archive, work, sorted(work.counts), told.append))
    assert sum(told) == work.events(range(work.partitions))
    assert done.advertisers >= len(advertisers)
    assert state(settings, advertisers) == before


def test_what_was_served_is_found_again(
    settings: Settings, client: Client, advertisers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.to_env().items():
        monkeypatch.setenv(name, value)

    def sampled() -> bool:
        client.features_many(advertisers)
        with server(settings) as found:
            return int(found.xlen(FeatureKeys(settings.namespace).served)) >= 3

    eventually(sampled, timeout_s=30.0)
    answer = CliRunner().invoke(app, ["features", "verify", "--json"])
    report = json.loads(answer.stdout)
    assert (answer.exit_code, report["clean"]) == (0, True), report
    assert report["compared"] >= 3
    other = Archive(str(settings.data_path / "another-archive"))
    other.append(event_table(simulate(advertisers=2, weeks=3, end=time.time()).activities), "one")
    answer = CliRunner().invoke(
        app, ["features", "verify", "--archive", str(settings.data_path / "another-archive")]
    )
    assert answer.exit_code == 1
    assert "differ" in answer.stdout


def test_a_backfill_is_told_and_goes_on_where_it_was(
    settings: Settings, advertisers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.to_env().items():
        monkeypatch.setenv(name, value)
    first, second = (
        json.loads(CliRunner().invoke(app, ["features", "backfill", "--json"]).stdout) for _ in range(2)
    )
    assert first["advertisers"] + first["skipped"] == second["skipped"] >= len(advertisers)
    answer = CliRunner().invoke(
        app, ["features", "backfill", "--archive", str(settings.data_path / "nowhere")]
    )
    assert "there are no events in" in str(answer.exception)
