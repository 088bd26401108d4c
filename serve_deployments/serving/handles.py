"""Deployment handles as plain coroutines, so that an application does not know how it reaches another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.util import list_named_actors

from tocsin.actor_names import NAMESPACE, kind_of
from tocsin.wire.churn import ChurnAnswer
from tocsin.wire.lanes import LaneName


class ChurnHandle:
    """The churn application of this cluster; found on the first question."""

    def __init__(self) -> None:
        self._handle: Any = None

    async def __call__(self, advertiser_id: str, asked: float | None) -> ChurnAnswer:
        """One prediction.

        Raises:
            TocsinError: as `Churn.predict_one` raises it.
        """
        if self._handle is None:
            self._handle = serve.get_app_handle("churn")
        try:
            answer: ChurnAnswer = await self._handle.predict_one.remote(advertiser_id, asked)
        except RayTaskError as error:
            raise getattr(error, "cause", None) or error from None  # what the replica raised, unwrapped
        return answer


class ShardHandles:
    """The feature shards of this cluster, asked for what they remember. Not for the hot path: a call takes 2 ms."""

    async def __call__(self, advertiser_ids: Sequence[str]) -> list[tuple[bytes | None, float | None]]:
        """The last known history of each advertiser, encoded, with the watermark of its partition.

        Raises:
            RayError: the cluster does not answer. A single shard that does not is passed over.
        """
        listing: Any = list_named_actors  # untyped upstream
        found = await asyncio.to_thread(listing, all_namespaces=True)
        names = [
            item["name"]
            for item in found
            if item["namespace"] == NAMESPACE
            and item["name"].rpartition("-")[0] == kind_of(LaneName.ACTIVITY)
        ]
        asked = [
            ray.get_actor(name, namespace=NAMESPACE).remembered.remote(list(advertiser_ids)) for name in names
        ]
        best: list[tuple[bytes | None, float | None]] = [(None, None)] * len(advertiser_ids)
        answers: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, RayError):
                continue
            if isinstance(answer, BaseException):
                raise answer
            for place, (body, mark) in enumerate(answer):
                if body is not None and (mark or 0.0) >= (best[place][1] or 0.0):
                    best[place] = (body, mark)
        return best
