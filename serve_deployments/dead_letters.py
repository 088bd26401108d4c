"""`/v1/dead-letters`: what could not be delivered; find it, put it back, or delete it."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from starlette.requests import Request

from routing.ledger.dead_letter_search import DeadLetterSearch
from routing.ledger.dead_letters import DeadLetters as LaneLetters
from routing.ledger.dead_letters import view_dead_letter
from serve_deployments.http.application import (
    Application,
    Endpoint,
    Parameter,
)
from serve_deployments.http.bodies import read_object
from serve_deployments.http.queries import NOTIFICATION_ID, query_int
from serve_deployments.serving.lane_set import LaneSet
from tocsin.clock import SystemClock
from tocsin.errors import InvalidRecordError, NotFoundError
from tocsin.settings import Settings
from tocsin.streams.records import Position
from tocsin.wire.dead_letters import (
    CURSOR_PATTERN,
    DeadLetterFilter,
    DeadLetterPage,
    DeadLetterView,
    HandledLetters,
    Purged,
    PurgeRequest,
    Replayed,
    ReplayRequest,
)
from tocsin.wire.decoding import RecordDecoder, explain, refuse_control_characters
from tocsin.wire.lanes import NOTIFICATION_LANES, LaneName
from tocsin.wire.limits import TEXT_PATTERN
from tocsin.wire.problems import RecordError

MAX_PAGE = 500


def _filter_parameters() -> tuple[Parameter, ...]:
    """The fields of the filter as query parameters, with the descriptions and bounds they have there."""
    _, components = msgspec.json.schema_components([DeadLetterFilter])
    properties: dict[str, dict[str, Any]] = components["DeadLetterFilter"]["properties"]
    kinds = {
        name: next(kind for kind in schema["anyOf"] if kind.get("type") != "null")
        for name, schema in properties.items()
    }
    return tuple(
        Parameter(
            name=name,
            where="query",
            description=properties[name].get("description", ""),
            schema=kind if kind.keys() & {"enum", "format"} else kind | {"pattern": TEXT_PATTERN},
        )
        for name, kind in kinds.items()
    )


FILTER = _filter_parameters()
LIMIT = Parameter(
    name="limit",
    where="query",
    description="How many to return",
    schema={"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 50},
)
CURSOR = Parameter(
    name="cursor",
    where="query",
    description="Go on from where an earlier answer ended",
    schema={"type": "string", "maxLength": 160, "pattern": CURSOR_PATTERN},
)


class DeadLetterApplication(Application):
    """Lists, shows, replays and purges dead letters."""

    endpoints: ClassVar[tuple[Endpoint, ...]] = (
        Endpoint(
            method="GET",
            path="/",
            handler="page",
            summary="Dead letters, newest first",
            description=(
                "One request looks at 5,000 letters at the most: an answer with a `cursor` is not the end, even "
                "when it holds fewer letters than asked for."
            ),
            answer=DeadLetterPage,
            parameters=(*FILTER, LIMIT, CURSOR),
            problems=(401, 422, 503),
        ),
        Endpoint(
            method="POST",
            path="/replay",
            handler="replay_many",
            bulk=True,
            summary="Put the dead letters that match back into their lanes",
            description=(
                "At `rate` letters a second, for five seconds a request at the most; send it again with the "
                "`cursor` of the answer for the rest. Each letter moves atomically, so a request that was cut short "
                "may simply be repeated. `dry_run` names what would be replayed."
            ),
            request=ReplayRequest,
            answer=HandledLetters,
            problems=(401, 413, 415, 422, 429, 503),
        ),
        Endpoint(
            method="POST",
            path="/purge",
            handler="purge_many",
            bulk=True,
            summary="Delete the dead letters that match, for good",
            description="Deleted letters are counted as `purged`. `dry_run` names what would be deleted.",
            request=PurgeRequest,
            answer=HandledLetters,
            problems=(401, 413, 415, 422, 503),
        ),
        Endpoint(
            method="GET",
            path="/{notification_id}",
            handler="show",
            summary="One dead letter: the original, the error, every attempt",
            description="Of its `webhook_url` the host alone is shown.",
            answer=DeadLetterView,
            parameters=(NOTIFICATION_ID,),
            problems=(401, 404, 422, 503),
        ),
        Endpoint(
            method="DELETE",
            path="/{notification_id}",
            handler="purge",
            summary="Delete a dead letter for good",
            answer=Purged,
            parameters=(NOTIFICATION_ID,),
            problems=(401, 404, 422, 503),
        ),
        Endpoint(
            method="POST",
            path="/{notification_id}/replay",
            handler="replay",
            summary="Put a dead letter back into its lane",
            description="Atomic: the notification is never in two places, and a second replay answers 404.",
            answer=Replayed,
            parameters=(NOTIFICATION_ID,),
            status=202,
            problems=(401, 404, 422, 429, 503),
        ),
    )

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self._lanes = LaneSet(self.settings, NOTIFICATION_LANES)
        letters = {name: LaneLetters(lane, lane.client) for name, lane in self._lanes.lanes.items()}
        self._search = DeadLetterSearch(letters, SystemClock())
        self._replays = RecordDecoder(ReplayRequest, _check_filter)
        self._purges = RecordDecoder(PurgeRequest, _check_filter)

    async def page(self, request: Request) -> DeadLetterPage:
        """Newest first, over one lane or all, with the filter of the query."""
        limit = query_int(request, "limit", 50, least=1, most=MAX_PAGE)
        wanted = query_filter(request)
        found = await self._search.find(wanted, request.query_params.get("cursor", ""), max_matches=limit)
        return DeadLetterPage(
            total=await self._search.total(wanted),
            items=[view_dead_letter(letter) for letter in found.letters],
            cursor=str(found.end) if found.end else "",
        )

    async def show(self, request: Request) -> DeadLetterView:
        """One dead letter."""
        notification_id = request.path_params["notification_id"]
        return view_dead_letter(await self._search.lane_of(notification_id).get(notification_id))

    async def replay(self, request: Request) -> Replayed:
        """Back into the lane, with its attempts added up."""
        notification_id = request.path_params["notification_id"]
        letters = self._search.lane_of(notification_id)
        replayed = await letters.replay(await letters.get(notification_id))
        return Replayed(id=notification_id, lane=lane_name(notification_id), replayed=replayed)

    async def purge(self, request: Request) -> Purged:
        """Gone for good."""
        notification_id = request.path_params["notification_id"]
        if not await self._search.lane_of(notification_id).purge(notification_id):
            raise NotFoundError(f"no dead letter {notification_id}")
        return Purged(id=notification_id, lane=lane_name(notification_id), purged=True)

    async def replay_many(self, request: Request) -> HandledLetters:
        """A bounded part of what matches, at the rate asked for."""
        asked = await read_object(request, self._replays)
        return await self._search.replay(asked)

    async def purge_many(self, request: Request) -> HandledLetters:
        """A bounded part of what matches."""
        asked = await read_object(request, self._purges)
        return await self._search.purge(asked)


def lane_name(notification_id: str) -> LaneName:
    """The lane an id names."""
    return LaneName(Position.parse(notification_id).lane)


def query_filter(request: Request) -> DeadLetterFilter:
    """The filter in a query; parameters that are none of its fields are left alone.

    Raises:
        InvalidRecordError: a value is malformed or out of bounds; names the parameter.
    """
    names = DeadLetterFilter.__struct_fields__
    given = {name: request.query_params[name] for name in names if name in request.query_params}
    try:
        wanted = msgspec.convert(given, DeadLetterFilter)
    except msgspec.ValidationError as error:
        raise _refusal(explain(error, 0)) from None
    refuse_control_characters(wanted)
    return wanted


def _check_filter(request: ReplayRequest | PurgeRequest, _now: float) -> None:
    refuse_control_characters(request.filter)


def _refusal(complaint: RecordError) -> InvalidRecordError:
    return InvalidRecordError(complaint.detail, field=complaint.field, limit=complaint.limit)
