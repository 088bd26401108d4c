"""What must work at the server's memory limit: emptying the lanes.

At `maxmemory` the server refuses every command that may add data, even inside a transaction that would free far
more than it adds: `XADD`, `HSET`, `ZADD`, `HINCRBY`, `SET`. A lane could then never drain. A script with the flag
`allow-oom` is exempt as a whole. Ours free first and add little: an outcome for a block, a lease for a lease.

Only what drains is exempt. `append` is not: there the refusal is the point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from redis import asyncio as aioredis
from redis.asyncio.client import Pipeline

from tocsin.storage.script import Script

_COMMANDS = """
local function carry_out(first_key, a)
  for _ = first_key, #KEYS do
    local parts = {}
    for i = 1, tonumber(ARGV[a]) do parts[i] = ARGV[a + i] end
    redis.call(unpack(parts))
    a = a + 1 + #parts
  end
end
"""

_TRANSACTION: Final = Script(
    "#!lua flags=allow-oom"
    + _COMMANDS
    + """
guards = tonumber(guards)
for k = 1, guards do
  if (redis.call('GET', KEYS[k]) or '') ~= ARGV[parts_at + k - 1] then return 0 end
end
carry_out(guards + 1, parts_at + guards)
return 1
""",
    keys="names*",
    args="guards parts*",
)

_IN_PLACE: Final = Script(
    "#!lua flags=allow-oom"
    + _COMMANDS
    + """
if redis.call('ZREM', retries, body) == 0 then return 0 end
carry_out(names_at, parts_at)
return 1
""",
    keys="retries names*",
    args="body parts*",
)

_CREATE_GROUP: Final = Script(
    """#!lua flags=allow-oom
return redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
""",
    keys="stream",
    args="group",
)


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
    done = await _TRANSACTION.run(
        client, names=[*guards, *keys], guards=len(guards), parts=[*guards.values(), *args]
    )
    return bool(done)


async def execute_in_place(client: aioredis.Redis, pipe: Pipeline, retries: str, body: bytes) -> bool:
    """The same, in place of a retry that waits. Returns False, with nothing done, when it does not wait.

    Raises:
        RedisError: as the driver raises it.
    """
    keys, args = _queued(pipe)
    return bool(await _IN_PLACE.run(client, retries=retries, names=keys, body=body, parts=args))


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
    await _CREATE_GROUP.run(client, stream=stream, group=group)
