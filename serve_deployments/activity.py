"""`/v1/activity`: accept what advertisers did."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import ClassVar

import msgspec
from redis import exceptions as redis_errors
from starlette.requests import Request

from features.definitions import DAY_S
from features.importing.event_id import derive_event_id
from features.importing.records import EARLIEST
from routing.intake.admission import AdmissionPolicy
from serve_deployments.http.application import (
    Application,
    Endpoint,
    RejectedBatchError,
)
from serve_deployments.http.bodies import is_ndjson, read_body
from serve_deployments.http.queries import query_flag
from serve_deployments.notifications import ATOMIC
from serve_deployments.serving.gate import Gate, refusal
from serve_deployments.serving.lane_set import LaneSet
from tocsin.clock import Clock, SystemClock, to_epoch
from tocsin.errors import InvalidRecordError
from tocsin.keys import FeatureKeys
from tocsin.settings import Settings
from tocsin.streams.records import Record, partition_of
from tocsin.wire.activity import Activity, ActivityAccepted, ActivityRequest
from tocsin.wire.decoding import RecordDecoder
from tocsin.wire.lanes import LaneName
from tocsin.wire.limits import MAX_CLOCK_SKEW_S
from tocsin.wire.problems import RecordError

log = logging.getLogger(__name__)

ORDER_S = 1e-6  # between the arrivals of one request's records: of one event told twice, the second counts
REASONS = (
    "late",
    "future",
    *ActivityRequest.__struct_fields__,
    "record",
    "body",
)  # labels of what is refused
_encode = msgspec.msgpack.Encoder().encode


class ActivityRules:
    """The rules a schema cannot say, judged against the clock at the door.

    Args:
        settings: The currency, and how old an event may be.
    """

    def __init__(self, settings: Settings) -> None:
        self._currency = settings.currency
        self._late_days = settings.activity_late_days

    def check(self, request: ActivityRequest, now: float) -> None:
        """Refuse what is dated ahead, too late, known before it happened by our clock, or in other money.

        Raises:
            InvalidRecordError: names the field and the limit.
        """
        at = to_epoch(request.event_time)
        if at > now + MAX_CLOCK_SKEW_S:
            raise InvalidRecordError(
                "`event_time` is in the future", field="event_time", limit="<= 1 day from now"
            )
        if at < EARLIEST:
            raise InvalidRecordError(
                "`event_time` is too old", field="event_time", limit=">= 2000-01-01T00:00:00Z"
            )
        if at < now - self._late_days * DAY_S:
            raise InvalidRecordError(
                "`event_time` is too late", field="event_time", limit=f">= {self._late_days} days ago"
            )
        if request.arrival is not None and to_epoch(request.arrival) > now + MAX_CLOCK_SKEW_S:
            raise InvalidRecordError("`arrival` is in the future", field="arrival", limit="<= 1 day from now")
        if request.currency and request.currency != self._currency:
            raise InvalidRecordError(
                f"`currency` is {request.currency}", field="currency", limit=f"only {self._currency}"
            )


def to_activity(request: ActivityRequest, arrival: float) -> Activity:
    """A request as it travels; without an event id, its content is its identity."""
    at = to_epoch(request.event_time)
    event_id = request.event_id or derive_event_id(
        request.advertiser_id, at, request.amount, request.kind, request.campaign_id, request.currency
    )
    return Activity(
        request.advertiser_id,
        at,
        request.amount,
        request.kind,
        event_id,
        request.campaign_id,
        request.currency,
        arrival if request.arrival is None else to_epoch(request.arrival),
        request.backdated,
    )


def reason_of(error: RecordError) -> str:
    """A label for why a record was refused, one of `REASONS`."""
    if error.field == "event_time" and error.limit.startswith("<="):
        return "future"
    if error.field == "event_time" and error.limit.startswith(">="):
        return "late"
    return error.field if error.field in REASONS else "record"


class ActivityIntake(Application):
    """Accepts activity into the lane that the feature shards consume."""

    endpoints: ClassVar[tuple[Endpoint, ...]] = (
        Endpoint(
            method="POST",
            path="/",
            handler="record",
            summary="Record advertiser activity",
            description=(
                "One object, a JSON array or NDJSON of up to 10,000. Sending an event again changes nothing; "
                "sending its `event_id` with other content replaces it."
            ),
            request=ActivityRequest,
            many=True,
            answer=ActivityAccepted,
            status=202,
            parameters=(ATOMIC,),
            problems=(401, 413, 415, 422, 429, 503),
        ),
    )

    def __init__(self, settings: Settings | None = None, clock: Clock | None = None) -> None:
        super().__init__(settings)
        settings = self.settings
        self._clock = clock or SystemClock()
        self._lanes = LaneSet(settings, (LaneName.ACTIVITY,))
        self._lane = self._lanes.lanes[LaneName.ACTIVITY]
        self._keys = FeatureKeys(settings.namespace)
        self._decoder = RecordDecoder(ActivityRequest, ActivityRules(settings).check)
        policy = AdmissionPolicy.of(settings)
        self._gate = Gate(self._lanes.lanes, policy, self._clock)

    async def warm(self) -> None:
        """Report what was refused for as long as the replica runs."""
        await self._gate.run()

    async def record(self, request: Request) -> ActivityAccepted:
        """Validate, store, and only then answer 202."""
        now = self._clock.now()
        ndjson, atomic = is_ndjson(request), query_flag(request, "atomic")
        try:
            decoded = self._decoder.decode(await read_body(request), ndjson=ndjson, now=now)
        except InvalidRecordError:
            await self._count(["body"])
            raise
        if decoded.errors:
            await self._count(map(reason_of, decoded.errors))
        if decoded.errors and (atomic or not decoded.records):
            raise RejectedBatchError(decoded.errors, decoded.total, atomic=atomic)
        decision = (await self._gate.decide(LaneName.ACTIVITY, {"": len(decoded.records)}, whole=True))[""]
        if not decision.admit:
            raise refusal(LaneName.ACTIVITY, decision)
        records = [
            Record(
                partition_of(item.advertiser_id, self._lane.partitions),
                _encode(to_activity(item, now + index * ORDER_S)),
            )
            for index, item in decoded.records
        ]
        self._gate.take(LaneName.ACTIVITY, {"": len(records)})
        self._gate.grow(LaneName.ACTIVITY, sum([len(record.body) for record in records]))
        _, durability = await self._lanes.append(LaneName.ACTIVITY, records)
        return ActivityAccepted(
            accepted=len(records), rejected=len(decoded.errors), durability=durability, errors=decoded.errors
        )

    async def _count(self, reasons: Iterable[str]) -> None:
        """Count what is refused, by reason; that it cannot be counted is no reason to fail."""
        counts = Counter(reasons)
        try:
            async with self._lanes.client.pipeline(transaction=False) as pipe:
                for reason, number in counts.items():
                    pipe.hincrby(self._keys.refused, reason, number)
                await pipe.execute()
        except (redis_errors.RedisError, OSError) as error:
            log.warning("%d refused records were not counted: %s", counts.total(), error)
