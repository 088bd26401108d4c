"""Lua scripts as typed functions: what runs one. Each script stands next to its owner, in a function that calls it.

    _ACQUIRE = Script("... redis.call('SET', lease, owner) ...", keys="lease", args="owner ttl_ms")

    async def acquire(client: Redis, *, lease: str, owner: str, ttl_ms: int) -> bool:
        return bool(await _ACQUIRE.run(client, lease=lease, owner=owner, ttl_ms=ttl_ms))

Keys and arguments have one name each: in the declaration, in the Lua text and at the call. The last of either may take
any number of values (`leases*`): the Lua text then finds the position of the first as `leases_at`.

A script that keeps a lane draining begins with `#!lua flags=allow-oom`: see `tocsin.storage.limit`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from redis import asyncio as aioredis
from redis import exceptions as redis_errors


class Script:
    """A script run by its digest, loaded again after the server lost it. It runs atomically on the server.

    Args:
        source: The Lua text; it sees `keys` and `args` as local variables.
        keys: Names of the keys, in order, separated by blanks; a last one with `*` takes many.
        args: Names of the arguments, likewise.
    """

    def __init__(self, source: str, *, keys: str, args: str = "") -> None:
        self._keys = keys.split()
        self._args = args.split()
        self.source = _named(source, self._keys, self._args)
        self._digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: aioredis.Redis, **named: Any) -> Any:
        """Run it once, with a value for each name; a name with `*` takes a sequence.

        Raises:
            RedisError: as the driver raises it.
        """
        parts = self._parts(named)
        execute: Any = client.execute_command  # untyped upstream
        try:
            return await execute("EVALSHA", self._digest, *parts)
        except redis_errors.NoScriptError:
            return await execute("EVAL", self.source, *parts)

    async def run_synced(self, client: aioredis.Redis, *, wait_ms: int, **named: Any) -> tuple[Any, bool]:
        """Run it once, then wait until what it wrote is on the server's disk. Returns its answer and whether it is.

        Both go out together on one connection: WAITAOF speaks for no other. A server that does not know the command,
        has no append-only file or is not done in time leaves the second answer false.

        Raises:
            RedisError: as the driver raises it; also when the connection breaks while waiting.
        """
        parts = self._parts(named)
        try:
            return await _then_wait(client, ("EVALSHA", self._digest, *parts), wait_ms)
        except redis_errors.NoScriptError:
            return await _then_wait(client, ("EVAL", self.source, *parts), wait_ms)

    def _parts(self, named: Mapping[str, Any]) -> list[Any]:
        """The number of keys, the keys and the arguments, in the order of their declaration."""
        if len(named) != len(self._keys) + len(self._args):
            raise TypeError(f"the script takes {self._keys} and {self._args}, and was given {sorted(named)}")
        keys = _values(self._keys, named)
        return [len(keys), *keys, *_values(self._args, named)]


def _values(names: Iterable[str], named: Mapping[str, Any]) -> list[Any]:
    found: list[Any] = []
    for name in names:
        if name.endswith("*"):
            found += named[name[:-1]]
        else:
            found.append(named[name])
    return found


def _named(source: str, keys: list[str], args: list[str]) -> str:
    """The source behind a line that gives keys and arguments their names; a shebang stays first."""
    lines: list[str] = []
    for table, names in (("KEYS", keys), ("ARGV", args)):
        for number, name in enumerate(names, start=1):
            many = name.endswith("*")
            if many and number < len(names):
                raise ValueError(f"only the last may take many values, not {name}")
            lines.append(f"local {name[:-1]}_at = {number}" if many else f"local {name} = {table}[{number}]")
    prelude = "; ".join(lines)
    shebang, line_end, rest = source.partition("\n")
    if shebang.startswith("#!"):
        return f"{shebang}{line_end}{prelude}\n{rest}"
    return f"{prelude}\n{source}"


async def _then_wait(client: aioredis.Redis, command: tuple[Any, ...], wait_ms: int) -> tuple[Any, bool]:
    async with client.pipeline(transaction=False) as pipe:
        queue: Any = pipe.execute_command  # untyped upstream
        queue(*command)
        queue("WAITAOF", 1, 0, wait_ms)
        answer, counts = await pipe.execute(raise_on_error=False)
    if isinstance(answer, Exception):
        raise answer
    return answer, isinstance(counts, list) and int(counts[0]) >= 1
