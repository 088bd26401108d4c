"""The API's description holds: a short run of the fuzzer over every application, on real storage."""

from __future__ import annotations

from pathlib import Path

import msgspec
from redis import asyncio as aioredis

from tests.whole_api import served
from tocsin.settings import Settings
from tocsin.streams.lanes import Lane
from tocsin.wire.lanes import LaneName
from verification.fuzz.run import QUICK, fuzz

OPERATIONS = 24


async def test_what_the_description_says_is_what_happens(
    url: str, client: aioredis.Redis, namespace: str, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(
        Settings.from_env({}), redis_url=url, namespace=namespace, data_dir=str(tmp_path)
    )
    for name in LaneName:
        lane = Lane(client, namespace=namespace, name=name, partitions=settings.partitions(name))
        await lane.ensure_groups()
        await client.zadd(lane.keys.members, {"somebody": 9e15})  # or it would not be ready
    with served(settings) as base:
        figures = fuzz(base, QUICK)
    assert (figures.operations, figures.failures, figures.server_errors) == (OPERATIONS, 0, 0)
    assert figures.cases > 1_000
