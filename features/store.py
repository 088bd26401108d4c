"""The feature store on Redis: one event log and one history an advertiser.

    block ──► Shard.handle: what is new or restated? ──► histories ──► settle (events, histories, ack: one step)
                                                               │
    question ──────────────────────── MGET ◄───────────────────┘

An advertiser belongs to one partition and a partition to one shard at a time, so a history has one writer. An
event that is already in the log with the same content changes nothing, so a block may be applied twice.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from redis import asyncio as aioredis
from redis import exceptions as redis_errors
from redis.asyncio.client import Pipeline

from features.tiles import AdvertiserHistory, Change, apply, decode, encode
from tocsin.consumer import Hold
from tocsin.keys import FeatureKeys, LaneKeys
from tocsin.lanes import Entry, Stage
from tocsin.quarantine import stage_quarantine
from tocsin.schemas import WIRE_VERSION, Activity, LaneName
from tocsin.storage.connect import translate

log = logging.getLogger(__name__)

SCAN_PAGE = 200
_activity = msgspec.msgpack.Decoder(Activity)
_block = msgspec.msgpack.Decoder(list[Activity])
_encode = msgspec.msgpack.Encoder().encode


class FeatureStore:
    """Reads histories and the event log.

    Args:
        client: An asyncio client.
        namespace: The prefix of all keys.
    """

    def __init__(self, client: aioredis.Redis, *, namespace: str) -> None:
        self.keys = FeatureKeys(namespace)
        self._client = client

    async def histories(self, advertiser_ids: Sequence[str]) -> list[AdvertiserHistory | None]:
        """The history of each advertiser, None for one that is not known; one round trip.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        if not advertiser_ids:
            return []
        try:
            bodies: Any = await self._client.mget(
                [self.keys.history(advertiser_id) for advertiser_id in advertiser_ids]
            )
        except (redis_errors.RedisError, OSError) as error:
            raise translate(error) from error
        return [decode(body) if body else None for body in bodies]

    async def latest(self) -> float | None:
        """The time of the newest event (epoch seconds), None for an empty store.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        try:
            newest: Any = await self._client.zrange(self.keys.advertisers, 0, 0, desc=True, withscores=True)
        except (redis_errors.RedisError, OSError) as error:
            raise translate(error) from error
        return float(newest[0][1]) if newest else None

    async def active(self, since: float, *, limit: int) -> list[str]:
        """Up to `limit` advertisers with an event at or after a moment (epoch seconds), the latest first.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        try:
            found: Any = await self._client.zrange(
                self.keys.advertisers, "+inf", since, desc=True, byscore=True, offset=0, num=limit
            )
        except (redis_errors.RedisError, OSError) as error:
            raise translate(error) from error
        return [name.decode() for name in found]

    async def advertisers(self, *, limit: int) -> list[str]:
        """Up to `limit` advertisers, the most recently active first.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        try:
            ids: Any = await self._client.zrange(self.keys.advertisers, 0, limit - 1, desc=True)
        except (redis_errors.RedisError, OSError) as error:
            raise translate(error) from error
        return [str(item, "utf-8") for item in ids]

    async def count(self) -> int:
        """How many advertisers are known.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        try:
            return int(await self._client.zcard(self.keys.advertisers))
        except (redis_errors.RedisError, OSError) as error:
            raise translate(error) from error

    async def events(self) -> AsyncIterator[list[Activity]]:
        """The whole event log, some advertisers at a time; for training.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        ids = await self.advertisers(limit=2**31)
        for start in range(0, len(ids), SCAN_PAGE):
            try:
                async with self._client.pipeline(transaction=False) as pipe:
                    for advertiser_id in ids[start : start + SCAN_PAGE]:
                        pipe.hvals(self.keys.events(advertiser_id))
                    pages: list[list[bytes]] = await pipe.execute()
            except (redis_errors.RedisError, OSError) as error:
                raise translate(error) from error
            yield [_activity.decode(body) for page in pages for body in page]


class Shard:
    """The handler of the activity lane: keeps histories up to date.

    Args:
        store: For its keys.
        client: The lane's server.
        lane_keys: The lane's keys.
    """

    def __init__(self, store: FeatureStore, client: aioredis.Redis, lane_keys: LaneKeys) -> None:
        self._keys = store.keys
        self._client = client
        self._lane_keys = lane_keys

    async def handle(self, entries: Sequence[Entry], hold: Hold | None = None) -> Stage:
        """Work out what the blocks change; what to write is settled together with their acknowledgement.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        entries = hold.begin() if hold else entries
        incoming, unreadable = _by_advertiser(entries)
        known = await self._known(incoming)
        writes: list[tuple[str, dict[Any, Any], bytes, float]] = []
        applied = repeated = 0
        for advertiser_id, activities in incoming.items():
            history, events = known[advertiser_id]
            changes, current = _changes(activities, events)
            applied += len(changes)
            repeated += len(activities) - len(changes)
            if changes:
                updated = apply(history, changes)
                fields: dict[Any, Any] = {
                    event_id: _encode(activity) for event_id, activity in current.items()
                }
                newest = max(activity.event_time for activity in current.values())
                writes.append((advertiser_id, fields, encode(updated), newest))

        def stage(pipe: Pipeline) -> None:
            for advertiser_id, fields, body, newest in writes:
                pipe.hset(self._keys.events(advertiser_id), mapping=fields)
                pipe.set(self._keys.history(advertiser_id), body)
                pipe.zadd(self._keys.advertisers, {advertiser_id: newest}, gt=True)
            for name, number in (
                ("applied", applied),
                ("repeated", repeated),
            ):
                if number:
                    pipe.hincrby(self._lane_keys.counts, name, number)
            stage_quarantine(pipe, self._lane_keys, unreadable)

        return stage

    async def _known(
        self, incoming: dict[str, list[Activity]]
    ) -> dict[str, tuple[AdvertiserHistory | None, dict[str, Activity]]]:
        """The stored history of each advertiser and those of its stored events that arrive again."""
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for advertiser_id, activities in incoming.items():
                    pipe.get(self._keys.history(advertiser_id))
                    pipe.hmget(
                        self._keys.events(advertiser_id), [activity.event_id for activity in activities]
                    )
                answers: list[Any] = await pipe.execute()
        except (redis_errors.RedisError, OSError) as error:
            raise translate(error) from error
        known: dict[str, tuple[AdvertiserHistory | None, dict[str, Activity]]] = {}
        for advertiser_id, history, bodies in zip(incoming, answers[0::2], answers[1::2], strict=True):
            stored = (_activity.decode(body) for body in bodies if body)
            known[advertiser_id] = (
                decode(history) if history else None,
                {activity.event_id: activity for activity in stored},
            )
        return known


def _by_advertiser(entries: Sequence[Entry]) -> tuple[dict[str, list[Activity]], list[Entry]]:
    incoming: dict[str, list[Activity]] = defaultdict(list)
    unreadable: list[Entry] = []
    for entry in entries:
        try:
            activities = _block.decode(entry.block) if entry.version == WIRE_VERSION else None
        except msgspec.MsgspecError:
            activities = None
        if activities is None:
            log.error("%s block %s cannot be read; set aside", LaneName.ACTIVITY, entry.entry)
            unreadable.append(entry)
            continue
        for activity in activities:
            incoming[activity.advertiser_id].append(activity)
    return incoming, unreadable


def _changes(
    activities: Sequence[Activity], events: dict[str, Activity]
) -> tuple[list[Change], dict[str, Activity]]:
    """What is new or restated, in order, and the resulting content of each changed event."""
    changes: list[Change] = []
    current: dict[str, Activity] = {}
    for activity in activities:
        before = current.get(activity.event_id) or events.get(activity.event_id)
        if before == activity:
            continue
        changes.append((before, activity))
        current[activity.event_id] = activity
    return changes, current
