"""`/v1/recipients`: who is told, where, and what they do not want to hear."""

from __future__ import annotations

from typing import ClassVar

from starlette.requests import Request

from routing.recipients.rules import check_recipient, kept, masked
from routing.recipients.store import RecipientStore
from serve_deployments.http.application import (
    Application,
    Endpoint,
    Parameter,
)
from serve_deployments.http.bodies import read_object
from serve_deployments.http.queries import id_parameter, path_id, query_int, query_text
from tocsin.clock import Clock, SystemClock
from tocsin.errors import NotFoundError
from tocsin.settings import Settings
from tocsin.storage.connect import WRITE_TIMEOUT_S, connect, resolve_url
from tocsin.wire.decoding import RecordDecoder
from tocsin.wire.limits import TEXT_PATTERN
from tocsin.wire.recipients import MAX_ID, Recipient, RecipientPage, RecipientRemoved, RecipientRequest

MAX_PAGE = 500

LIMIT = Parameter(
    name="limit",
    where="query",
    description="How many to return",
    schema={"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 50},
)
AFTER = Parameter(
    name="after",
    where="query",
    description="Only ids after this one: `next` of the page before",
    schema={"type": "string", "maxLength": MAX_ID, "pattern": TEXT_PATTERN},
)
RECIPIENT_ID = id_parameter(
    "recipient_id", "A recipient, as notifications name it", MAX_ID, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$"
)


class Recipients(Application):
    """Keeps and shows how recipients want to be told. What is kept holds from the next delivery on."""

    endpoints: ClassVar[tuple[Endpoint, ...]] = (
        Endpoint(
            method="GET",
            path="/",
            handler="page",
            summary="Recipients, in the order of their ids",
            answer=RecipientPage,
            parameters=(AFTER, LIMIT),
            problems=(401, 422, 503),
        ),
        Endpoint(
            method="GET",
            path="/{recipient_id:text}",
            handler="show",
            summary="How one recipient wants to be told",
            description="Its targets, and the path of its webhook, are masked.",
            answer=Recipient,
            parameters=(RECIPIENT_ID,),
            problems=(401, 404, 422, 503),
        ),
        Endpoint(
            method="PUT",
            path="/{recipient_id:text}",
            handler="put",
            summary="Say how a recipient wants to be told",
            description=(
                "Replaces what was kept before. Mutes, quiet hours and the limit an hour hold for p1 and p2; a p0 is "
                "told at any hour, on the channels chosen for p0."
            ),
            request=RecipientRequest,
            answer=Recipient,
            parameters=(RECIPIENT_ID,),
            problems=(401, 409, 413, 415, 422, 503),
        ),
        Endpoint(
            method="DELETE",
            path="/{recipient_id:text}",
            handler="remove",
            summary="Forget how a recipient wants to be told",
            description="From then on it is told as each notification says. Harmless when there is none.",
            answer=RecipientRemoved,
            parameters=(RECIPIENT_ID,),
            problems=(401, 422, 503),
        ),
    )

    def __init__(self, settings: Settings | None = None, clock: Clock | None = None) -> None:
        super().__init__(settings)
        client = connect(resolve_url(self.settings), timeout_s=WRITE_TIMEOUT_S)
        self._store = RecipientStore(client, namespace=self.settings.namespace)
        self._clock = clock or SystemClock()
        self._decoder = RecordDecoder(RecipientRequest, lambda _request, _now: None)

    async def page(self, request: Request) -> RecipientPage:
        """In the order of ids, with the id to go on after."""
        limit = query_int(request, "limit", 50, least=1, most=MAX_PAGE)
        after = query_text(request, "after", MAX_ID)
        total, found, following = await self._store.page(after=after, limit=limit)
        return RecipientPage(total=total, items=[masked(one) for one in found], next=following)

    async def show(self, request: Request) -> Recipient:
        """One recipient."""
        recipient_id = path_id(request, "recipient_id", MAX_ID)
        (found,) = await self._store.get_many([recipient_id])
        if found is None:
            raise NotFoundError(
                f"nothing is kept of recipient {recipient_id[:MAX_ID]!r}",
                hint="it is told as each notification says",
            )
        return masked(found)

    async def put(self, request: Request) -> Recipient:
        """Check, keep, and show what is kept."""
        recipient_id = path_id(request, "recipient_id", MAX_ID)
        now = self._clock.now()
        asked = await read_object(request, self._decoder, now=now)
        check_recipient(recipient_id, asked)
        (before,) = await self._store.get_many([recipient_id])
        recipient = kept(recipient_id, asked, before, now=now)
        await self._store.put(recipient)
        return masked(recipient)

    async def remove(self, request: Request) -> RecipientRemoved:
        """Forget one."""
        recipient_id = path_id(request, "recipient_id", MAX_ID)
        check_recipient(recipient_id, RecipientRequest())
        return RecipientRemoved(id=recipient_id, removed=await self._store.delete(recipient_id))
