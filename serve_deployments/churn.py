"""`/v1/churn`: the chance that an advertiser is about to leave.

    GET one ──► batch of whatever asks at this moment ──► one read, one call of each model ──► answers
    POST many ───────────────────────────────────────────┘

How an answer degrades, and how a new model takes over, is in `serve_deployments.serving.predictor`.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Sequence
from typing import ClassVar

import msgspec
from starlette.requests import Request

from models.registry.registry import Registry
from serve_deployments.at_risk import AtRisk
from serve_deployments.features import ADVERTISER_ID, unknown_advertiser
from serve_deployments.http.application import (
    Application,
    Endpoint,
    Parameter,
)
from serve_deployments.http.bodies import read_object
from serve_deployments.http.queries import AS_OF, path_id, query_flag, query_int, query_time
from serve_deployments.serving.loaded_models import LOOK_EVERY_S
from serve_deployments.serving.micro_batcher import MicroBatcher
from serve_deployments.serving.predictor import Predictor
from tocsin.background import repeat
from tocsin.clock import Clock, SystemClock, to_datetime, to_epoch
from tocsin.errors import NotFoundError, TocsinError
from tocsin.settings import Settings
from tocsin.wire.churn import AtRiskAnswer, ChurnAnswer, ChurnBatchAnswer, ChurnBatchRequest
from tocsin.wire.decoding import RecordDecoder
from tocsin.wire.limits import MAX_CHURN_IDS

log = logging.getLogger(__name__)

MAX_TOGETHER = 64

DRIVERS = Parameter(
    name="drivers",
    where="query",
    description="Whether to say what drives the prediction",
    schema={"type": "boolean", "default": True},
)
LIMIT = Parameter(
    name="limit",
    where="query",
    description="How many",
    schema={"type": "integer", "minimum": 1, "maximum": MAX_CHURN_IDS, "default": 20},
)


class ChurnQuestion(msgspec.Struct, frozen=True):
    """One advertiser, now."""

    advertiser_id: str
    drivers: bool


class Churn(Application):
    """Answers for one advertiser, up to a thousand, or those most at risk.

    Args:
        settings: Server, registry and the meaning of "now".
        clock: Time.
        registry: Instead of the settings' own.
    """

    endpoints: ClassVar[tuple[Endpoint, ...]] = (
        Endpoint(
            method="GET",
            path="/at-risk",
            handler="at_risk",
            bulk=True,
            summary="The active advertisers most likely to leave",
            description="Ranked over everybody active in the last 28 days, up to 10,000; up to a minute old.",
            answer=AtRiskAnswer,
            parameters=(LIMIT,),
            problems=(401, 422, 503),
        ),
        Endpoint(
            method="GET",
            path="/{advertiser_id:text}",
            handler="one",
            summary="Churn risk of one advertiser, with its drivers",
            description=(
                "Without live features it answers on those last read, else with the base rate; without a model, by "
                "days since the last campaign alone. `degraded` and `degraded_reason` say so."
            ),
            answer=ChurnAnswer,
            parameters=(ADVERTISER_ID, AS_OF, DRIVERS),
            problems=(401, 404, 422, 503),
        ),
        Endpoint(
            method="POST",
            path="/",
            handler="batch",
            summary="Churn risk of up to 1,000 advertisers",
            request=ChurnBatchRequest,
            answer=ChurnBatchAnswer,
            problems=(401, 413, 415, 422, 503),
        ),
    )

    def __init__(
        self, settings: Settings | None = None, clock: Clock | None = None, registry: Registry | None = None
    ) -> None:
        super().__init__(settings)
        clock = clock or SystemClock()
        self.predictor = Predictor(self.settings, clock, registry)
        self._ranking = AtRisk(self.predictor, clock)
        self._decoder = RecordDecoder(ChurnBatchRequest, lambda _request, _now: None)
        self._together: MicroBatcher[ChurnQuestion, ChurnAnswer | None] = MicroBatcher(
            self._answer_together, most=MAX_TOGETHER
        )

    async def warm(self) -> None:
        """Load scikit-learn and the champion before the first request, follow the registry, score in shadow."""
        await asyncio.to_thread(importlib.import_module, "skops.io")
        async with asyncio.TaskGroup() as group:
            group.create_task(repeat("following the registry", self.predictor.follow, every_s=LOOK_EVERY_S))
            group.create_task(repeat("the shadow", self.predictor.shadow.run, every_s=LOOK_EVERY_S))
            group.create_task(
                repeat("noting what is read", self.predictor.reader.flush, every_s=LOOK_EVERY_S)
            )

    async def predict_one(
        self, advertiser_id: str, asked: float | None, *, drivers: bool = True
    ) -> ChurnAnswer:
        """One prediction, for other deployments too.

        Raises:
            NotFoundError: the advertiser is not known.
            StorageUnavailableError: no features and no model.
        """
        if asked is None:
            found = await self._together.ask(ChurnQuestion(advertiser_id, drivers))
        else:
            known, _ = await self.predictor.predict([advertiser_id], asked, explain=drivers)
            found = known[0] if known else None
        if found is None and asked is not None:
            raise NotFoundError(
                f"advertiser {advertiser_id[:128]!r} has no activity before {to_datetime(asked).isoformat()}",
                hint="ask for a later as_of, or without one",
            )
        if found is None:
            raise unknown_advertiser(advertiser_id)
        return found

    async def _answer_together(
        self, questions: Sequence[ChurnQuestion]
    ) -> list[ChurnAnswer | Exception | None]:
        """Those that want drivers together, and the others together; None: not known."""
        found: dict[tuple[str, bool], ChurnAnswer | Exception | None] = {}
        for drivers in {question.drivers for question in questions}:
            names = list(dict.fromkeys([one.advertiser_id for one in questions if one.drivers is drivers]))
            try:
                known, _ = await self.predictor.predict(names, None, explain=drivers)
            except TocsinError as error:
                found |= {(name, drivers): error for name in names}
            else:
                found |= {(answer.advertiser_id, drivers): answer for answer in known}
        return [found.get((one.advertiser_id, one.drivers)) for one in questions]

    async def one(self, request: Request) -> ChurnAnswer:
        """One advertiser."""
        drivers = "drivers" not in request.query_params or query_flag(request, "drivers")
        return await self.predict_one(
            path_id(request, "advertiser_id"), query_time(request, "as_of"), drivers=drivers
        )

    async def batch(self, request: Request) -> ChurnBatchAnswer:
        """Many advertisers in one call of the model."""
        asked = await read_object(request, self._decoder)
        ids = list(dict.fromkeys(asked.advertiser_ids))
        moment = to_epoch(asked.as_of) if asked.as_of else None
        known, unknown = await self.predictor.predict(ids, moment, explain=asked.drivers)
        return ChurnBatchAnswer(
            predictions=known, unknown=unknown, degraded=any(answer.degraded for answer in known)
        )

    async def at_risk(self, request: Request) -> AtRiskAnswer:
        """Those most likely to leave."""
        return await self._ranking.answer(query_int(request, "limit", 20, least=1, most=MAX_CHURN_IDS))
