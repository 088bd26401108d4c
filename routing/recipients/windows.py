"""How many notifications each recipient had within the last hour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec
from redis import asyncio as aioredis

from tocsin.keys import RecipientKeys
from tocsin.storage.errors import translated
from tocsin.storage.script import Script

WINDOW_S = 3600


class WindowRequest(msgspec.Struct, frozen=True):
    """Notifications for one recipient, whose window may hold `limit`."""

    recipient_id: str
    limit: int
    ids: Sequence[str]


class Windows(Protocol):
    """Counts what was admitted for each recipient in the last hour."""

    async def admit(self, lane: str, requests: Sequence[WindowRequest], now: float) -> set[str]:
        """The ids admitted, in order while there is room; one admitted before is again, and counts once."""
        ...


_LET_IN: Final = Script(
    """
local answer = {}
local a = wishes_at
for k = windows_at, #KEYS do
  local window, limit, last = KEYS[k], ARGV[a], a + 1 + ARGV[a + 1]
  redis.call('ZREMRANGEBYSCORE', window, '-inf', since)
  local room = tonumber(limit) - redis.call('ZCARD', window)
  for i = a + 2, last do
    local let_in = redis.call('ZSCORE', window, ARGV[i])
    if not let_in and room > 0 then
      let_in = redis.call('ZADD', window, now, ARGV[i])
      redis.call('EXPIRE', window, length_s)
      room = room - 1
    end
    answer[#answer + 1] = let_in and 1 or 0
  end
  a = last + 1
end
return answer
""",
    keys="windows*",
    args="now since length_s wishes*",
)


async def admit(
    client: aioredis.Redis, requests: Sequence[tuple[str, WindowRequest]], *, now: float
) -> set[str]:
    """Admit what there is room for, in order; an id that is in already is admitted again and takes no room, so that a
    block handled twice counts once.

    Args:
        client: The server.
        requests: The key of each window, a sorted set of ids by time, with its request.
        now: Epoch seconds.

    Returns:
        The ids admitted.

    Raises:
        RedisError: as the driver raises it.
    """
    arguments: list[Any] = []
    for _, request in requests:
        arguments += (request.limit, len(request.ids), *request.ids)
    answer = await _LET_IN.run(
        client,
        windows=[window for window, _ in requests],
        now=now,
        since=now - WINDOW_S,
        length_s=WINDOW_S,
        wishes=arguments,
    )
    ids = (one for _, request in requests for one in request.ids)
    return {one for one, is_in in zip(ids, answer, strict=True) if is_in}


class RedisWindows:
    """Windows on Redis: the ids admitted, by time, in a sorted set that ends an hour after the last.

    Args:
        client: An asyncio client.
        namespace: The prefix of all keys.
    """

    def __init__(self, client: aioredis.Redis, *, namespace: str) -> None:
        self.keys = RecipientKeys(namespace)
        self._client = client

    async def admit(self, lane: str, requests: Sequence[WindowRequest], now: float) -> set[str]:
        """The ids admitted, in order while there is room; one round trip.

        Raises:
            StorageUnavailableError: the server did not confirm; trying again counts nothing twice.
        """
        with translated():
            return await admit(
                self._client,
                [(self.keys.window(lane, request.recipient_id), request) for request in requests],
                now=now,
            )
