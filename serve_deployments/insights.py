"""`/v1/insights`: what one should know about one advertiser now.

    local copy (fresh) ──► shared copy in Redis ──► made now: features + churn + peers
                                                        │ something is missing
                                                        └──► a stale copy, or what is left, marked degraded

An insight is advice, so it may come from a cache for up to `TOCSIN_INSIGHT_TTL_S`; it says so, with its age.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
from redis import exceptions as redis_errors
from starlette.requests import Request

from features.online.answers import features_answer, is_known, vector_of
from features.online.result import Answer
from models.dataset.matrix import Vector
from models.recommendations.insights import build_insight
from models.recommendations.peers import PeerTable
from serve_deployments.features import ADVERTISER_ID, unknown_advertiser
from serve_deployments.http.application import Application, Endpoint
from serve_deployments.http.queries import AS_OF, path_id, query_time
from serve_deployments.serving.feature_reader import FeatureReader
from tocsin.caching import Cache, Cacheable
from tocsin.clock import Clock, SystemClock, to_datetime
from tocsin.errors import ModelUnavailableError, NotFoundError, StorageUnavailableError, TocsinError
from tocsin.keys import FeatureKeys
from tocsin.resilience.breaker import Breaker
from tocsin.resilience.policies import CHURN_CALLS
from tocsin.settings import Settings
from tocsin.storage.errors import translate, translated
from tocsin.wire.churn import ChurnAnswer
from tocsin.wire.features import FeaturesAnswer
from tocsin.wire.insights import InsightAnswer

log = logging.getLogger(__name__)

PEER_SAMPLE = 2000
REMEMBERED = 20_000
# Together below the deadline of a question, 1.3 s: a degraded answer comes before it.
CACHE_DEADLINE_S = 0.3
PARTS_DEADLINE_S = 0.9  # features and churn, asked for at the same time

AskChurn = Callable[[str, float | None], Awaitable[ChurnAnswer]]


@dataclass(frozen=True, slots=True)
class CachedInsight(Cacheable):
    """An insight and when it was made (epoch seconds)."""

    made_at: float
    answer: InsightAnswer


class Insights(Application):
    """Builds and caches insights.

    Args:
        ask_churn: The churn deployment, as a coroutine.
        settings: Server, cache time and the meaning of "now".
        clock: Time.
    """

    endpoints: ClassVar[tuple[Endpoint, ...]] = (
        Endpoint(
            method="GET",
            path="/{advertiser_id:text}",
            handler="insight",
            summary="Churn risk, spend trend and a recommendation for one advertiser",
            description="Answers even while storage or the model is down: degraded, and it says what is missing.",
            answer=InsightAnswer,
            parameters=(ADVERTISER_ID, AS_OF),
            problems=(401, 404, 422),
        ),
    )

    def __init__(
        self, ask_churn: AskChurn, settings: Settings | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(settings)
        settings = self.settings
        self._clock = clock or SystemClock()
        self._reader = FeatureReader(settings, self._clock)
        self._keys = FeatureKeys(settings.namespace)
        self._ask_churn = ask_churn
        self._churn_breaker = Breaker(CHURN_CALLS, CHURN_CALLS.name, self._clock)
        self._cache: Cache[CachedInsight] = Cache(
            ttl_s=self.settings.insight_ttl_s, max_entries=REMEMBERED, clock=self._clock, keep_stale=True
        )
        self._peers: PeerTable | None = None
        self._peers_made_at = float("-inf")
        self._making_peers: asyncio.Task[PeerTable] | None = None

    async def warm(self) -> None:
        """Write the usage that readers recorded."""
        await self._reader.flush()

    async def insight(self, request: Request) -> InsightAnswer:
        """One advertiser; a question about another moment is never answered from a cache."""
        advertiser_id = path_id(request, "advertiser_id")
        asked = query_time(request, "as_of")
        if asked is not None:
            return await self._make(advertiser_id, asked)
        cached = await self._cached(advertiser_id)
        if cached is not None:
            return cached
        made = await self._make(advertiser_id, None)
        if made.degraded:
            return self._stale(advertiser_id, made) or made
        await self._keep(advertiser_id, made)
        return made

    # ------------------------------------------------------------------ cache

    async def _cached(self, advertiser_id: str) -> InsightAnswer | None:
        local = self._cache.peek(advertiser_id)
        if local is not None:
            return self._aged(local)
        seen = self._cache.changes
        try:
            body = await self._reader.breaker.call(lambda: self._fetch(advertiser_id))
        except StorageUnavailableError:
            return None
        if body is None:
            return None
        try:
            shared = CachedInsight(*msgspec.json.decode(body, type=tuple[float, InsightAnswer]))
        except msgspec.MsgspecError:
            return None  # written by another version
        age_s = self._clock.now() - shared.made_at
        if age_s >= self.settings.insight_ttl_s:
            return None
        self._cache.put(advertiser_id, shared, age_s=age_s, seen=seen)
        return self._aged(shared)

    async def _fetch(self, advertiser_id: str) -> bytes | None:
        try:
            async with asyncio.timeout(CACHE_DEADLINE_S):
                with translated():
                    body: Any = await self._reader.client.get(self._keys.insight(advertiser_id))
        except TimeoutError:
            raise StorageUnavailableError("the shared copies do not answer") from None
        return bytes(body) if body else None

    async def _keep(self, advertiser_id: str, answer: InsightAnswer) -> None:
        made_at = self._clock.now()
        self._cache.put(advertiser_id, CachedInsight(made_at, answer))
        body = msgspec.json.encode((made_at, answer))
        try:
            await self._reader.client.set(
                self._keys.insight(advertiser_id), body, ex=max(1, int(self.settings.insight_ttl_s))
            )
        except (redis_errors.RedisError, OSError) as error:
            log.warning("an insight was not shared: %s", translate(error))

    def _aged(self, kept: CachedInsight) -> InsightAnswer:
        age_s = round(self._clock.now() - kept.made_at, 3)
        return msgspec.structs.replace(kept.answer, cached=True, age_s=age_s)

    def _stale(self, advertiser_id: str, made: InsightAnswer) -> InsightAnswer | None:
        """An old full answer says more than a new hollow one; it is marked."""
        last = self._cache.last(advertiser_id)
        if last is None:
            return None
        return msgspec.structs.replace(
            self._aged(last),
            degraded=True,
            degraded_reasons=[*made.degraded_reasons, "this is an older insight"],
        )

    # ------------------------------------------------------------------ making

    async def _make(self, advertiser_id: str, asked: float | None) -> InsightAnswer:
        reasons: list[str] = []
        features = peers = None
        as_of = self._clock.now() if asked is None else asked
        churn_task = asyncio.create_task(self._churn(advertiser_id, asked, reasons))
        try:
            async with asyncio.timeout(PARTS_DEADLINE_S):
                read = await self._reader.read([advertiser_id], asked)
                features = _features(read, advertiser_id)
                as_of = read.as_of
                peers = await self._peer_table(as_of, cached=asked is None)
        except StorageUnavailableError as error:
            reasons.append(f"features: {error.message}")
        except TimeoutError:
            missing = "features" if features is None else "peers"
            reasons.append(f"{missing}: no answer within {PARTS_DEADLINE_S:g} s")
        except BaseException:
            churn_task.cancel()
            raise
        churn = await churn_task
        return build_insight(
            advertiser_id=advertiser_id,
            as_of=to_datetime(as_of),
            features=features,
            churn=churn,
            peers=peers,
            degraded_reasons=reasons,
        )

    async def _churn(self, advertiser_id: str, asked: float | None, reasons: list[str]) -> ChurnAnswer | None:
        async def ask() -> ChurnAnswer:
            async with asyncio.timeout(PARTS_DEADLINE_S):
                return await self._ask_churn(advertiser_id, asked)

        try:
            answer = await self._churn_breaker.call(ask)
        except ModelUnavailableError as error:
            reasons.append(f"churn: {error.message}")
        except TimeoutError:
            reasons.append(f"churn: no answer within {PARTS_DEADLINE_S:g} s")
        except NotFoundError:
            reasons.append("churn: the advertiser has no activity before this moment")
        except TocsinError as error:
            reasons.append(f"churn: {error.message}")
        except Exception as error:  # the other deployment may be gone or restarting
            log.exception("the churn deployment failed")
            reasons.append(f"churn: {type(error).__name__}")
        else:
            if answer.degraded:
                reasons.append(f"churn: {answer.degraded_reason}")
            return answer
        return None

    async def _peer_table(self, as_of: float, *, cached: bool) -> PeerTable:
        """Those of now are made once for all who ask, and to the end when these have gone."""
        if not cached:
            return await self._make_peers(as_of)
        now = self._clock.monotonic()
        if self._peers is not None and now - self._peers_made_at < self.settings.insight_ttl_s:
            return self._peers
        if self._making_peers is None:
            self._making_peers = asyncio.create_task(self._make_peers(as_of))
        task = self._making_peers
        try:
            table = await asyncio.shield(task)
        finally:
            if task.done() and self._making_peers is task:
                self._making_peers = None
        if now >= self._peers_made_at:  # else one that was begun later is there already
            self._peers, self._peers_made_at = table, now
        return table

    async def _make_peers(self, as_of: float) -> PeerTable:
        ids = await self._reader.breaker.call(lambda: self._reader.store.advertisers(limit=PEER_SAMPLE))
        read = await self._reader.read(ids, as_of)
        return await asyncio.to_thread(_peers, read)


def _features(read: Answer, advertiser_id: str) -> FeaturesAnswer:
    """What was read of one advertiser.

    Raises:
        NotFoundError: it is not known, or had no activity yet.
    """
    if not is_known(read, 0):
        raise unknown_advertiser(advertiser_id)
    features = features_answer(read, 0, {})
    if features.features["days_since_last_campaign"].value is None:
        raise NotFoundError(
            f"{advertiser_id} has no activity before {to_datetime(read.as_of).isoformat()}",
            hint="ask for a later as_of",
        )
    return features


def _peers(read: Answer) -> PeerTable:
    vectors: dict[str, Vector] = {
        name: vector_of(read, place) for place, name in enumerate(read.advertiser_ids)
    }
    return PeerTable.build(vectors)
