from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from redis import asyncio as aioredis

from tocsin.storage.script import Script

ADD = Script(
    """
for a = numbers_at, #ARGV do redis.call('INCRBY', total, ARGV[a]) end
redis.call('EXPIRE', total, 60)
for k = copies_at, #KEYS do redis.call('SET', KEYS[k], redis.call('GET', total), 'EX', 60) end
return {redis.call('GET', total), unit}
""",
    keys="total copies*",
    args="unit numbers*",
)


@pytest.fixture
async def prefix(client: aioredis.Redis) -> AsyncIterator[str]:
    """Of keys that are no lane's: the table of keys does not know them."""
    name = f"script-{uuid4().hex[:12]}"
    yield name
    await client.delete(*(f"{name}:{end}" for end in ("total", "a", "b")))


async def test_keys_and_arguments_have_names(client: aioredis.Redis, prefix: str) -> None:
    total, copies = f"{prefix}:total", [f"{prefix}:a", f"{prefix}:b"]
    assert await ADD.run(client, total=total, copies=copies, unit="s", numbers=[1, 2, 3]) == [b"6", b"s"]
    assert await client.mget(copies) == [b"6", b"6"]


async def test_a_server_that_lost_it_loads_it_again(client: aioredis.Redis, prefix: str) -> None:
    named = {"total": f"{prefix}:total", "copies": (), "unit": "s", "numbers": [1]}
    await ADD.run(client, **named)
    await client.script_flush()
    assert await ADD.run(client, **named) == [b"2", b"s"]
    await client.script_flush()
    answer, _ = await ADD.run_synced(client, wait_ms=100, **named)
    assert answer == [b"3", b"s"]


async def test_flags_stay_in_front(client: aioredis.Redis, prefix: str) -> None:
    reads = Script("#!lua flags=no-writes\nreturn redis.call('GET', key)\n", keys="key")
    assert reads.source.startswith("#!lua flags=no-writes\nlocal key = KEYS[1]\n")
    assert await reads.run(client, key=f"{prefix}:none") is None


async def test_a_value_too_few_or_under_another_name_is_refused(client: aioredis.Redis) -> None:
    with pytest.raises(TypeError, match="numbers"):
        await ADD.run(client, total="t", copies=(), unit="s")
    with pytest.raises(KeyError, match="unit"):
        await ADD.run(client, total="t", copies=(), units="s", numbers=())


def test_only_the_last_takes_many() -> None:
    with pytest.raises(ValueError, match="many"):
        Script("return 1", keys="many* one")
