"""Reading features for a question: a short deadline, a breaker, and the moment to answer for."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import TypeVar

import msgspec

from features.definitions import DAY_S
from features.store import FeatureStore
from features.tiles import AdvertiserHistory
from tocsin.clock import Clock
from tocsin.errors import StorageUnavailableError
from tocsin.resilience.breaker import STORAGE_READS, AsyncBreaker
from tocsin.settings import Settings
from tocsin.storage.connect import SERVE_TIMEOUT_S, connect, resolve_url

LATEST_TTL_S = 5.0
T = TypeVar("T")


class FeatureReader:
    """Histories by advertiser, within a second or not at all.

    Args:
        settings: Server, namespace and the meaning of "now".
        clock: Time.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.client = connect(resolve_url(settings), timeout_s=SERVE_TIMEOUT_S)
        self.store = FeatureStore(self.client, namespace=settings.namespace)
        self.breaker = AsyncBreaker(STORAGE_READS)
        self._as_of = settings.as_of
        self._clock = clock
        self._latest: float | None = None
        self._latest_at = -math.inf

    async def histories(self, advertiser_ids: Sequence[str]) -> list[AdvertiserHistory | None]:
        """One round trip for all.

        Raises:
            StorageUnavailableError: no answer within a second, or the breaker is open.
        """
        return await self.breaker.call(lambda: _within(self.store.histories(advertiser_ids)))

    async def moment(self, asked: float | None) -> float:
        """The moment to answer for: the one asked for, else the configured one (epoch seconds).

        With `latest` it is the midnight after the newest event; while storage is down, the last one known.

        Raises:
            StorageUnavailableError: it is `latest` and was never known.
        """
        if asked is not None:
            return asked
        if self._as_of == "now":
            return self._clock.now()
        if self._as_of != "latest":
            return msgspec.convert(self._as_of, datetime).timestamp()
        if time.monotonic() - self._latest_at > LATEST_TTL_S:
            try:
                self._latest = await self.breaker.call(lambda: _within(self.store.latest()))
                self._latest_at = time.monotonic()
            except StorageUnavailableError:
                if self._latest is None:
                    raise
        newest = self._latest
        return self._clock.now() if newest is None else (newest // DAY_S + 1) * DAY_S


async def _within(work: Awaitable[T]) -> T:
    """The driver bounds each wait; this bounds them together."""
    try:
        async with asyncio.timeout(SERVE_TIMEOUT_S):
            return await work
    except TimeoutError:
        raise StorageUnavailableError(f"storage did not answer within {SERVE_TIMEOUT_S:g} s") from None
