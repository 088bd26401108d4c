"""Observations of all replicas, gathered in Redis: counts that add up, and predictions that wait for their labels.

    replica ──put──► observed:{trial}:{epoch}, a field each ──read, added up──► guard
            ──wait_for──► awaited:{trial} ──due──► was there activity since? ──► labels:{trial} ──read──► guard

A replica writes all its counts again each time, so a write that is repeated, or whose answer was lost, counts once. An
advertiser has one label in a trial, that of its first prediction: those of later ones would be nearly the same.

Everything is bounded and ends by itself. Lost observations cost a rollout time and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from redis import asyncio as aioredis

from models.rollout.observations import Observations
from tocsin.keys import FeatureKeys, RolloutKeys
from tocsin.storage.errors import translated

VERDICT_TTL_S = 60
OBSERVED_TTL_S = 2 * 86_400
LABELS_TTL_S = 60 * 86_400
MAX_AWAITED = 20_000
DUE_AT_ONCE = 500


class Prediction(msgspec.Struct, frozen=True, array_like=True):
    """Two probabilities for one advertiser as of a moment (epoch seconds)."""

    advertiser_id: str
    as_of: float
    judged: float
    reference: float


_encode = msgspec.msgpack.Encoder().encode
_prediction = msgspec.msgpack.Decoder(Prediction)
_counts = msgspec.msgpack.Decoder(dict[str, int])


class ObservationStore:
    """The observations of one platform.

    Args:
        client: The main server.
        namespace: The prefix of all keys.
    """

    def __init__(self, client: aioredis.Redis, *, namespace: str) -> None:
        self._client = client
        self._keys = RolloutKeys(namespace)
        self._advertisers = FeatureKeys(namespace).advertisers

    async def put(self, trial: str, epoch: int, replica: str, counts: Mapping[str, int]) -> None:
        """All counts of one replica since the epoch began.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        key = self._keys.observed(trial, epoch)
        with translated():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.hset(key, replica, _encode(counts))
                pipe.expire(key, OBSERVED_TTL_S)
                await pipe.execute()

    async def say(self, trial: str, verdict: str) -> None:
        """What the guard says of a trial, for people: kept for a minute.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        with translated():
            await self._client.set(self._keys.verdict(trial), verdict, ex=VERDICT_TTL_S)

    async def said(self, trial: str) -> str:
        """What the guard said last; empty: nothing for a minute.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        client: Any = self._client  # the driver's answers are untyped
        with translated():
            found: bytes | None = await client.get(self._keys.verdict(trial))
        return found.decode() if found else ""

    async def read(self, trial: str, epoch: int) -> tuple[dict[str, int], dict[str, int]]:
        """Counts of an epoch over all replicas, and of all labels of the trial.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        with translated():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.hvals(self._keys.observed(trial, epoch))
                pipe.hgetall(self._keys.labels(trial))
                bodies, labels = await pipe.execute()
        counts: Counter[str] = Counter()
        for body in bodies:
            counts.update(_counts.decode(body))
        return dict(counts), {name.decode(): int(number) for name, number in labels.items()}

    async def wait_for(self, trial: str, predictions: Sequence[Prediction], horizon_s: float) -> None:
        """Keep the first prediction for each advertiser until its label is due; beyond 20,000 no more are taken.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        awaited, predicted = self._keys.awaited(trial), self._keys.predicted(trial)
        client: Any = self._client  # the driver's answers are untyped
        with translated():
            taken = predictions[: max(0, MAX_AWAITED - await client.zcard(awaited))]
            if not taken:
                return
            async with client.pipeline(transaction=True) as pipe:
                for one in taken:
                    pipe.zadd(awaited, {one.advertiser_id: one.as_of + horizon_s}, nx=True)
                pipe.expire(awaited, LABELS_TTL_S)
                added = (await pipe.execute())[:-1]
            first = {one.advertiser_id: _encode(one) for one, new in zip(taken, added, strict=True) if new}
            if first:
                async with client.pipeline(transaction=True) as pipe:
                    pipe.hset(predicted, mapping=first)
                    pipe.expire(predicted, LABELS_TTL_S)
                    await pipe.execute()

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
        awaited, predicted = self._keys.awaited(trial), self._keys.predicted(trial)
        with translated():
            due: list[bytes] = await client.zrange(
                awaited, "(0", now, byscore=True, offset=0, num=DUE_AT_ONCE
            )
            if not due:
                return 0
            bodies: list[bytes | None] = await client.hmget(predicted, due)
            newest: list[float | None] = await client.zmscore(self._advertisers, due)
            async with client.pipeline(transaction=True) as pipe:
                for name in due:
                    pipe.zadd(awaited, {name: 0.0}, xx=True, ch=True)
                claimed: list[int] = await pipe.execute()  # of two guards only one finds it changed
            seen = Observations()
            for body, last, mine in zip(bodies, newest, claimed, strict=True):
                if body is not None and last is not None and mine:
                    one = _prediction.decode(body)
                    seen.label(one.judged, one.reference, churned=last < one.as_of)
            async with client.pipeline(transaction=True) as pipe:
                pipe.hdel(predicted, *due)
                for field, number in seen.counts().items():
                    pipe.hincrby(self._keys.labels(trial), field, number)
                pipe.expire(self._keys.labels(trial), LABELS_TTL_S)
                await pipe.execute()
        return len(due)
