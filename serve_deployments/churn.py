"""`/v1/churn`: the chance that an advertiser is about to leave.

The answer degrades step by step and says so:

    model on live features ──► last known prediction ──► base rate of the training data
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import ClassVar

import msgspec
from starlette.requests import Request

from features.vectors import compute
from models.churn import ChurnModel
from models.matrix import Vector
from models.registry import Registry
from serve_deployments.features import unknown_advertiser
from serve_deployments.http import AS_OF, Application, Endpoint, RejectedBatchError, query_time, read_body
from serve_deployments.reading import FeatureReader
from tocsin.clock import Clock, SystemClock, to_datetime, to_epoch
from tocsin.decoding import RecordDecoder
from tocsin.errors import ModelUnavailableError, NotFoundError, StorageUnavailableError
from tocsin.schemas import ChurnAnswer, ChurnBatchAnswer, ChurnBatchRequest
from tocsin.settings import Settings

log = logging.getLogger(__name__)

CHAMPION_POLL_S = 2.0
REMEMBERED = 50_000
INLINE_ROWS = 16


class ChurnService:
    """Predictions with their ladder; knows no HTTP.

    Args:
        settings: Server, registry and the meaning of "now".
        clock: Time.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.reader = FeatureReader(settings, clock)
        self._clock = clock
        self._registry = Registry(settings.models_location)
        self._model: ChurnModel | None = None
        self._looked_at = float("-inf")
        self._loading = asyncio.Lock()
        self._last_known: OrderedDict[str, ChurnAnswer] = OrderedDict()

    async def model(self) -> ChurnModel:
        """The champion; a newly promoted one is picked up within two seconds.

        Raises:
            ModelUnavailableError: there is none, and none was loaded before.
        """
        if self._model is not None and self._clock.monotonic() - self._looked_at < CHAMPION_POLL_S:
            return self._model
        async with self._loading:
            champion = await asyncio.to_thread(self._registry.champion)
            if self._model is None or (champion and champion != self._model.version):
                try:
                    self._model = await asyncio.to_thread(self._registry.load)
                    log.info("churn model %s loaded", self._model.version)
                except ModelUnavailableError:
                    if self._model is None:
                        raise
                    log.exception("the new champion cannot be loaded; %s stays", self._model.version)
            self._looked_at = self._clock.monotonic()
        return self._model

    async def predict(
        self, advertiser_ids: Sequence[str], asked: float | None, *, explain: bool = True
    ) -> tuple[list[ChurnAnswer], list[str]]:
        """Predictions in the order asked, and the ids that are not known.

        Raises:
            ModelUnavailableError: no model was ever trained.
        """
        model = await self.model()
        try:
            as_of = await self.reader.moment(asked)
            histories = await self.reader.histories(advertiser_ids)
        except StorageUnavailableError as error:
            return [
                self._degraded(model, advertiser_id, error.message) for advertiser_id in advertiser_ids
            ], []
        vectors: dict[str, Vector] = {}
        for advertiser_id, history in zip(advertiser_ids, histories, strict=True):
            try:
                if history is not None:
                    vectors[advertiser_id] = compute(history, as_of)
            except NotFoundError:
                continue
        work = partial(
            model.answers, list(vectors), list(vectors.values()), to_datetime(as_of), explain=explain
        )
        # A large batch takes the model long enough to keep other requests waiting.
        answers = work() if len(vectors) <= INLINE_ROWS else await asyncio.to_thread(work)
        by_id = {answer.advertiser_id: answer for answer in answers}
        if asked is None:
            self._remember(answers)
        known = [by_id[advertiser_id] for advertiser_id in advertiser_ids if advertiser_id in by_id]
        return known, [advertiser_id for advertiser_id in advertiser_ids if advertiser_id not in by_id]

    def _remember(self, answers: Sequence[ChurnAnswer]) -> None:
        for answer in answers:
            self._last_known[answer.advertiser_id] = answer
            self._last_known.move_to_end(answer.advertiser_id)
        while len(self._last_known) > REMEMBERED:
            self._last_known.popitem(last=False)

    def _degraded(self, model: ChurnModel, advertiser_id: str, why: str) -> ChurnAnswer:
        last = self._last_known.get(advertiser_id)
        if last is None:
            return model.base_rate_answer(
                advertiser_id, to_datetime(self._clock.now()), f"no live features: {why}"
            )
        return msgspec.structs.replace(
            last, method="last_known", degraded=True, degraded_reason=f"no live features: {why}"
        )


class Churn(Application):
    """Answers for one advertiser or up to a thousand."""

    endpoints: ClassVar[tuple[Endpoint, ...]] = (
        Endpoint(
            method="GET",
            path="/{advertiser_id:path}",
            handler="one",
            summary="Churn risk of one advertiser, with its drivers",
            description="Degrades to the last known prediction, then to the base rate, and says so.",
            answer=ChurnAnswer,
            parameters=(AS_OF,),
            problems=(401, 404, 422, 503),
        ),
        Endpoint(
            method="POST",
            path="/",
            handler="batch",
            summary="Churn risk of up to 1,000 advertisers",
            request=ChurnBatchRequest,
            answer=ChurnBatchAnswer,
            problems=(401, 413, 422, 503),
        ),
    )

    def __init__(self, settings: Settings | None = None, clock: Clock | None = None) -> None:
        super().__init__(settings)
        settings = self.settings
        self.service = ChurnService(settings, clock or SystemClock())
        self._decoder = RecordDecoder(ChurnBatchRequest, lambda _request, _now: None)

    async def warm(self) -> None:
        """Have scikit-learn and the champion loaded before anybody asks, and each new champion too."""
        await asyncio.to_thread(importlib.import_module, "skops.io")
        while True:
            with suppress(ModelUnavailableError):
                await self.service.model()
            await asyncio.sleep(CHAMPION_POLL_S)

    async def predict_one(self, advertiser_id: str, asked: float | None) -> ChurnAnswer:
        """One prediction, for other deployments too.

        Raises:
            NotFoundError: the advertiser is not known.
            ModelUnavailableError: no model was ever trained.
        """
        known, _ = await self.service.predict([advertiser_id], asked)
        if not known:
            raise unknown_advertiser(advertiser_id)
        return known[0]

    async def one(self, request: Request) -> ChurnAnswer:
        """One advertiser."""
        return await self.predict_one(request.path_params["advertiser_id"], query_time(request, "as_of"))

    async def batch(self, request: Request) -> ChurnBatchAnswer:
        """Many advertisers in one call of the model."""
        decoded = self._decoder.decode(await read_body(request), ndjson=False, now=0.0)
        if decoded.errors:
            raise RejectedBatchError(decoded.errors, 1, atomic=False)
        asked = decoded.records[0][1]
        ids = list(dict.fromkeys(asked.advertiser_ids))
        known, unknown = await self.service.predict(ids, to_epoch(asked.as_of) if asked.as_of else None)
        return ChurnBatchAnswer(
            predictions=known, unknown=unknown, degraded=any(answer.degraded for answer in known)
        )
