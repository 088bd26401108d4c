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

from tocsin.storage.scripts import CREATE_GROUP, IN_PLACE, TRANSACTION, Script

_transaction = Script(TRANSACTION)
_in_place = Script(IN_PLACE)
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
    keys, args = _queued(pipe)
    guards = expected or {}
    arguments = [len(guards), *guards.values(), *args]
    return bool(await _transaction.run(client, [*guards, *keys], arguments) >= 0)


async def execute_in_place(client: aioredis.Redis, pipe: Pipeline, retries: str, body: bytes) -> bool:
    """The same, in place of a retry that waits. Returns False, with nothing done, when it does not wait.

    Raises:
        RedisError: as the driver raises it.
    """
    keys, args = _queued(pipe)
    return bool(await _in_place.run(client, [retries, *keys], [body, *args]))


def _queued(pipe: Pipeline) -> tuple[list[Any], list[Any]]:
    """The key of each queued command, and its parts behind their number."""
    commands: list[tuple[Any, ...]] = [args for args, _options in pipe.command_stack]
    args: list[Any] = []
    for command in commands:
        args += [len(command), *command]
    return [command[1] for command in commands], args


async def create_group(client: aioredis.Redis, stream: str, group: str) -> None:
    """Make a stream and its consumer group, whatever the memory.

    Raises:
        RedisError: as the driver raises it; BUSYGROUP when the group exists.
    """
    await _create_group.run(client, [stream], [group])
