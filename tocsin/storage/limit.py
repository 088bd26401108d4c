"""What must work at the server's memory limit: emptying the lanes.

At `maxmemory` the server refuses every command that may add data, even inside a transaction that would free far
more than it adds: `XADD`, `HSET`, `ZADD`, `HINCRBY`, `SET`. A lane could then never drain. A script with the flag
`allow-oom` is exempt as a whole. Ours free first and add little: an outcome for a block, a lease for a lease.

Only what drains is exempt. `append` is not: there the refusal is the point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis import asyncio as aioredis
from redis.asyncio.client import Pipeline

from tocsin.storage.scripts import CREATE_GROUP, TRANSACTION, Script

_transaction = Script(TRANSACTION)
_create_group = Script(CREATE_GROUP)


async def execute_at_limit(
    client: aioredis.Redis, pipe: Pipeline, expected: Mapping[str, bytes] | None = None
) -> bool:
    """Carry out what is queued in a pipeline as one script, atomically, whatever the memory.

    Args:
        client: The server.
        pipe: Commands whose first argument is their key, those that free first. It is left as it is.
        expected: Strings that must hold these values (empty: not be there), or nothing is done.

    Returns:
        Whether it was done.

    Raises:
        RedisError: as the driver raises it.
    """
    commands: list[tuple[Any, ...]] = [args for args, _options in pipe.command_stack]
    expected = expected or {}
    keys = [*expected, *(command[1] for command in commands)]
    args: list[Any] = [len(expected), *expected.values()]
    for command in commands:
        args += [len(command), *command]
    return bool(await _transaction.run(client, keys, args) >= 0)


async def create_group(client: aioredis.Redis, stream: str, group: str) -> None:
    """Make a stream and its consumer group, whatever the memory.

    Raises:
        RedisError: as the driver raises it; BUSYGROUP when the group exists.
    """
    await _create_group.run(client, [stream], [group])
