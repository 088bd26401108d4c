"""`/v1/features`: the feature vector of an advertiser, with its freshness."""

from __future__ import annotations

from typing import ClassVar

from starlette.requests import Request

from features.vectors import answer
from serve_deployments.http import AS_OF, Application, Endpoint, query_time
from serve_deployments.reading import FeatureReader
from tocsin.clock import Clock, SystemClock
from tocsin.errors import NotFoundError
from tocsin.schemas import FeaturesAnswer
from tocsin.settings import Settings

UNKNOWN_HINT = "import its activity with `tocsin import activity FILE` or POST /v1/activity"


def unknown_advertiser(advertiser_id: str) -> NotFoundError:
    """The answer for an advertiser nobody has told us about."""
    return NotFoundError(f"advertiser {advertiser_id[:128]!r} is not known", hint=UNKNOWN_HINT)


class Features(Application):
    """Answers with values, event times and ages; a value is never older than it says."""

    endpoints: ClassVar[tuple[Endpoint, ...]] = (
        Endpoint(
            method="GET",
            path="/{advertiser_id:path}",
            handler="vector",
            summary="The features of one advertiser",
            description="Each value with the time of the newest event in it, its age, and whether it is fresh.",
            answer=FeaturesAnswer,
            parameters=(AS_OF,),
            problems=(401, 404, 422, 503),
        ),
    )

    def __init__(self, settings: Settings | None = None, clock: Clock | None = None) -> None:
        super().__init__(settings)
        settings = self.settings
        self._reader = FeatureReader(settings, clock or SystemClock())

    async def vector(self, request: Request) -> FeaturesAnswer:
        """One advertiser, as of a moment."""
        advertiser_id = request.path_params["advertiser_id"]
        as_of = await self._reader.moment(query_time(request, "as_of"))
        (history,) = await self._reader.histories([advertiser_id])
        if history is None:
            raise unknown_advertiser(advertiser_id)
        return answer(history, as_of)
