"""What became of every accepted notification, and the dead letters.

Written in the same transaction as the acknowledgement, so that at any moment
`accepted = waiting + retrying + delivered + suppressed + expired + dead`. A block whose records all had the
same end is one field (`*`); exceptions are a field each. There is no key per event.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec
from redis import asyncio as aioredis
from redis import exceptions as redis_errors
from redis.asyncio.client import Pipeline

from routing.intake import to_request
from routing.pipeline import Delivery
from tocsin.clock import to_datetime
from tocsin.errors import NotFoundError
from tocsin.keys import LaneKeys
from tocsin.lanes import Lane, Position
from tocsin.schemas import (
    WIRE_VERSION,
    Attempt,
    AttemptView,
    DeadLetter,
    DeadLetterView,
    Envelope,
    NotificationState,
    NotificationStatus,
    TimelineEvent,
)
from tocsin.storage.connect import translate
from tocsin.storage.scripts import REPLAY, Script
from tocsin.telemetry.latency import tally

ALL = "*"
_encode = msgspec.msgpack.Encoder().encode


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What became of one record, or (`records` > 0) of every record of a block."""

    state: str
    reason: str
    at: float
    attempts: tuple[Attempt, ...]
    records: int = 0
    retry_at: float = 0.0


_outcome = msgspec.msgpack.Decoder(Outcome)
_letter = msgspec.msgpack.Decoder(DeadLetter)
_block = msgspec.msgpack.Decoder(list[Envelope])


class Ledger:
    """Writes and reads outcomes of one lane.

    Args:
        lane: The lane, for its keys, its server and the blocks that still wait.
        client: The lane's server.
        retention_s: How long an outcome can be asked for.
    """

    def __init__(self, lane: Lane, client: aioredis.Redis, *, retention_s: float) -> None:
        self._lane = lane
        self._keys: LaneKeys = lane.keys
        self._client = client
        self._retention_s = int(retention_s)
        self._replay = Script(REPLAY)

    # ------------------------------------------------------------------ writing

    def stage(self, pipe: Pipeline, deliveries: Sequence[Delivery]) -> None:
        """Add to a transaction what became of these deliveries: outcomes, retries, dead letters, counts."""
        self._stage_outcomes(pipe, deliveries)
        counts = Counter(d.state for d in deliveries if d.state is not NotificationState.RETRYING)
        for state, number in counts.items():
            pipe.hincrby(self._keys.counts, state.value, number)
        for delivery in deliveries:
            if delivery.state is NotificationState.RETRYING:
                again = Envelope(delivery.envelope.notification, delivery.id, delivery.attempts)
                partition = Position.parse(delivery.id).partition
                pipe.zadd(self._keys.retries(partition), {_encode(again): delivery.retry_at})
            elif delivery.state is NotificationState.DEAD:
                pipe.hset(self._keys.dead, delivery.id, _encode(self._dead_letter(delivery)))
                pipe.zadd(self._keys.dead_index, {delivery.id: delivery.decided_at})
        # Records of one request share their times: count first, then take logarithms.
        spans = Counter(
            d.decided_at - d.envelope.notification.accepted_at
            for d in deliveries
            if d.state is NotificationState.DELIVERED
        )
        latencies = tally({span * 1000: number for span, number in spans.items()})
        for bucket, number in latencies.items():
            pipe.hincrby(self._keys.latency, str(bucket), number)

    def _stage_outcomes(self, pipe: Pipeline, deliveries: Sequence[Delivery]) -> None:
        blocks: dict[tuple[int, str], list[tuple[int, Delivery]]] = defaultdict(list)
        for delivery in deliveries:
            partition, entry, index = delivery.home()
            blocks[partition, entry].append((index, delivery))
        for (partition, entry), members in blocks.items():
            key = self._keys.outcome(partition, entry)
            pipe.hset(key, mapping=_fields(members))
            pipe.expire(key, self._retention_s)

    def _dead_letter(self, delivery: Delivery) -> DeadLetter:
        return DeadLetter(
            id=delivery.id,
            lane=self._lane.name,
            notification=delivery.envelope.notification,
            reason=delivery.reason,
            error=delivery.error,
            failed_at=delivery.decided_at,
            attempts=delivery.attempts,
        )

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
        try:
            async with self._client.pipeline(transaction=True) as pipe:
                key = self._keys.outcome(position.partition, position.entry)
                pipe.hmget(key, [str(position.index), ALL])
                self._lane.stage_peek(pipe, position)
                (own, shared), waiting = await pipe.execute()
        except (redis_errors.RedisError, OSError) as error:
            raise translate(error) from error
        if own:
            return _outcome.decode(own), None
        outcome = _outcome.decode(shared) if shared else None
        if outcome is not None:
            return (outcome if position.index < outcome.records else None), None
        entry = self._lane.peeked(waiting, position)
        try:
            envelopes = _block.decode(entry.block) if entry else []
        except msgspec.MsgspecError:
            envelopes = []  # on its way to the quarantine
        return None, envelopes[position.index] if position.index < len(envelopes) else None

    async def dead_letters(self, *, offset: int, limit: int) -> tuple[int, list[DeadLetter]]:
        """The number of dead letters and one page of them, newest first.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        try:
            total = await self._client.zcard(self._keys.dead_index)
            ids: Any = await self._client.zrange(self._keys.dead_index, offset, offset + limit - 1, desc=True)
            bodies: Any = await self._client.hmget(self._keys.dead, ids) if ids else []
        except (redis_errors.RedisError, OSError) as error:
            raise translate(error) from error
        return int(total), [_letter.decode(body) for body in bodies if body]

    async def dead_letter(self, notification_id: str) -> DeadLetter:
        """One dead letter.

        Raises:
            InvalidRecordError: not an id of ours.
            NotFoundError: there is none with this id.
            StorageUnavailableError: the server does not answer.
        """
        Position.parse(notification_id)
        try:
            body: Any = await self._client.hget(self._keys.dead, notification_id)
        except (redis_errors.RedisError, OSError) as error:
            raise translate(error) from error
        if body is None:
            raise NotFoundError(f"no dead letter {notification_id}")
        return _letter.decode(body)

    async def replay(self, notification_id: str) -> bool:
        """Put a dead letter back into its lane with a clean slate of attempts; atomic, so it is never in two places.

        Raises:
            NotFoundError: there is none with this id.
            StorageUnavailableError: the server does not answer.
        """
        letter = await self.dead_letter(notification_id)
        envelope = Envelope(letter.notification, letter.id)
        partition = Position.parse(letter.id).partition
        keys = [self._keys.dead, self._keys.dead_index, self._lane.keys.stream(partition), self._keys.counts]
        try:
            moved = await self._replay.run(self._client, keys, [letter.id, WIRE_VERSION, _encode(envelope)])
        except (redis_errors.RedisError, OSError) as error:
            raise translate(error) from error
        return bool(moved)


SHARED = frozenset({NotificationState.DELIVERED, NotificationState.SUPPRESSED, NotificationState.EXPIRED})


def _alike(one: Delivery, other: Delivery) -> bool:
    """Whether two records of a block had the same end on their first pass, times aside."""
    if one.envelope.id or one.state is not other.state or one.reason is not other.reason:
        return False
    return one.attempts == other.attempts or (
        [(a.channel, a.ok) for a in one.attempts] == [(a.channel, a.ok) for a in other.attempts]
    )


def _fields(members: Sequence[tuple[int, Delivery]]) -> dict[Any, Any]:
    """One shared field where a whole block ended alike on its first pass, else a field a record."""
    first = members[0][1]
    if len(members) > 1 and first.state in SHARED and all(_alike(d, first) for _, d in members):
        last = max(members, key=lambda member: member[1].decided_at)[1]
        return {
            ALL: _encode(
                Outcome(last.state, last.reason, last.decided_at, last.attempts, records=len(members))
            )
        }
    return {
        str(index): _encode(Outcome(d.state, d.reason, d.decided_at, d.attempts, retry_at=d.retry_at))
        for index, d in members
    }


def view_attempts(attempts: Sequence[Attempt]) -> list[AttemptView]:
    """Attempts for people."""
    return [
        AttemptView(
            at=to_datetime(a.at),
            channel=a.channel,
            ok=a.ok,
            reason=a.reason,
            detail=a.detail,
            duration_ms=a.duration_ms,
        )
        for a in attempts
    ]


def view_dead_letter(letter: DeadLetter) -> DeadLetterView:
    """A dead letter for people."""
    return DeadLetterView(
        id=letter.id,
        lane=letter.lane,  # type: ignore[arg-type]  # a lane's name
        reason=letter.reason,
        error=letter.error,
        accepted_at=to_datetime(letter.notification.accepted_at),
        failed_at=to_datetime(letter.failed_at),
        attempt_count=len(letter.attempts),
        attempts=view_attempts(letter.attempts),
        notification=to_request(letter.notification),
        traceparent=letter.notification.traceparent,
    )


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
            detail=a.channel if a.ok else f"{a.channel}: {a.reason}: {a.detail}",
        )
        for a in attempts
    ]
    state = NotificationState(outcome.state) if outcome else NotificationState.ACCEPTED
    if outcome and state is NotificationState.RETRYING:
        timeline.append(
            TimelineEvent(
                at=to_datetime(outcome.at),
                event="retrying",
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
        notification=to_request(envelope.notification) if envelope else None,
    )
