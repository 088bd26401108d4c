"""The atomic steps of a lane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from redis import asyncio as aioredis

from tocsin.keys import DEDUP_TTL_S
from tocsin.storage.script import Script
from tocsin.wire.lanes import WIRE_VERSION

_APPEND: Final = Script(
    """
local function refresh(key)
  if touch == '1' then redis.call('PEXPIREAT', key, redis.call('PEXPIRETIME', key)) end
end
if idempotent == '1' then
  local first = redis.call('HMGET', idempotency, 'fingerprint', 'result')
  if first[2] then
    if first[1] ~= fingerprint then return {'conflict'} end
    refresh(idempotency)
    local answer = {'repeat'}
    for mark in string.gmatch(first[2], '[^,]+') do answer[#answer + 1] = mark end
    return answer
  end
end
local answer = {'stored'}
local accepted = 0
local a = blocks_at
for k = places_at, #KEYS, 2 do
  local stream, dedup_key = KEYS[k], KEYS[k + 1]
  local records, deduplicated, block = ARGV[a], ARGV[a + 1] == '1', ARGV[a + 2]
  a = a + 3
  local seen = deduplicated and redis.call('GET', dedup_key)
  if seen then
    refresh(dedup_key)
    answer[#answer + 1] = '=' .. seen
  else
    local entry = redis.call('XADD', stream, '*', 'v', version, 'b', block)
    local mark = string.match(stream, '(%d+)$') .. '-' .. entry
    if deduplicated then redis.call('SET', dedup_key, mark, 'EX', ttl_s) end
    answer[#answer + 1] = mark
    accepted = accepted + tonumber(records)
  end
end
if accepted > 0 then redis.call('HINCRBY', counts, 'accepted', accepted) end
if idempotent == '1' then
  redis.call('HSET', idempotency, 'fingerprint', fingerprint, 'result', table.concat(answer, ',', 2))
  redis.call('EXPIRE', idempotency, ttl_s)
end
return answer
""",
    keys="counts idempotency places*",
    args="idempotent fingerprint ttl_s version touch blocks*",
)


class BlockToAppend(msgspec.Struct, frozen=True):
    """One entry: where it goes, how many records it holds, its bytes; with a dedup key it holds one."""

    stream: str
    records: int
    block: bytes
    dedup_key: str = ""


async def append_blocks(
    client: aioredis.Redis,
    blocks: Sequence[BlockToAppend],
    *,
    counts: str,
    idempotency: str,
    fingerprint: str,
    wait_ms: int,
) -> tuple[list[bytes], bool]:
    """Store entries, all or none, unless this request or a record's dedup key was seen before.

    Args:
        client: The lane's server.
        blocks: What to store.
        counts: The lane's totals; `accepted` grows by the records stored.
        idempotency: The key that keeps the request's result; empty: the request has none.
        fingerprint: Digest of the request.
        wait_ms: How long to wait until it is on the server's disk; 0: not at all. With it a repeat, which stores
            nothing, sets a key's expiry to what it is: WAITAOF speaks only for what its own connection wrote, and on
            one that only read it would say yes at once.

    Returns:
        `stored`, `repeat` or `conflict`; then for each entry its position `partition-entry`, marked with a leading
        `=` where its dedup key had been seen. And whether it is on disk.

    Raises:
        RedisError: as the driver raises it.
    """
    places: list[str] = []
    arguments: list[Any] = []
    for one in blocks:
        places += (one.stream, one.dedup_key or counts)
        arguments += (one.records, 1 if one.dedup_key else 0, one.block)
    named = {
        "counts": counts,
        "idempotency": idempotency or counts,
        "places": places,
        "idempotent": 1 if idempotency else 0,
        "fingerprint": fingerprint,
        "ttl_s": DEDUP_TTL_S,
        "version": WIRE_VERSION,
        "touch": 1 if wait_ms else 0,
        "blocks": arguments,
    }
    if wait_ms:
        return await _APPEND.run_synced(client, wait_ms=wait_ms, **named)
    return await _APPEND.run(client, **named), False


_PROMOTE: Final = Script(
    """#!lua flags=allow-oom
local due = redis.call('ZRANGE', retries, '-inf', now, 'BYSCORE', 'LIMIT', 0, limit)
for _, body in ipairs(due) do
  redis.call('XADD', stream, '*', 'v', version, 'b', string.char(145) .. body)
  redis.call('ZREM', retries, body)
end
return #due
""",
    keys="retries stream",
    args="now limit version",
)


async def promote_due(client: aioredis.Redis, *, retries: str, stream: str, now: float, limit: int) -> int:
    """Move retries that are due (`now`, epoch seconds) back into the stream, one entry each, so that one of them
    failing again concerns no other. Returns how many, at most `limit`.

    Raises:
        RedisError: as the driver raises it.
    """
    moved: int = await _PROMOTE.run(
        client, retries=retries, stream=stream, now=now, limit=limit, version=WIRE_VERSION
    )
    return moved
