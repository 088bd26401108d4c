"""Reading features for a question: a short deadline, a breaker, and what is left while storage is down.

    vectors in Redis ──down──► what this replica served recently ──► what the shards remember ──► nothing: an error

Whatever comes from memory is marked stale, with its age.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from features.online.as_of import AsOf
from features.online.last_served import LastServed
from features.online.reader import AsyncOnlineReader, Question
from features.online.result import MISSING, Answer, Status
from features.online.store import FeatureStore
from features.online.usage import UsageLog
from features.tiles import decode
from features.vectors import covers
from tocsin.background import repeat
from tocsin.clock import Clock
from tocsin.errors import StorageUnavailableError
from tocsin.resilience.breaker import Breaker
from tocsin.resilience.policies import STORAGE_READS
from tocsin.settings import Settings
from tocsin.storage.connect import SERVE_TIMEOUT_S, connect, resolve_url
from tocsin.storage.errors import translated
from tocsin.wire.lanes import LaneName

log = logging.getLogger(__name__)

REMEMBERED = 20_000
FLUSH_EVERY_S = 1.0
SHARD_DEADLINE_S = 1.2  # after a second of waiting for storage: together below a question's deadline
T = TypeVar("T")

Remembered = tuple[bytes | None, float | None]
AskShards = Callable[[Sequence[str]], Awaitable[list[Remembered]]]


class FeatureReader:
    """Features by advertiser, within a second or not at all.

    Args:
        settings: Server, namespace, partitions and the meaning of "now".
        clock: Time.
        ask_shards: Asks the shards what they remember: a history, encoded, and the watermark of its partition.
    """

    def __init__(self, settings: Settings, clock: Clock, ask_shards: AskShards | None = None) -> None:
        self.client = connect(resolve_url(settings), timeout_s=SERVE_TIMEOUT_S)
        self.store = FeatureStore(self.client, namespace=settings.namespace)
        self.breaker = Breaker(STORAGE_READS, STORAGE_READS.name, clock)
        self._partitions = settings.partitions(LaneName.ACTIVITY)
        self._online = AsyncOnlineReader(
            self.client, namespace=settings.namespace, partitions=self._partitions
        )
        self._usage = UsageLog(self.store.keys, partitions=self._partitions, clock=clock)
        self._as_of = AsOf(
            settings.as_of, lambda: self.breaker.call(lambda: _within(self.store.latest())), clock
        )
        self._ask_shards = ask_shards
        self._last_served = LastServed(REMEMBERED)

    async def moment(self, asked: float | None) -> float:
        """The moment to answer for: the one asked for, else the configured one (epoch seconds).

        Raises:
            StorageUnavailableError: it is `latest` and was never known.
        """
        return await self._as_of.now() if asked is None else asked

    async def read(self, advertiser_ids: Sequence[str], asked: float | None = None) -> Answer:
        """All features of each advertiser, as they are in storage.

        Raises:
            StorageUnavailableError: no answer within a second, or the breaker is open.
        """
        as_of = await self.moment(asked)
        answer = await self.breaker.call(lambda: _within(self._read(advertiser_ids, as_of)))
        if asked is None:
            self._usage.record(answer)
            self._last_served.keep(answer)
        return answer

    async def recall(self, advertiser_ids: Sequence[str], asked: float | None) -> Answer:
        """The same from memory, for when storage is down; everything known is marked stale.

        Raises:
            StorageUnavailableError: nothing is remembered of any of them.
        """
        as_of = await self.moment(asked)
        question = Question(self.store.keys, advertiser_ids, partitions=self._partitions, as_of=as_of)
        question.take([None] * len(question.keys()))
        answer = question.finish()
        found: set[str] = set()
        rest: list[str] = []
        for place, name in enumerate(advertiser_ids):
            kept = self._last_served.find(name, as_of) if asked is None else None
            if kept is None:
                rest.append(name)
                continue
            found.add(name)
            answer.override(place, kept)
        found |= await self._from_shards(question, answer, rest)
        if not found:
            raise StorageUnavailableError("storage does not answer, and nothing is remembered of these")
        for place, name in enumerate(advertiser_ids):
            if name not in found:  # whether it is known cannot be determined now
                answer.override(place, MISSING)
        return answer

    async def flush(self) -> None:
        """Write the recorded usage repeatedly, until cancelled."""
        await repeat(
            "recording usage",
            lambda: self._usage.flush(self.client),
            every_s=FLUSH_EVERY_S,
            level=logging.DEBUG,
            wait_first=True,
        )

    async def _read(self, advertiser_ids: Sequence[str], as_of: float) -> Answer:
        with translated():
            return await self._online.read(advertiser_ids, as_of)

    async def _from_shards(self, question: Question, answer: Answer, names: Sequence[str]) -> set[str]:
        if self._ask_shards is None or not names:
            return set()
        try:
            async with asyncio.timeout(SHARD_DEADLINE_S):
                remembered = await self._ask_shards(names)
        except Exception:  # they may be gone, too
            log.exception("the shards could not be asked")
            return set()
        found: set[str] = set()
        places = {name: place for place, name in enumerate(answer.advertiser_ids)}
        for name, (body, mark) in zip(names, remembered, strict=True):
            history = decode(body) if body else None
            if history is None or not covers(history, answer.as_of):
                continue
            place = places[name]
            question.answer(place, history)
            age_s = None if mark is None else max(0.0, answer.as_of - mark)
            reads = answer.reads(place)
            answer.override(
                place, [msgspec.structs.replace(read, status=Status.STALE, age_s=age_s) for read in reads]
            )
            found.add(name)
        return found


async def _within(work: Awaitable[T]) -> T:
    """The driver bounds each wait; this bounds them together."""
    try:
        async with asyncio.timeout(SERVE_TIMEOUT_S):
            return await work
    except TimeoutError:
        raise StorageUnavailableError(f"storage did not answer within {SERVE_TIMEOUT_S:g} s") from None
