"""Observations of all replicas, gathered in Redis: counts that add up, and predictions that wait for their labels.

    replica ──add──► observed:{trial}:{epoch} ──read──► guard
            ──wait_for──► awaited:{trial} ──due──► was there activity since? ──► labels:{trial} ──read──► guard

Everything is bounded and ends by itself. Lost observations cost a rollout time and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from redis import asyncio as aioredis
from redis import exceptions as redis_errors

from models.observations import Observations
from tocsin.keys import FeatureKeys, RolloutKeys
from tocsin.storage.connect import translate

OBSERVED_TTL_S = 2 * 86_400
LABELS_TTL_S = 60 * 86_400
MOST_AWAITED = 20_000
DUE_AT_ONCE = 500


class Prediction(msgspec.Struct, frozen=True, array_like=True):
    """Two probabilities for one advertiser as of a moment (epoch seconds)."""

    advertiser_id: str
    as_of: float
    judged: float
    reference: float


_encode = msgspec.msgpack.Encoder().encode
_prediction = msgspec.msgpack.Decoder(Prediction)


class Observed:
    """The observations of one platform.

    Args:
        client: The main server.
        namespace: The prefix of all keys.
    """

    def __init__(self, client: aioredis.Redis, *, namespace: str) -> None:
        self._client = client
        self._keys = RolloutKeys(namespace)
        self._advertisers = FeatureKeys(namespace).advertisers

    async def add(self, trial: str, epoch: int, counts: Mapping[str, int]) -> None:
        """Add counts.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        await self._add(self._keys.observed(trial, epoch), counts, OBSERVED_TTL_S)

    async def read(self, trial: str, epoch: int) -> tuple[dict[str, int], dict[str, int]]:
        """Counts of an epoch, and of all labels of the trial.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.hgetall(self._keys.observed(trial, epoch))
                pipe.hgetall(self._keys.labels(trial))
                found: list[dict[bytes, bytes]] = await pipe.execute()
        except (redis_errors.RedisError, OSError) as error:
            raise translate(error) from error
        counts, labels = ({name.decode(): int(number) for name, number in one.items()} for one in found)
        return counts, labels

    async def wait_for(self, trial: str, predictions: Sequence[Prediction], horizon_s: float) -> None:
        """Keep predictions until their labels are due; beyond 20,000 the latest are left out.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        key = self._keys.awaited(trial)
        try:
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.zadd(key, {_encode(one): one.as_of + horizon_s for one in predictions})
                pipe.zremrangebyrank(key, MOST_AWAITED, -1)
                pipe.expire(key, LABELS_TTL_S)
                await pipe.execute()
        except (redis_errors.RedisError, OSError) as error:
            raise translate(error) from error

    async def mature(self, trial: str, now: float) -> int:
        """Turn predictions that are due into labels: churned is who did nothing since. Returns how many.

        An advertiser that came back only after the horizon, and before this is called, counts as one that stayed; so
        it has to be called often.

        Args:
            trial: Whose.
            now: The "now" of features, epoch seconds.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        client: Any = self._client  # the driver's answers are untyped
        key = self._keys.awaited(trial)
        try:
            due: list[bytes] = await client.zrange(key, "-inf", now, byscore=True, offset=0, num=DUE_AT_ONCE)
            if not due:
                return 0
            predictions = [_prediction.decode(body) for body in due]
            newest: list[float | None] = await client.zmscore(
                self._advertisers, [one.advertiser_id for one in predictions]
            )
            seen = Observations()
            for one, last in zip(predictions, newest, strict=True):
                if last is not None:
                    seen.label(one.judged, one.reference, churned=last < one.as_of)
            async with client.pipeline(transaction=True) as pipe:
                pipe.zrem(key, *due)
                for name, number in seen.take().items():
                    pipe.hincrby(self._keys.labels(trial), name, number)
                pipe.expire(self._keys.labels(trial), LABELS_TTL_S)
                await pipe.execute()
        except (redis_errors.RedisError, OSError) as error:
            raise translate(error) from error
        return len(due)

    async def _add(self, key: str, counts: Mapping[str, int], ttl_s: int) -> None:
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for name, number in counts.items():
                    pipe.hincrby(key, name, number)
                pipe.expire(key, ttl_s)
                await pipe.execute()
        except (redis_errors.RedisError, OSError) as error:
            raise translate(error) from error
