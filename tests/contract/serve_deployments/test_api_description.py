"""The API's description holds: a short run of the fuzzer over every application, on real storage."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from redis import asyncio as aioredis

from tests.whole_api import served
from tocsin.settings import Settings
from tocsin.storage.servers import Servers
from tocsin.streams.lanes import Lane
from tocsin.wire.lanes import LaneName
from verification.fuzz.run import QUICK, fuzz

OPERATIONS = 25
MOST_S = 900  # on a machine that is busy with other things; half a minute on one that is not


@pytest.mark.timeout(MOST_S)
async def test_what_the_description_says_is_what_happens(
    url: str, client: aioredis.Redis, namespace: str, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(
        Settings.from_env({}), redis_url=url, namespace=namespace, data_dir=str(tmp_path)
    )
    for name in LaneName:
        lane = Lane.of(Servers(settings, timeout_s=5.0).of(name), settings, name)
        await lane.ensure_groups()
        await client.zadd(lane.keys.members, {"somebody": 9e15})  # or it would not be ready
    with served(settings) as base:
        figures = fuzz(base, QUICK)
    assert (figures.operations, figures.failures, figures.server_errors) == (OPERATIONS, 0, 0)
    assert figures.cases > 1_000
