"""The dead letters of one lane: what could not be delivered, kept until a person replays or purges it.

    dead ──replay──► waiting in the lane again ──► delivered | … | dead (one more replay, its attempts added up)
      └────purge───► gone, counted as `purged`

Each of these steps is atomic on the server, so an interrupted replay or purge of many is simply run again.
`dead` in the counts is what is here now: `accepted = waiting + retrying + delivered + suppressed + expired +
dead + purged`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from redis import asyncio as aioredis
from redis.asyncio.client import Pipeline

from routing.deliveries import Delivery
from routing.intake.intake import shown_request
from routing.ledger.dead_letter_scripts import purge_letter, replay_letter
from tocsin.clock import to_datetime, to_epoch
from tocsin.errors import InvalidRecordError, NotFoundError
from tocsin.keys import LaneKeys
from tocsin.storage.errors import translated
from tocsin.streams.lanes import Lane
from tocsin.streams.records import Position
from tocsin.wire.dead_letters import DeadLetter, DeadLetterFilter, DeadLetterView
from tocsin.wire.notifications import Attempt, AttemptView, Envelope, NotificationState

SCAN_PAGE = 200  # letters fetched at once: at most some 2 MB

_encode = msgspec.msgpack.Encoder().encode
_letter = msgspec.msgpack.Decoder(DeadLetter)


class LetterCursor(msgspec.Struct, frozen=True, order=True):
    """A place among the letters, which lie newest first: when one died (epoch seconds), and its id."""

    at: float
    id: str

    @classmethod
    def parse(cls, cursor: str) -> LetterCursor:
        """Read what `str` wrote.

        Raises:
            InvalidRecordError: it is no cursor of ours.
        """
        at, _, letter_id = cursor.partition("_")
        try:
            Position.parse(letter_id)
            found = cls(float(at), letter_id)
        except (ValueError, InvalidRecordError):
            found = None
        if found is None or not math.isfinite(found.at):
            raise InvalidRecordError(
                f"{cursor[:64]!r} is not a cursor", field="cursor", limit="the cursor of an earlier answer"
            )
        return found

    def __str__(self) -> str:
        return f"{self.at!r}_{self.id}"


class Scan(msgspec.Struct, frozen=True):
    """One bounded look at a lane's letters, newest first."""

    letters: list[DeadLetter]
    scanned: int
    end: LetterCursor | None  # the last one looked at; None: there are no older ones


def matches(wanted: DeadLetterFilter, letter: DeadLetter) -> bool:
    """Whether a letter is meant by a filter."""
    return (
        wanted.lane in {None, letter.lane}
        and wanted.reason in {None, letter.reason}
        and wanted.source in {None, letter.notification.source}
        and wanted.recipient in {None, letter.notification.recipient}
        and (wanted.since is None or letter.failed_at >= to_epoch(wanted.since))
        and (wanted.until is None or letter.failed_at <= to_epoch(wanted.until))
        and (wanted.text is None or wanted.text.casefold() in letter.error.casefold())
    )


def stage_letters(pipe: Pipeline, keys: LaneKeys, lane: str, deliveries: Iterable[Delivery]) -> None:
    """Add to a settling transaction a letter for each delivery that is dead."""
    for delivery in deliveries:
        if delivery.state is NotificationState.DEAD:
            pipe.hset(keys.dead, delivery.id, _encode(_new_letter(lane, delivery)))
            pipe.zadd(keys.dead_index, {delivery.id: delivery.decided_at})


def _new_letter(lane: str, delivery: Delivery) -> DeadLetter:
    return DeadLetter(
        id=delivery.id,
        lane=lane,
        notification=delivery.envelope.notification,
        reason=delivery.reason,
        error=delivery.error,
        failed_at=delivery.decided_at,
        attempts=delivery.attempts,
        replays=delivery.envelope.replays,
        earlier_attempts=delivery.envelope.earlier_attempts,
    )


class DeadLetters:
    """Finds, replays and purges the dead letters of one lane.

    Args:
        lane: The lane, for its keys.
        client: The lane's server.
    """

    def __init__(self, lane: Lane, client: aioredis.Redis) -> None:
        self.name = lane.name
        self._keys: LaneKeys = lane.keys
        self._client = client

    async def total(self) -> int:
        """How many there are.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        with translated():
            return int(await self._client.zcard(self._keys.dead_index))

    async def scan(
        self,
        wanted: DeadLetterFilter,
        after: LetterCursor | None = None,
        *,
        max_matches: int,
        max_scanned: int,
    ) -> Scan:
        """Look through the letters, newest first, until enough match or enough were looked at.

        Args:
            wanted: Which are meant.
            after: Go on below this place; None: from the newest.
            max_matches: Stop after so many that match.
            max_scanned: Stop after so many looked at; bounds the work of one call.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        found: list[DeadLetter] = []
        scanned, end = 0, after
        while True:
            cursors = await self._older(wanted, end, min(SCAN_PAGE, max_scanned - scanned))
            if not cursors:
                return Scan(found, scanned, None)
            for cursor, letter in zip(cursors, await self._fetch(cursors), strict=True):
                scanned, end = scanned + 1, cursor
                if letter is not None and matches(wanted, letter):  # None: replayed a moment ago
                    found.append(letter)
                if len(found) == max_matches or scanned == max_scanned:
                    return Scan(found, scanned, end)

    async def _older(
        self, wanted: DeadLetterFilter, after: LetterCursor | None, count: int
    ) -> list[LetterCursor]:
        """Up to `count` places right below `after`, within the filter's times; empty at the end."""
        high = math.inf if wanted.until is None else to_epoch(wanted.until)
        low = -math.inf if wanted.since is None else to_epoch(wanted.since)
        high = high if after is None else min(high, after.at)
        offset = 0
        while True:
            with translated():
                rows: Any = await self._client.zrange(
                    self._keys.dead_index, high, low,
                    desc=True, byscore=True, withscores=True, offset=offset, num=count,
                )  # fmt: skip
            cursors = [LetterCursor(float(at), letter_id.decode()) for letter_id, at in rows]
            older = [cursor for cursor in cursors if after is None or cursor < after]
            if older or len(rows) < count:
                return older
            offset += count  # all of them died at the moment of `after` and were seen: look past them

    async def _fetch(self, cursors: Sequence[LetterCursor]) -> list[DeadLetter | None]:
        with translated():
            bodies: Any = await self._client.hmget(self._keys.dead, [cursor.id for cursor in cursors])
        return [_letter.decode(body) if body else None for body in bodies]

    async def get(self, notification_id: str) -> DeadLetter:
        """One dead letter.

        Raises:
            InvalidRecordError: not an id of ours.
            NotFoundError: there is none with this id.
            StorageUnavailableError: the server does not answer.
        """
        position = Position.parse(notification_id)
        (letter,) = await self._fetch([LetterCursor(0.0, notification_id)])
        if letter is None or position.lane != self.name:
            raise NotFoundError(f"no dead letter {notification_id}")
        return letter

    async def replay(self, letter: DeadLetter) -> bool:
        """Put a letter back into its lane with a clean slate of attempts; false when it is gone already.

        Raises:
            StorageUnavailableError: the server did not confirm; it may or may not have moved.
        """
        envelope = Envelope(
            letter.notification,
            letter.id,
            replays=letter.replays + 1,
            earlier_attempts=letter.earlier_attempts + len(letter.attempts),
        )
        with translated():
            return await replay_letter(
                self._client,
                self._keys,
                partition=Position.parse(letter.id).partition,
                letter_id=letter.id,
                envelope=_encode(envelope),
            )

    async def purge(self, letter_id: str) -> bool:
        """Delete a letter for good and count it as purged; false when it is gone already.

        Raises:
            StorageUnavailableError: the server did not confirm; it may or may not be gone.
        """
        with translated():
            return await purge_letter(self._client, self._keys, letter_id=letter_id)


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
            provider=a.provider,
            recipient=a.recipient,
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
        attempt_count=letter.earlier_attempts + len(letter.attempts),
        attempts=view_attempts(letter.attempts),
        notification=shown_request(letter.notification),
        traceparent=letter.notification.traceparent,
        replays=letter.replays,
    )
