"""`/v1/features`: the features of advertisers, each with event time, age and status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from starlette.requests import Request

from features.definitions import REQUESTED
from features.online.answers import check_names, features_answer, features_batch_answer, is_known
from features.online.result import Answer
from serve_deployments.http.application import (
    Application,
    Endpoint,
    Parameter,
)
from serve_deployments.http.bodies import read_object
from serve_deployments.http.queries import AS_OF, id_parameter, path_id, query_time
from serve_deployments.serving.feature_reader import AskShards, FeatureReader
from tocsin.clock import Clock, SystemClock, to_epoch
from tocsin.errors import InvalidRecordError, NotFoundError, StorageUnavailableError
from tocsin.settings import Settings
from tocsin.wire.decoding import RecordDecoder
from tocsin.wire.features import FeaturesAnswer, FeaturesBatchAnswer, FeaturesRequest
from tocsin.wire.limits import MAX_AMOUNT

ADVERTISER_ID = id_parameter("advertiser_id", "An advertiser, as its activity names it")
UNKNOWN_HINT = "import its activity with `tocsin import activity FILE` or POST /v1/activity"

VALUES = tuple(
    Parameter(
        name=name,
        where="query",
        description="A value of the question, for on-demand features",
        schema={"type": "number", "minimum": 0, "maximum": MAX_AMOUNT},
    )
    for name in REQUESTED
)


def unknown_advertiser(advertiser_id: str) -> NotFoundError:
    """The answer for an advertiser without any activity."""
    return NotFoundError(f"advertiser {advertiser_id[:128]!r} is not known", hint=UNKNOWN_HINT)


class Features(Application):
    """Answers with values, event times, ages and statuses; a value is never older than it says.

    Args:
        ask_shards: Asks the shards what they remember, for when storage is down.
        settings: Server, namespace and the meaning of "now".
        clock: Time.
    """

    endpoints: ClassVar[tuple[Endpoint, ...]] = (
        Endpoint(
            method="GET",
            path="/{advertiser_id:text}",
            handler="vector",
            summary="The features of one advertiser",
            description=(
                "Each value with the time of the newest event its view knows of, the age of that knowledge and a "
                "status: present, stale (older than the view's time to live, or from memory while storage is down) "
                "or missing (not defined)."
            ),
            answer=FeaturesAnswer,
            parameters=(ADVERTISER_ID, AS_OF, *VALUES),
            problems=(401, 404, 422, 503),
        ),
        Endpoint(
            method="POST",
            path="/",
            handler="batch",
            summary="The features of up to 1,000 advertisers",
            description=(
                "One row each, in the order asked, repeats once; the status `never` marks advertisers nobody told us "
                "of."
            ),
            request=FeaturesRequest,
            answer=FeaturesBatchAnswer,
            problems=(401, 413, 415, 422, 503),
        ),
    )

    def __init__(
        self,
        ask_shards: AskShards | None = None,
        settings: Settings | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(settings)
        self.reader = FeatureReader(self.settings, clock or SystemClock(), ask_shards)
        self._decoder = RecordDecoder(FeaturesRequest, lambda _request, _now: None)

    async def warm(self) -> None:
        """Write the usage that readers recorded."""
        await self.reader.flush()

    async def vector(self, request: Request) -> FeaturesAnswer:
        """One advertiser, as of a moment."""
        advertiser_id = path_id(request, "advertiser_id")
        requested = _query_values(request)
        answer, reason = await self._read([advertiser_id], query_time(request, "as_of"))
        if not is_known(answer, 0):
            raise unknown_advertiser(advertiser_id)
        return features_answer(answer, 0, requested, reason)

    async def batch(self, request: Request) -> FeaturesBatchAnswer:
        """Many advertisers in one read."""
        asked = await read_object(request, self._decoder)
        check_names(asked.features, asked.values)
        ids = list(dict.fromkeys(asked.advertiser_ids))
        answer, reason = await self._read(ids, to_epoch(asked.as_of) if asked.as_of else None)
        return features_batch_answer(answer, asked.features, asked.values, reason)

    async def _read(self, advertiser_ids: Sequence[str], asked: float | None) -> tuple[Answer, str]:
        try:
            return await self.reader.read(advertiser_ids, asked), ""
        except StorageUnavailableError as error:
            return await self.reader.recall(advertiser_ids, asked), error.message


def _query_values(request: Request) -> Mapping[str, float]:
    values: dict[str, float] = {}
    for name in REQUESTED:
        text = request.query_params.get(name)
        if text is None:
            continue
        try:
            values[name] = float(text)
        except ValueError:
            values[name] = -1.0
        if not 0 <= values[name] <= MAX_AMOUNT:
            raise InvalidRecordError(
                f"`{name}` is not a usable number", field=name, limit=f"a number, 0 to {MAX_AMOUNT:g}"
            )
    return values
