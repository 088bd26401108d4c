"""The feature store's state on Redis, for its readers.

    block ──► Shard (features.shard.shard): events, tiles and packed vectors, in one step with the acknowledgement
                         │
    question ── MGET vectors and watermarks (features.online.reader) ──► the rest is computed from tiles and events

An advertiser belongs to one partition of the activity lane, so its state has one writer at a time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec
from redis import asyncio as aioredis

from features.newest import MIN_ADVERTISERS, STRAY_GAP_S, STRAY_SHARE, NewestEvents
from features.tiles import History, decode, fold
from tocsin.errors import InvalidRecordError
from tocsin.keys import FeatureKeys
from tocsin.storage.errors import translated
from tocsin.storage.script import Script
from tocsin.wire.activity import Activity

SCAN_PAGE = 200

# `features.newest.newest_events` over the newest event of each advertiser: five looks into a sorted set of any size.
_NEWEST: Final = Script(
    """#!lua flags=no-writes
local function score(found) return found[2] end
local count = redis.call('ZCARD', advertisers)
if count == 0 then return {} end
local newest = score(redis.call('ZREVRANGE', advertisers, 0, 0, 'WITHSCORES'))
if count < tonumber(least) then return {newest, 'inf', newest, 0} end
local rank = math.max(1, math.floor(count * tonumber(share)))
local reached = score(redis.call('ZREVRANGE', advertisers, rank, rank, 'WITHSCORES'))
local bound = string.format('%.17g', tonumber(reached) + tonumber(gap_s))
local counted = score(redis.call('ZREVRANGEBYSCORE', advertisers, bound, '-inf', 'WITHSCORES', 'LIMIT', 0, 1))
return {counted, bound, newest, redis.call('ZCOUNT', advertisers, '(' .. bound, '+inf')}
""",
    keys="advertisers",
    args="least share gap_s",
)

decode_activity: Final = msgspec.msgpack.Decoder(Activity).decode


def read_history(body: bytes | None) -> tuple[History | None, bool]:
    """A history from its bytes, and whether it must be folded from the events: another version of the platform wrote
    the bytes.
    """
    if not body:
        return None, False
    try:
        return decode(body), False
    except InvalidRecordError:
        return None, True


class FeatureStore:
    """Reads histories and the event log.

    Args:
        client: An asyncio client.
        namespace: The prefix of all keys.
    """

    def __init__(self, client: aioredis.Redis, *, namespace: str) -> None:
        self.keys = FeatureKeys(namespace)
        self._client = client

    async def histories(self, advertiser_ids: Sequence[str]) -> list[History | None]:
        """The history of each advertiser, None for one without events; usually one round trip.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        if not advertiser_ids:
            return []
        with translated():
            bodies: Any = await self._client.mget([self.keys.history(name) for name in advertiser_ids])
        found = [read_history(body) for body in bodies]
        old = [name for name, (_, refold) in zip(advertiser_ids, found, strict=True) if refold]
        logs = dict(zip(old, await self.events_of(old), strict=True))
        return [
            fold(name, logs[name]) if refold else history
            for name, (history, refold) in zip(advertiser_ids, found, strict=True)
        ]

    async def events_of(self, advertiser_ids: Sequence[str]) -> list[list[Activity]]:
        """All events of each advertiser, each once, in no order; one round trip.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        if not advertiser_ids:
            return []
        with translated():
            async with self._client.pipeline(transaction=False) as pipe:
                for name in advertiser_ids:
                    pipe.hvals(self.keys.events(name))
                pages: list[list[bytes]] = await pipe.execute()
        return [[decode_activity(body) for body in page] for page in pages]

    async def latest(self) -> float | None:
        """The time of the newest event that counts (`features.newest`), epoch seconds; None for an empty store.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        found = await self.newest()
        return found.moment if found else None

    async def newest(self) -> NewestEvents | None:
        """Where the stored data ends, over all partitions; None for an empty store. One round trip.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        with translated():
            found: Any = await _NEWEST.run(
                self._client,
                advertisers=self.keys.advertisers,
                least=MIN_ADVERTISERS,
                share=STRAY_SHARE,
                gap_s=STRAY_GAP_S,
            )
        if not found:
            return None
        moment, bound, newest, ahead = found
        return NewestEvents(moment=float(moment), bound=float(bound), newest=float(newest), ahead=int(ahead))

    async def active(self, since: float, *, limit: int) -> list[str]:
        """Up to `limit` advertisers with an event at or after a moment (epoch seconds), the latest first.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        with translated():
            found: Any = await self._client.zrange(
                self.keys.advertisers, "+inf", since, desc=True, byscore=True, offset=0, num=limit
            )
        return [name.decode() for name in found]

    async def advertisers(self, *, limit: int) -> list[str]:
        """Up to `limit` advertisers, the most recently active first.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        with translated():
            ids: Any = await self._client.zrange(self.keys.advertisers, 0, limit - 1, desc=True)
        return [str(item, "utf-8") for item in ids]

    async def count(self) -> int:
        """The number of advertisers with an event.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        with translated():
            return int(await self._client.zcard(self.keys.advertisers))

    async def events(self) -> AsyncIterator[list[Activity]]:
        """The whole event log, some advertisers at a time; for training.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        ids = await self.advertisers(limit=2**31)
        for start in range(0, len(ids), SCAN_PAGE):
            for page in await self.events_of(ids[start : start + SCAN_PAGE]):
                yield page
