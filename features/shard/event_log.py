"""The event log of the shards on Redis: changed events, until they are in the archive."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from redis import asyncio as aioredis

from tocsin.keys import FeatureKeys
from tocsin.storage.errors import translated
from tocsin.storage.script import Script
from tocsin.wire.activity import Activity
from tocsin.wire.lanes import WIRE_VERSION

log = logging.getLogger(__name__)

_block: Final = msgspec.msgpack.Decoder(list[Activity])


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """How far the archive is behind the event log on Redis."""

    waiting: int  # events logged and not archived
    landed: int  # events archived, since the beginning
    lost: int  # events that left the log before they were archived; known once a partition's log is empty
    blocks: dict[int, int]  # waiting, by partition
    oldest_age_s: dict[int, float]  # of these; 0 where none waits
    landed_at: float | None  # when the archive was last written, epoch seconds; None: never


_BACKLOG: Final = Script(
    """#!lua flags=no-writes,allow-oom
local time = redis.call('TIME')
local answer = {time[1] * 1000 + math.floor(time[2] / 1000), redis.call('HGETALL', archive)}
for k = logs_at, #KEYS do
  local oldest = redis.call('XRANGE', KEYS[k], '-', '+', 'COUNT', 1)[1]
  answer[#answer + 1] = redis.call('XLEN', KEYS[k])
  answer[#answer + 1] = oldest and tonumber(string.match(oldest[1], '^%d+')) or 0
end
return answer
""",
    keys="archive logs*",
)


async def read_backlog(client: aioredis.Redis, keys: FeatureKeys, partitions: int) -> Backlog:
    """How far the archive is behind; one round trip that reads no block.

    Raises:
        StorageUnavailableError: the server does not answer.
    """
    logs = [keys.log(partition) for partition in range(partitions)]
    with translated():
        now_ms, fields, *depths = await _BACKLOG.run(client, archive=keys.archive, logs=logs)
    counts = {name.decode(): int(number) for name, number in zip(fields[::2], fields[1::2], strict=True)}

    def total(what: str) -> int:
        return sum(number for name, number in counts.items() if name.startswith(f"{what}:"))

    blocks, oldest = depths[::2], depths[1::2]
    return Backlog(
        waiting=max(total("logged") - total("landed") - total("lost"), 0) if any(blocks) else 0,
        landed=total("landed"),
        lost=total("lost"),
        blocks=dict(enumerate(blocks)),
        oldest_age_s={p: max(now_ms - at, 0) / 1000 if at else 0.0 for p, at in enumerate(oldest)},
        landed_at=float(counts["landed_at"]) if "landed_at" in counts else None,
    )


_DELETE_ARCHIVED: Final = Script(
    """#!lua flags=allow-oom
local landed = 0
for a = entries_at, #ARGV, 2 do
  if redis.call('XDEL', log, ARGV[a]) == 1 then landed = landed + tonumber(ARGV[a + 1]) end
end
local fields = {'logged:' .. partition, 'landed:' .. partition, 'lost:' .. partition}
redis.call('HINCRBY', archive, fields[2], landed)
redis.call('HSET', archive, 'landed_at', redis.call('TIME')[1])
if redis.call('XLEN', log) == 0 then
  local found = redis.call('HMGET', archive, unpack(fields))
  local left = tonumber(found[1] or 0) - tonumber(found[2] or 0) - tonumber(found[3] or 0)
  if left ~= 0 then redis.call('HINCRBY', archive, left > 0 and fields[3] or fields[1], math.abs(left)) end
end
return landed
""",
    keys="archive log",
    args="partition entries*",
)


async def delete_archived(
    client: aioredis.Redis, keys: FeatureKeys, partition: int, entries: Sequence[tuple[str, int]]
) -> int:
    """Delete entries that are in the archive and count them, each once. Once the log is empty, events that were
    logged and never archived are counted as lost (trimmed, or unreadable).

    Args:
        client: The server.
        keys: Of the feature store.
        partition: Of the log.
        entries: Each entry's id and how many events it holds.

    Returns:
        How many events were counted as archived.

    Raises:
        StorageUnavailableError: the server does not answer.
    """
    with translated():
        counted: int = await _DELETE_ARCHIVED.run(
            client,
            archive=keys.archive,
            log=keys.log(partition),
            partition=partition,
            entries=[part for entry in entries for part in entry],
        )
    return counted


async def read_log(
    client: aioredis.Redis, keys: FeatureKeys, partition: int, *, after: str = "-", count: int
) -> list[tuple[str, bytes]]:
    """Entries of a partition's log, the oldest first: their ids and blocks; empty for one of another version.

    Raises:
        StorageUnavailableError: the server does not answer.
    """
    with translated():
        found: Any = await client.xrange(keys.log(partition), min=after, count=count)
    ours = str(WIRE_VERSION).encode()
    return [(entry.decode(), values[b"b"] if values.get(b"v") == ours else b"") for entry, values in found]


def activities_in(body: bytes) -> list[Activity] | None:
    """The events of a block; None where it cannot be read, which is logged."""
    try:
        return _block.decode(body)
    except msgspec.MsgspecError as error:
        log.error("a block of the event log cannot be read: %s", error)  # noqa: TRY400 (where does not matter)
        return None
