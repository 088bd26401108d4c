"""`/v1/activity`: accept what advertisers did."""

from __future__ import annotations

from typing import ClassVar

import msgspec
from starlette.requests import Request

from features.identity import derive_event_id
from features.records import EARLIEST
from routing.admission import AdmissionPolicy
from serve_deployments.gate import Gate, refusal
from serve_deployments.http import Application, Endpoint, RejectedBatchError, is_ndjson, query_flag, read_body
from serve_deployments.lanes import LaneSet
from serve_deployments.notifications import ATOMIC
from tocsin.clock import Clock, SystemClock, to_epoch
from tocsin.decoding import RecordDecoder
from tocsin.errors import InvalidRecordError
from tocsin.lanes import Record, partition_of
from tocsin.schemas import MAX_CLOCK_SKEW_S, Activity, ActivityAccepted, ActivityRequest, LaneName
from tocsin.settings import Settings

_encode = msgspec.msgpack.Encoder().encode


def check_activity(request: ActivityRequest, now: float) -> None:
    """The rules about time.

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


def to_activity(request: ActivityRequest) -> Activity:
    """A request as it travels; without an event id, its content is its identity."""
    at = to_epoch(request.event_time)
    event_id = request.event_id or derive_event_id(request.advertiser_id, at, request.amount, request.kind)
    return Activity(request.advertiser_id, at, request.amount, request.kind, event_id)


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
        self._partitions = settings.partitions(LaneName.ACTIVITY)
        self._decoder = RecordDecoder(ActivityRequest, check_activity)
        policy = AdmissionPolicy.of(settings)
        self._gate = Gate(self._lanes.lanes, policy, self._clock)

    async def warm(self) -> None:
        """Report what was refused for as long as the replica runs."""
        await self._gate.run()

    async def record(self, request: Request) -> ActivityAccepted:
        """Validate, store, and only then answer 202."""
        now = self._clock.now()
        ndjson, atomic = is_ndjson(request), query_flag(request, "atomic")
        decoded = self._decoder.decode(await read_body(request), ndjson=ndjson, now=now)
        if decoded.errors and (atomic or not decoded.records):
            raise RejectedBatchError(decoded.errors, decoded.total, atomic=atomic)
        decision = (await self._gate.decide(LaneName.ACTIVITY, {"": len(decoded.records)}, whole=True))[""]
        if not decision.admit:
            raise refusal(LaneName.ACTIVITY, decision)
        records = [
            Record(partition_of(item.advertiser_id, self._partitions), _encode(to_activity(item)))
            for _, item in decoded.records
        ]
        self._gate.take(LaneName.ACTIVITY, {"": len(records)})
        self._gate.grow(LaneName.ACTIVITY, sum([len(record.body) for record in records]))
        _, durability = await self._lanes.append(LaneName.ACTIVITY, records)
        return ActivityAccepted(
            accepted=len(records), rejected=len(decoded.errors), durability=durability, errors=decoded.errors
        )
