"""`/v1/notifications`: accept notifications, and show what became of them."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import ClassVar
from uuid import uuid4

from msgspec.structs import replace
from starlette.requests import Request

from routing.intake.admission import AdmissionPolicy
from routing.intake.intake import Accepted, Intake, check_notification, receipt_of
from routing.intake.mending import NotificationMender
from routing.ledger.ledger import Ledger
from serve_deployments.http.application import (
    Application,
    Endpoint,
    Parameter,
    RejectedBatchError,
    traceparent_of,
)
from serve_deployments.http.bodies import is_ndjson, read_body
from serve_deployments.http.queries import NOTIFICATION_ID, query_flag
from serve_deployments.serving.gate import Gate, refusal
from serve_deployments.serving.lane_set import LaneSet
from serve_deployments.serving.priority_rules import PriorityRules
from tocsin.clock import Clock, SystemClock
from tocsin.errors import (
    InvalidRecordError,
    NotFoundError,
    OverloadedError,
    StorageUnavailableError,
    TocsinError,
)
from tocsin.keys import digest
from tocsin.settings import Settings
from tocsin.streams.records import Placement, Position
from tocsin.wire.decoding import RecordDecoder
from tocsin.wire.lanes import NOTIFICATION_LANES, Durability, LaneName
from tocsin.wire.notifications import NotificationRequest, NotificationsAccepted, NotificationStatus, Receipt
from tocsin.wire.problems import RecordError

MAX_IDEMPOTENCY_KEY = 128
SMALL_BYTES = 16_384  # a body up to this size is worked on at once
MAX_BULKY = 2  # others at once: one stores while the next is decoded
STEP_RECORDS = 100
AFTER_OTHERS_S = (
    0.8  # for a second server, once the first has stored its part: the receipts have to go out in time
)

IDEMPOTENCY_KEY = Parameter(
    name="Idempotency-Key",
    where="header",
    description="A repeat with the same key within 24 h returns the first receipts and stores nothing",
    schema={"type": "string", "maxLength": MAX_IDEMPOTENCY_KEY, "pattern": "^[ -~]*$"},
)
ATOMIC = Parameter(
    name="atomic",
    where="query",
    description=(
        "Accept all records or none. Where they go to several lanes and one of these fails after another stored its "
        "part, the answer is 503 and names an Idempotency-Key: a repeat under it stores the rest, and nothing twice"
    ),
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
                "by index; the valid ones are accepted unless `atomic` is set. While a lane is overloaded its records "
                "are refused: with 429 when none or not all of an atomic request can be accepted, else by index with "
                "the code `overloaded` and a `retry_after_s`; with `storage-unavailable` when only the storage of "
                "their lane is away. `durability` says what storage had done with a record when it answered; a P0 "
                "waits up to 1.2 s for the disk where storage syncs once a second. A P0 is not refused for its texts: "
                "`title`, `body`, `alert_type` and the values of `data` are cleaned of control characters and cut to "
                "their limits, and an unknown `severity` is read as Unknown; `changed` in its receipt says so. Its "
                "priority is judged after that. P1 and P2 are refused for the same. A name given twice in a record is "
                "refused in records sent one by one and in arrays up to 16 KiB."
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
            parameters=(NOTIFICATION_ID,),
            problems=(401, 404, 422, 503),
        ),
    )

    def __init__(self, settings: Settings | None = None, clock: Clock | None = None) -> None:
        super().__init__(settings)
        settings = self.settings
        self._clock = clock or SystemClock()
        self._lanes = LaneSet(settings, NOTIFICATION_LANES)
        self._ledgers = {
            name: Ledger(lane, lane.client, retention_s=settings.outcome_retention_s)
            for name, lane in self._lanes.lanes.items()
        }
        self._rules = PriorityRules(settings, self._clock)
        self._intake = Intake(
            self._rules.classifier, {name: settings.partitions(name) for name in NOTIFICATION_LANES}
        )
        self._bulky = asyncio.Semaphore(MAX_BULKY)
        mender = NotificationMender(self._rules.classifier)
        self._decoder = RecordDecoder(NotificationRequest, check_notification, mender)
        policy = AdmissionPolicy.of(settings)
        self._gate = Gate(self._lanes.lanes, policy, self._clock)

    async def warm(self) -> None:
        """Report what was refused, and follow the operator's rules, for as long as the replica runs."""
        await asyncio.gather(self._gate.run(), self._rules.run())

    async def send(self, request: Request) -> NotificationsAccepted:
        """Validate, classify, store, and only then answer 202.

        What is small goes ahead of what is bulky: only so many bulky bodies are worked on at once, and each in steps
        of a millisecond or two, between which the event loop turns to whatever else has come.
        """
        body = await read_body(request)
        if len(body) <= SMALL_BYTES:
            return await self._accept(request, body)
        async with self._bulky:
            return await self._accept(request, body)

    async def _accept(self, request: Request, body: bytes) -> NotificationsAccepted:
        now = self._clock.now()
        ndjson, atomic, key = is_ndjson(request), query_flag(request, "atomic"), idempotency_key(request)
        decoded = self._decoder.decode(body, ndjson=ndjson, now=now)
        if decoded.errors and (atomic or not decoded.records):
            raise RejectedBatchError(decoded.errors, decoded.total, atomic=atomic)
        wanted: list[Accepted] = []
        trace = traceparent_of(request)
        for start in range(0, len(decoded.records), STEP_RECORDS):
            await asyncio.sleep(0)
            wanted += self._intake.admit(
                decoded.records[start : start + STEP_RECORDS], now=now, traceparent=trace
            )
        await asyncio.sleep(0)
        if atomic and not key and len({item.lane for item in wanted}) > 1:
            key = uuid4().hex  # or nobody could complete it, should one lane store its part and the next not
        sources = [one.source for _, one in decoded.records]
        admitted, refused = await self._sift(wanted, sources, keyed=bool(key), atomic=atomic)
        fingerprint = fingerprint_of(body) if key else ""
        receipts, failed = await self._store(admitted, key, fingerprint, now=now, atomic=atomic)
        if decoded.changes:
            receipts = [replace(one, changed=decoded.changes.get(one.index, ())) for one in receipts]
        await asyncio.sleep(0)
        return _answer(receipts, sorted(decoded.errors + refused + failed, key=lambda error: error.index))

    async def _sift(
        self, wanted: list[Accepted], sources: list[str], *, keyed: bool, atomic: bool
    ) -> tuple[list[Accepted], list[RecordError]]:
        """What the gate lets in, and an error for each record it does not.

        Raises:
            OverloadedError: it lets in none, or not all of an atomic request.
        """
        counted: dict[LaneName, Counter[str]] = defaultdict(Counter)
        for (lane, source), number in Counter(
            zip((item.lane for item in wanted), sources, strict=True)
        ).items():
            counted[lane][source] = number
        decisions = {
            lane: await self._gate.decide(lane, counted[lane], whole=keyed) for lane in sorted(counted)
        }
        refusals = [(lane, d) for lane, each in decisions.items() for d in each.values() if not d.admit]
        errors: list[RecordError] = []
        admitted = wanted
        if refusals:
            fates = [
                (item, decisions[item.lane][source]) for item, source in zip(wanted, sources, strict=True)
            ]
            admitted = [item for item, decision in fates if decision.admit]
            errors = [refused_record(item, refusal(item.lane, d)) for item, d in fates if not d.admit]
        if refusals and (atomic or not admitted):
            raise refusal(*refusals[0])
        for lane, each in counted.items():
            let_in = {source: number for source, number in each.items() if decisions[lane][source].admit}
            self._gate.take(lane, let_in)
        for lane in counted:
            self._gate.grow(lane, sum([len(item.record.body) for item in admitted if item.lane is lane]))
        return admitted, errors

    async def _store(
        self, admitted: list[Accepted], key: str, fingerprint: str, *, now: float, atomic: bool
    ) -> tuple[list[Receipt], list[RecordError]]:
        """Append lane by lane, the most urgent first, and write the receipts.

        A server that is full after one lane was stored, or away when that was on another, is no failure of the whole:
        those stored keep their receipts, the others come back as errors, unless the request is atomic; then the caller
        learns how to complete it. Otherwise the caller has to send all again.

        Raises:
            OverloadedError: nothing was stored.
            StorageUnavailableError: some lane did not confirm.
        """
        by_lane: dict[LaneName, list[Accepted]] = defaultdict(list)
        for item in admitted:
            by_lane[item.lane].append(item)
        receipts: list[Receipt] = []
        errors: list[RecordError] = []
        away: dict[LaneName, StorageUnavailableError] = {}
        for lane in sorted(by_lane):
            members = by_lane[lane]
            elsewhere = self._lanes.others(lane) & {receipt.lane for receipt in receipts}
            known = next((error for one, error in away.items() if one not in self._lanes.others(lane)), None)
            try:
                if known is not None:
                    raise known
                placements, durability = await self._append(
                    lane, members, key, fingerprint, AFTER_OTHERS_S if elsewhere else None
                )
            except (OverloadedError, StorageUnavailableError) as error:
                if isinstance(error, StorageUnavailableError):
                    away[lane] = error
                kept = receipts if isinstance(error, OverloadedError) else elsewhere
                if atomic and len(by_lane) > 1 and (receipts or not isinstance(error, OverloadedError)):
                    raise unfinished(lane, key, error) from error
                if atomic or not kept:
                    raise
                errors += [refused_record(item, error) for item in members]
            else:
                receipts += [
                    receipt_of(item, placement, now=now, durability=durability)
                    for item, placement in zip(members, placements, strict=True)
                ]
        return sorted(receipts, key=lambda receipt: receipt.index), errors

    async def _append(
        self, lane: LaneName, members: list[Accepted], key: str, fingerprint: str, limit_s: float | None
    ) -> tuple[list[Placement], Durability]:
        try:
            async with asyncio.timeout(limit_s):
                return await self._lanes.append(
                    lane, [item.record for item in members], idempotency_key=key, fingerprint=fingerprint
                )
        except TimeoutError:
            raise StorageUnavailableError(f"the server of {lane} does not answer") from None

    async def status(self, request: Request) -> NotificationStatus:
        """What became of one notification."""
        notification_id = request.path_params["notification_id"]
        lane = Position.parse(notification_id).lane
        ledger = self._ledgers.get(lane)  # type: ignore[call-overload]  # a StrEnum equals its text
        if ledger is None:
            raise NotFoundError(f"no notification {notification_id}: there is no lane {lane!r}")
        found: NotificationStatus = await ledger.status(notification_id)
        return found


def unfinished(lane: LaneName, key: str, error: OverloadedError | StorageUnavailableError) -> TocsinError:
    """An atomic request of which some lanes may have stored their part: a repeat under its key stores the rest."""
    return StorageUnavailableError(
        f"{lane} did not confirm its part of an atomic request; other lanes may have stored theirs: {error.message}",
        retry_after_s=error.retry_after_s,
        hint=f"send the same again with `Idempotency-Key: {key}`: it stores what is missing, and nothing twice",
    )


def refused_record(item: Accepted, error: OverloadedError | StorageUnavailableError) -> RecordError:
    """A record that was not let in, though nothing is wrong with it."""
    return RecordError(
        index=item.index, detail=error.message, code=error.code, retry_after_s=error.retry_after_s
    )


def fingerprint_of(body: bytes) -> str:
    """What distinguishes a repeat of a request from another one under the same idempotency key."""
    return digest(body.decode("utf-8", "replace"))


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
