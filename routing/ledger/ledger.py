"""The outcome of every accepted notification.

Written in the same transaction as the acknowledgement, so that at any moment
`accepted = waiting + retrying + delivered + suppressed + expired + dead + purged`. What most of a block became is
one field of a hash that it shares with the blocks of the same seconds; exceptions are a field each
(`routing.ledger.outcomes`). There is no key per event. The dead letters themselves are `routing.ledger.dead_letters`'.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec
from redis import asyncio as aioredis
from redis.asyncio.client import Pipeline

from routing.deliveries import Delivery, OutcomeReason
from routing.intake.intake import shown_request
from routing.ledger.dead_letters import stage_letters, view_attempts
from routing.ledger.outcomes import Outcome, by_origin, field, fields, unpack
from tocsin.clock import to_datetime
from tocsin.errors import NotFoundError
from tocsin.keys import LaneKeys
from tocsin.storage.errors import translated
from tocsin.storage.limit import execute_in_place
from tocsin.streams.lanes import Lane
from tocsin.streams.records import Position
from tocsin.telemetry.latency import tally
from tocsin.wire.notifications import Attempt, Envelope, NotificationState, NotificationStatus, TimelineEvent

_encode = msgspec.msgpack.Encoder().encode
_block = msgspec.msgpack.Decoder(list[Envelope])


class Ledger:
    """Writes and reads outcomes of one lane.

    Args:
        lane: The lane, for its keys, its server and the blocks that still wait.
        client: The lane's server.
        retention_s: How long an outcome is kept.
    """

    def __init__(self, lane: Lane, client: aioredis.Redis, *, retention_s: float) -> None:
        self._lane = lane
        self._keys: LaneKeys = lane.keys
        self._client = client
        self._retention_s = int(retention_s)

    # ------------------------------------------------------------------ writing

    def stage(self, pipe: Pipeline, deliveries: Sequence[Delivery]) -> None:
        """Add to a transaction what became of these deliveries: outcomes, retries, dead letters, counts."""
        delivered = [one for one in deliveries if one.state is NotificationState.DELIVERED]
        others = (
            [one for one in deliveries if one.state is not NotificationState.DELIVERED]
            if len(delivered) < len(deliveries)
            else []
        )
        retrying = [one for one in others if one.state is NotificationState.RETRYING]
        # The outcome of a deferred notification is kept until it is delivered.
        longest_s = max((one.retry_at - one.decided_at for one in retrying), default=0.0)
        self._stage_outcomes(pipe, deliveries, self._retention_s + math.ceil(longest_s))
        counts = Counter({NotificationState.DELIVERED: len(delivered)} if delivered else {})
        counts.update(one.state for one in others if one.state is not NotificationState.RETRYING)
        for state, number in counts.items():
            pipe.hincrby(self._keys.counts, state.value, number)
        again: dict[str, dict[Any, float]] = defaultdict(dict)
        for one in retrying:
            again[self.retries_of(one)][retry_body(one)] = one.retry_at
        for key, bodies in again.items():
            pipe.zadd(key, bodies)
        stage_letters(pipe, self._keys, self._lane.name, others)
        # Records of one request share their times: count first, then take logarithms.
        spans_s = Counter(
            [
                one.decided_at - one.envelope.notification.accepted_at - one.envelope.deferred_s
                for one in delivered
            ]
        )
        latencies = tally({span_s * 1000: number for span_s, number in spans_s.items()})
        for bucket, number in latencies.items():
            pipe.hincrby(self._keys.latency, str(bucket), number)

    def retries_of(self, delivery: Delivery) -> str:
        """The key a retry of this one waits in."""
        return self._keys.retries(delivery.origin()[0])

    async def postpone(self, retries: Sequence[Delivery], due: float) -> None:
        """Postpone waiting retries to `due` (epoch seconds), never to an earlier time; others are ignored.

        Raises:
            StorageUnavailableError: the server did not confirm.
        """
        with translated():
            async with self._client.pipeline(transaction=False) as pipe:
                again: dict[str, dict[Any, float]] = defaultdict(dict)
                for one in retries:
                    again[self.retries_of(one)][retry_body(one)] = due
                for key, bodies in again.items():
                    pipe.zadd(key, bodies, xx=True, gt=True)
                await pipe.execute()

    async def correct(self, late: Delivery, placeholder: Delivery) -> bool:
        """Write the outcome of a delivery in place of its placeholder retry.

        Returns:
            False when no such retry waits: it was not settled yet, or has come back into the lane.

        Raises:
            StorageUnavailableError: the server did not confirm.
        """
        # With its id, as a retry would have it: what its block became stands already.
        late.envelope = msgspec.structs.replace(late.envelope, id=late.id)
        pipe = self._client.pipeline(transaction=True)
        self.stage(pipe, [late])
        with translated():
            return await execute_in_place(
                self._client, pipe, self.retries_of(placeholder), retry_body(placeholder)
            )

    def _stage_outcomes(self, pipe: Pipeline, deliveries: Sequence[Delivery], ttl_s: int) -> None:
        hashes: dict[str, dict[Any, Any]] = defaultdict(dict)
        for (partition, entry), block in by_origin(deliveries).items():
            hashes[self._keys.outcomes(partition, entry)] |= fields(entry, block)
        for key, found in hashes.items():
            pipe.hset(key, mapping=found)
            pipe.expire(key, ttl_s, nx=True)  # where there is none yet; then, only ever longer
            pipe.expire(key, ttl_s, gt=True)

    # ------------------------------------------------------------------ reading

    async def status(self, notification_id: str) -> NotificationStatus:
        """State and history of one notification.

        Raises:
            InvalidRecordError: not an id of ours.
            NotFoundError: never accepted, or finished longer ago than the retention.
            StorageUnavailableError: the server does not answer.
        """
        position = Position.parse(notification_id)
        if position.partition >= self._lane.partitions:
            raise NotFoundError(f"no notification {notification_id}")
        outcome, envelope = await self._find(position)
        if outcome is None and envelope is None:
            raise NotFoundError(
                f"no notification {notification_id}",
                hint=f"outcomes are kept for {self._retention_s / 3600:g} h after delivery",
            )
        return _status(notification_id, position, outcome, envelope)

    async def _find(self, position: Position) -> tuple[Outcome | None, Envelope | None]:
        """What became of a record, or the record itself while it waits; one step, so that it is never in between."""
        with translated():
            async with self._client.pipeline(transaction=True) as pipe:
                key = self._keys.outcomes(position.partition, position.entry)
                pipe.hmget(key, [field(position.entry, position.index), field(position.entry)])
                self._lane.stage_peek(pipe, position)
                (own, shared), waiting = await pipe.execute()
        if own:
            return unpack(own, position.entry), None
        outcome = unpack(shared, position.entry) if shared else None
        if outcome is not None:
            return (outcome if position.index < outcome.records else None), None
        entry = self._lane.peeked(waiting, position)
        try:
            envelopes = _block.decode(entry.block) if entry else []
        except msgspec.MsgspecError:
            envelopes = []  # on its way to the quarantine
        return None, envelopes[position.index] if position.index < len(envelopes) else None


def retry_body(delivery: Delivery) -> bytes:
    """The record that comes back into the lane."""
    return _encode(
        msgspec.structs.replace(
            delivery.envelope,
            id=delivery.id,
            attempts=delivery.attempts,
            deferred_s=delivery.envelope.deferred_s + delivery.deferred_s,
            parked_at=delivery.parked_at,
        )
    )


WAITING = {
    OutcomeReason.QUIET_HOURS.value: "deferred",
    OutcomeReason.BREAKER_OPEN.value: "parked",
    OutcomeReason.IN_FLIGHT.value: "in_flight",
}


def _destination(attempt: Attempt) -> str:
    """Where an attempt went: channel, provider where it has another name, and a fallback contact."""
    via = f" via {attempt.provider}" if attempt.provider not in {"", attempt.channel} else ""
    return f"{attempt.channel}{via}" + (f" to {attempt.recipient}" if attempt.recipient else "")


def _status(
    notification_id: str, position: Position, outcome: Outcome | None, envelope: Envelope | None
) -> NotificationStatus:
    accepted_at = int(position.entry.split("-")[0]) / 1000
    timeline = [TimelineEvent(at=to_datetime(accepted_at), event="accepted", detail=f"lane {position.lane}")]
    attempts = outcome.attempts if outcome else ()
    timeline += [
        TimelineEvent(
            at=to_datetime(a.at),
            event="delivered" if a.ok else "attempt_failed",
            detail=_destination(a) if a.ok else f"{_destination(a)}: {a.reason}: {a.detail}",
        )
        for a in attempts
    ]
    state = outcome.state if outcome else NotificationState.ACCEPTED
    if outcome and state is NotificationState.RETRYING:
        timeline.append(
            TimelineEvent(
                at=to_datetime(outcome.at),
                event=WAITING.get(outcome.reason, "retrying"),
                detail=f"again at {to_datetime(outcome.retry_at)}",
            )
        )
    elif outcome and state is not NotificationState.DELIVERED:
        timeline.append(TimelineEvent(at=to_datetime(outcome.at), event=state.value, detail=outcome.reason))
    return NotificationStatus(
        id=notification_id,
        lane=position.lane,  # type: ignore[arg-type]  # a lane's name
        state=state,
        accepted_at=to_datetime(accepted_at),
        reason=outcome.reason if outcome else "",
        attempts=view_attempts(attempts),
        timeline=timeline,
        notification=shown_request(envelope.notification) if envelope else None,
    )
