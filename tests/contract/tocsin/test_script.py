from __future__ import annotations

import pytest
from redis import asyncio as aioredis

from tocsin.storage.script import Script

ADD = Script(
    """
for a = numbers_at, #ARGV do redis.call('INCRBY', total, ARGV[a]) end
for k = copies_at, #KEYS do redis.call('SET', KEYS[k], redis.call('GET', total)) end
return {redis.call('GET', total), unit}
""",
    keys="total copies*",
    args="unit numbers*",
)


async def test_keys_and_arguments_have_names(client: aioredis.Redis, namespace: str) -> None:
    total, copies = f"{namespace}:total", [f"{namespace}:a", f"{namespace}:b"]
    assert await ADD.run(client, total=total, copies=copies, unit="s", numbers=[1, 2, 3]) == [b"6", b"s"]
    assert await client.mget(copies) == [b"6", b"6"]


async def test_a_server_that_lost_it_loads_it_again(client: aioredis.Redis, namespace: str) -> None:
    named = {"total": f"{namespace}:total", "copies": (), "unit": "s", "numbers": [1]}
    await ADD.run(client, **named)
    await client.script_flush()
    assert await ADD.run(client, **named) == [b"2", b"s"]
    await client.script_flush()
    answer, _ = await ADD.run_synced(client, wait_ms=100, **named)
    assert answer == [b"3", b"s"]


async def test_flags_stay_in_front(client: aioredis.Redis, namespace: str) -> None:
    reads = Script("#!lua flags=no-writes\nreturn redis.call('GET', key)\n", keys="key")
    assert reads.source.startswith("#!lua flags=no-writes\nlocal key = KEYS[1]\n")
    assert await reads.run(client, key=f"{namespace}:none") is None


async def test_a_value_too_few_or_under_another_name_is_refused(client: aioredis.Redis) -> None:
    with pytest.raises(TypeError, match="numbers"):
        await ADD.run(client, total="t", copies=(), unit="s")
    with pytest.raises(KeyError, match="unit"):
        await ADD.run(client, total="t", copies=(), units="s", numbers=())


def test_only_the_last_takes_many() -> None:
    with pytest.raises(ValueError, match="many"):
        Script("return 1", keys="many* one")
