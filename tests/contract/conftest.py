"""A real Valkey for the session; each test has a namespace of its own and leaves nothing without a TTL behind."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from redis import asyncio as aioredis

from tocsin import keys as key_table
from tocsin.storage.connect import connect
from tocsin.storage.embedded import EmbeddedServer, ServerEndpoint, process_of, read_endpoint
from tocsin.streams.lanes import Lane

TIMEOUT_S = 2.0
ROW = re.compile(r"^\| `(?P<pattern>[^`]+)`\s*\| (?P<type>\w+)\s*\| (?P<ttl>[^|]+?)\s*\|", re.MULTILINE)
HOLES = {
    r"\{ns\}": "{ns}",
    r"\{lane\}": r"\{(p0|p1|p2|activity)\}",
    r"\{activity\}": r"\{activity\}",
    r"\{partition\}": r"\d+",
    r"\{span\}": r"\d+",
    r"\{digest\}": "[0-9a-f]{32}",
    r"\{advertiser\}": ".+",
    r"\{view\}": "[a-z_]+",
    r"\{hour\}": r"\d+",
    r"\{recipients\}": r"\{recipients\}",
    r"\{recipient\}": ".+",
    r"\{priority\}": "p[12]",
    r"\{supervisor\}": r"\{supervisor\}",
    r"\{member\}": "[a-z0-9-]+",
    r"\{breakers\}": r"\{breakers\}",
    r"\{breaker\}": "[a-z0-9_:.-]+",
    r"\{emergency\}": r"\{emergency\}",
    r"\{models\}": r"\{models\}",
    r"\{trial\}": "[0-9A-Za-z-]+",
    r"\{epoch\}": r"\d+",
}


@cache
def documented() -> list[tuple[str, bool]]:
    """Every row of the key table: a regex with `{ns}` left open, and whether such keys live for ever."""
    rows: list[tuple[str, bool]] = []
    for row in ROW.finditer(key_table.__doc__ or ""):
        pattern = re.escape(row["pattern"])
        for hole, regex in HOLES.items():
            pattern = pattern.replace(hole, regex)
        rows.append((pattern, row["ttl"].startswith("none")))
    return rows


def undocumented(name: str, ttl_s: int, namespace: str) -> bool:
    """Whether a key is not in the table, or lives for ever though the table says it does not."""
    for pattern, for_ever in documented():
        if re.fullmatch(pattern.replace("{ns}", re.escape(namespace)), name):
            return ttl_s < 0 and not for_ever
    return True


@pytest.fixture(scope="session")
def server_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data folder of a running server."""
    data = tmp_path_factory.mktemp("valkey")
    server = EmbeddedServer(data)
    server.start()
    yield data
    server.stop()


@pytest.fixture
def endpoint(server_data: Path) -> ServerEndpoint:
    """The server as it runs now: a test before may have killed it."""
    found = read_endpoint(server_data)
    assert found is not None
    return found


@pytest.fixture
def url(endpoint: ServerEndpoint) -> str:
    return endpoint.url


@pytest.fixture
def process(endpoint: ServerEndpoint) -> psutil.Process:
    found = process_of(endpoint)
    assert found is not None
    return found


@pytest.fixture
async def client(url: str) -> AsyncIterator[aioredis.Redis]:
    connected = connect(url, timeout_s=TIMEOUT_S)
    yield connected
    await connected.aclose()


@pytest.fixture
async def namespace(client: aioredis.Redis) -> AsyncIterator[str]:
    """A fresh prefix; afterwards its keys are checked against the table and deleted."""
    name = f"t{uuid4().hex[:12]}"
    yield name
    left = [key.decode() async for key in client.scan_iter(match=f"{name}:*", count=1000)]
    wrong = []
    if left:
        async with client.pipeline(transaction=False) as pipe:
            for key in left:
                pipe.ttl(key)
            ttls: list[int] = await pipe.execute()
        wrong = [key for key, ttl_s in zip(left, ttls, strict=True) if undocumented(key, ttl_s, name)]
        await client.delete(*left)
    assert not wrong, f"keys without the TTL that tocsin/keys.py promises: {wrong}"


@pytest.fixture
async def valkey_lane(client: aioredis.Redis, namespace: str) -> Lane:
    lane = Lane(client, namespace=namespace, name="p0", partitions=3, block_records=4)
    await lane.ensure_groups()
    return lane
