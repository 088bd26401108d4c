"""`/v1/notifications`: accept notifications, tell what became of them."""

from __future__ import annotations

from collections import defaultdict
from typing import ClassVar

from starlette.requests import Request

from routing.intake import Accepted, Intake, check_notification
from routing.ledger import Ledger
from routing.priority import Classifier
from serve_deployments.http import (
    Application,
    Endpoint,
    Parameter,
    RejectedBatchError,
    is_ndjson,
    query_flag,
    read_body,
    traceparent_of,
)
from serve_deployments.lanes import LaneSet
from tocsin.clock import Clock, SystemClock, to_datetime
from tocsin.decoding import RecordDecoder
from tocsin.errors import InvalidRecordError, NotFoundError
from tocsin.keys import digest
from tocsin.lanes import Placement, Position
from tocsin.schemas import (
    NOTIFICATION_LANES,
    LaneName,
    NotificationRequest,
    NotificationsAccepted,
    NotificationStatus,
    Receipt,
    RecordError,
)
from tocsin.settings import Settings

MAX_IDEMPOTENCY_KEY = 128

IDEMPOTENCY_KEY = Parameter(
    name="Idempotency-Key",
    where="header",
    description="A repeat with the same key within 24 h returns the first receipts and stores nothing",
    schema={"type": "string", "maxLength": MAX_IDEMPOTENCY_KEY},
)
ATOMIC = Parameter(
    name="atomic",
    where="query",
    description="Accept all records or none",
    schema={"type": "boolean", "default": False},
)


class Notifications(Application):
    """Accepts and answers for notifications. One replica handles any of them: it holds no state."""

    endpoints: ClassVar[tuple[Endpoint, ...]] = (
        Endpoint(
            method="POST",
            path="/",
            handler="send",
            summary="Send notifications",
            description=(
                "One object, a JSON array or NDJSON of up to 10,000. Each accepted record gets a receipt: it is "
                "stored durably and will end delivered, suppressed, expired or dead. Invalid records are reported "
                "by index; the valid ones are accepted unless `atomic` is set."
            ),
            request=NotificationRequest,
            many=True,
            answer=NotificationsAccepted,
            status=202,
            parameters=(ATOMIC, IDEMPOTENCY_KEY),
            problems=(401, 409, 413, 415, 422, 429, 503),
        ),
        Endpoint(
            method="GET",
            path="/{notification_id}",
            handler="status",
            summary="State and timeline of one notification",
            answer=NotificationStatus,
            problems=(401, 404, 422, 503),
        ),
    )

    def __init__(self, settings: Settings | None = None, clock: Clock | None = None) -> None:
        super().__init__(settings)
        settings = self.settings
        self._clock = clock or SystemClock()
        self._lanes = LaneSet(settings, NOTIFICATION_LANES)
        self._ledgers = {
            name: Ledger(lane, self._lanes.client, retention_s=settings.outcome_retention_s)
            for name, lane in self._lanes.lanes.items()
        }
        self._intake = Intake(Classifier(), {name: settings.partitions(name) for name in NOTIFICATION_LANES})
        self._decoder = RecordDecoder(NotificationRequest, check_notification)

    async def send(self, request: Request) -> NotificationsAccepted:
        """Validate, classify, store, and only then answer 202."""
        now = self._clock.now()
        ndjson, atomic, key = is_ndjson(request), query_flag(request, "atomic"), idempotency_key(request)
        body = await read_body(request)
        decoded = self._decoder.decode(body, ndjson=ndjson, now=now)
        if decoded.errors and (atomic or not decoded.records):
            raise RejectedBatchError(decoded.errors, decoded.total, atomic=atomic)
        admitted = self._intake.admit(decoded.records, now=now, traceparent=traceparent_of(request))
        durability = await self._lanes.durability()
        placements = await self._store(admitted, key, digest(body.decode("utf-8", "replace")) if key else "")
        receipts = [
            Receipt(
                index=item.index,
                id=placement.id,
                lane=item.lane,
                accepted_at=to_datetime(now),
                durability=durability,
                duplicate=placement.duplicate,
            )
            for item, placement in zip(admitted, placements, strict=True)
        ]
        return _answer(receipts, decoded.errors)

    async def _store(self, admitted: list[Accepted], key: str, fingerprint: str) -> list[Placement]:
        """Append lane by lane, the most urgent first; a failure tells the caller to send all again."""
        by_lane: dict[LaneName, list[int]] = defaultdict(list)
        for position, item in enumerate(admitted):
            by_lane[item.lane].append(position)
        placements: dict[int, Placement] = {}
        for lane in sorted(by_lane):
            members = by_lane[lane]
            placed = await self._lanes.lanes[lane].append(
                [admitted[position].record for position in members],
                idempotency_key=key,
                fingerprint=fingerprint,
            )
            placements.update(zip(members, placed, strict=True))
        return [placements[position] for position in range(len(admitted))]

    async def status(self, request: Request) -> NotificationStatus:
        """What became of one notification."""
        notification_id = request.path_params["notification_id"]
        lane = Position.parse(notification_id).lane
        ledger = self._ledgers.get(lane)  # type: ignore[call-overload]  # a StrEnum equals its text
        if ledger is None:
            raise NotFoundError(f"no notification {notification_id}: there is no lane {lane!r}")
        found: NotificationStatus = await ledger.status(notification_id)
        return found


def idempotency_key(request: Request) -> str:
    """The caller's idempotency key, empty when there is none.

    Raises:
        InvalidRecordError: longer than 128 characters or not printable ASCII.
    """
    key = request.headers.get("idempotency-key", "")
    if len(key) > MAX_IDEMPOTENCY_KEY or not (key.isascii() and (key.isprintable() or not key)):
        raise InvalidRecordError(
            "the Idempotency-Key is unusable",
            field="Idempotency-Key",
            limit="<= 128 printable ASCII characters",
        )
    return key


def _answer(receipts: list[Receipt], errors: list[RecordError]) -> NotificationsAccepted:
    return NotificationsAccepted(
        accepted=len(receipts), rejected=len(errors), receipts=receipts, errors=errors
    )
