"""Watermarks: the moment up to which everything accepted for a partition is applied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis import asyncio as aioredis

from tocsin.storage.script import Script

_WATERMARK: Final = Script(
    """#!lua flags=allow-oom
local time = redis.call('TIME')
local marks = {}
for k = pairs_at, #KEYS, 2 do
  local watermark, stream = KEYS[k], KEYS[k + 1]
  local mark = time[1] .. string.format('.%06d', tonumber(time[2]))
  local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if oldest then
    local ms = string.match(oldest[1], '^%d+')
    if tonumber(ms) / 1000 < tonumber(mark) then mark = string.format('%.3f', tonumber(ms) / 1000) end
  end
  redis.call('SET', watermark, mark)
  marks[#marks + 1] = mark
end
return marks
""",
    keys="pairs*",
)


async def write_watermarks(client: aioredis.Redis, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Write the watermark of each partition. Returns them (epoch seconds).

    A stream holds what is not settled, so everything accepted before its oldest entry is applied, and everything up
    to now where it is empty. That holds for any caller.

    Args:
        client: The server.
        pairs: The watermark's key and the stream of each partition.

    Raises:
        RedisError: as the driver raises it.
    """
    watermarks: Any = await _WATERMARK.run(client, pairs=[key for pair in pairs for key in pair])
    return [float(mark) for mark in watermarks]
