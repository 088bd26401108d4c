"""`/v1/dead-letters`: what could not be delivered, and putting it back."""

from __future__ import annotations

from typing import ClassVar

from starlette.requests import Request

from routing.ledger import Ledger, view_dead_letter
from serve_deployments.http import Application, Endpoint, Parameter, query_int
from serve_deployments.lanes import LaneSet
from tocsin.errors import InvalidRecordError, NotFoundError
from tocsin.lanes import Position
from tocsin.schemas import (
    NOTIFICATION_LANES,
    DeadLetter,
    DeadLetterPage,
    DeadLetterView,
    LaneName,
    Replayed,
)
from tocsin.settings import Settings

MAX_PAGE = 500


class DeadLetters(Application):
    """Lists, shows and replays dead letters."""

    endpoints: ClassVar[tuple[Endpoint, ...]] = (
        Endpoint(
            method="GET",
            path="/",
            handler="page",
            summary="Dead letters, newest first",
            answer=DeadLetterPage,
            parameters=(
                Parameter(
                    name="lane",
                    where="query",
                    description="Only this lane",
                    schema={"type": "string", "enum": [str(name) for name in NOTIFICATION_LANES]},
                ),
                Parameter(
                    name="limit",
                    where="query",
                    description="How many to return",
                    schema={"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 50},
                ),
            ),
            problems=(401, 422, 503),
        ),
        Endpoint(
            method="GET",
            path="/{notification_id}",
            handler="show",
            summary="One dead letter: the original, the error, every attempt",
            answer=DeadLetterView,
            problems=(401, 404, 422, 503),
        ),
        Endpoint(
            method="POST",
            path="/{notification_id}/replay",
            handler="replay",
            summary="Put a dead letter back into its lane",
            description="Atomic: the notification is never in two places, and a second replay answers 404.",
            answer=Replayed,
            status=202,
            problems=(401, 404, 422, 503),
        ),
    )

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        settings = self.settings
        lanes = LaneSet(settings, NOTIFICATION_LANES)
        self._ledgers = {
            name: Ledger(lane, lanes.client, retention_s=settings.outcome_retention_s)
            for name, lane in lanes.lanes.items()
        }

    async def page(self, request: Request) -> DeadLetterPage:
        """Newest first, over one lane or all."""
        limit = query_int(request, "limit", 50, least=1, most=MAX_PAGE)
        wanted = request.query_params.get("lane")
        if wanted is not None and wanted not in set(NOTIFICATION_LANES):
            raise InvalidRecordError(f"no lane {wanted[:32]!r}", field="lane", limit="p0, p1 or p2")
        total = 0
        letters: list[DeadLetter] = []
        for name, ledger in self._ledgers.items():
            if wanted in {None, name}:
                count, found = await ledger.dead_letters(offset=0, limit=limit)
                total += count
                letters += found
        letters.sort(key=lambda letter: letter.failed_at, reverse=True)
        return DeadLetterPage(total=total, items=[view_dead_letter(letter) for letter in letters[:limit]])

    async def show(self, request: Request) -> DeadLetterView:
        """One dead letter."""
        notification_id = request.path_params["notification_id"]
        return view_dead_letter(await self._ledger(notification_id).dead_letter(notification_id))

    async def replay(self, request: Request) -> Replayed:
        """Back into the lane, with its attempts forgotten."""
        notification_id = request.path_params["notification_id"]
        ledger = self._ledger(notification_id)
        replayed = await ledger.replay(notification_id)
        return Replayed(
            id=notification_id, lane=LaneName(Position.parse(notification_id).lane), replayed=replayed
        )

    def _ledger(self, notification_id: str) -> Ledger:
        lane = Position.parse(notification_id).lane
        if lane not in set(NOTIFICATION_LANES):
            raise NotFoundError(f"no dead letter {notification_id}: there is no lane {lane!r}")
        return self._ledgers[LaneName(lane)]
