"""How much a recipient was told within the last hour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec
from redis import asyncio as aioredis

from tocsin.keys import RecipientKeys
from tocsin.storage.errors import translated
from tocsin.storage.script import Script

WINDOW_S = 3600


class Wish(msgspec.Struct, frozen=True):
    """Notifications that want into one recipient's window, which may hold `limit`."""

    recipient_id: str
    limit: int
    ids: Sequence[str]


class Windows(Protocol):
    """Counts what was let through to each recipient in the last hour."""

    async def let_in(self, lane: str, wishes: Sequence[Wish], now: float) -> set[str]:
        """The ids let through, in order while there is room; one let through before is again, and counts once."""
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


async def let_in(client: aioredis.Redis, wishes: Sequence[tuple[str, Wish]], *, now: float) -> set[str]:
    """Let in what there is room for, in order; an id that is in already is let in again and takes no room, so that a
    block handled twice counts once.

    Args:
        client: The server.
        wishes: The key of each window, a sorted set of ids by time, with what wants in.
        now: Epoch seconds.

    Returns:
        The ids let in.

    Raises:
        RedisError: as the driver raises it.
    """
    arguments: list[Any] = []
    for _, wish in wishes:
        arguments += (wish.limit, len(wish.ids), *wish.ids)
    answer = await _LET_IN.run(
        client,
        windows=[window for window, _ in wishes],
        now=now,
        since=now - WINDOW_S,
        length_s=WINDOW_S,
        wishes=arguments,
    )
    ids = (one for _, wish in wishes for one in wish.ids)
    return {one for one, is_in in zip(ids, answer, strict=True) if is_in}


class RedisWindows:
    """Windows on Redis: the ids let through, by time, in a sorted set that ends an hour after the last.

    Args:
        client: An asyncio client.
        namespace: The prefix of all keys.
    """

    def __init__(self, client: aioredis.Redis, *, namespace: str) -> None:
        self.keys = RecipientKeys(namespace)
        self._client = client

    async def let_in(self, lane: str, wishes: Sequence[Wish], now: float) -> set[str]:
        """The ids let through, in order while there is room; one round trip.

        Raises:
            StorageUnavailableError: the server did not confirm; trying again counts nothing twice.
        """
        with translated():
            return await let_in(
                self._client,
                [(self.keys.window(lane, wish.recipient_id), wish) for wish in wishes],
                now=now,
            )
