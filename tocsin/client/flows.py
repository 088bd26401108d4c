"""What the client does, step by step, without doing it: both clients run these same flows.

A flow is a generator. It yields the next `Call` to make or `Pause` to take, is sent the outcome, and returns
its result; one loop of six lines turns it into a blocking method, another into a coroutine.

    exchange:  call ──► reply 2xx ───────────────────────► outcome
                 ▲  └──► failure ──► worth another try? ──no──► outcome
                 └──────── pause ◄──yes──┘
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from http import HTTPStatus
from typing import TypeVar

from msgspec import structs

from tocsin.client import calls
from tocsin.client.answers import (
    CallFailure,
    FailureKind,
    Outcome,
    Reply,
    decode,
    refused_records,
    retry_after_s,
    unexpected_answer,
    weakest,
)
from tocsin.client.calls import Batch, Call
from tocsin.clock import Clock
from tocsin.errors import InvalidRecordError, TimedOutError, TocsinError
from tocsin.resilience.retry import SHED_STATUSES
from tocsin.wire.activity import ActivityAccepted, ActivityRequest
from tocsin.wire.churn import ChurnAnswer, ChurnBatchAnswer
from tocsin.wire.dead_letters import (
    MAX_HANDLED,
    DeadLetterFilter,
    HandledLetters,
    PurgeRequest,
    Replayed,
    ReplayRequest,
)
from tocsin.wire.features import FeatureRow, FeaturesBatchAnswer
from tocsin.wire.lanes import Durability
from tocsin.wire.notifications import (
    NotificationRequest,
    NotificationsAccepted,
    NotificationState,
    NotificationStatus,
    Receipt,
)
from tocsin.wire.problems import RecordError

T = TypeVar("T")
A = TypeVar("A", NotificationsAccepted, ActivityAccepted)

FINAL_STATES = frozenset(
    {
        NotificationState.DELIVERED,
        NotificationState.SUPPRESSED,
        NotificationState.EXPIRED,
        NotificationState.DEAD,
    }
)
MAX_RETRY_AFTER_S = 30.0
FIRST_POLL_S = 0.05
SLOWEST_POLL_S = 1.0
POLL_GROWTH = 1.5


@dataclass(frozen=True, slots=True)
class Pause:
    """Time to let pass before the next step."""

    seconds: float
    retry: bool  # before a repeat of a call that failed


Flow = Generator[Call | Pause, Outcome | None, T]


@dataclass(frozen=True, slots=True)
class RequestRetryPolicy:
    """How often and how long to try again: exponential backoff with full jitter."""

    retries: int = 4
    first_s: float = 0.1
    longest_s: float = 5.0
    total_s: float = 60.0  # from the first call; no pause may end after it

    def pause_s(self, attempt: int, rng: Callable[[], float]) -> float:
        """Seconds to wait after the failure of attempt 0, 1, …; `rng` gives numbers in [0, 1)."""
        return rng() * min(self.longest_s, self.first_s * 2.0 ** min(attempt, 60))


def worth_retrying(call: Call, outcome: Outcome) -> bool:
    """Whether another try can help and cannot do harm.

    Refused or never sent: always. Perhaps carried out: only what may be repeated. A 500 may be a fault that
    repeats itself, so a POST must carry a key to be tried again.
    """
    if isinstance(outcome, CallFailure):
        return outcome.kind is FailureKind.CONNECT or call.repeatable
    if outcome.status in SHED_STATUSES or outcome.status == HTTPStatus.REQUEST_TIMEOUT:
        return True  # the edge lets go of a request that did not arrive in full
    if outcome.status in {502, 504}:
        return call.repeatable
    return outcome.status == 500 and (call.method == "GET" or bool(call.key))


@dataclass(frozen=True, slots=True)
class Flows:
    """Each thing a client can do, as a flow.

    Args:
        url: the platform's address, for messages.
        policy: when to try again.
        max_batch: records a request, at most.
        clock: where time comes from.
        rng: numbers in [0, 1), for jitter.
    """

    url: str
    policy: RequestRetryPolicy
    max_batch: int
    clock: Clock
    rng: Callable[[], float]

    # ----------------------------------------------------------------- one call

    def exchange(self, call: Call, policy: RequestRetryPolicy) -> Flow[Outcome]:
        """Make a call, and again while that helps; the last outcome."""
        ends_at = self.clock.monotonic() + policy.total_s
        attempt = 0
        while True:
            outcome = yield call
            if outcome is None:
                msg = "a call was not performed"
                raise AssertionError(msg)
            if attempt >= policy.retries or not worth_retrying(call, outcome):
                return outcome
            pause_s = policy.pause_s(attempt, self.rng)
            if isinstance(outcome, Reply):
                asked_s = retry_after_s(outcome.retry_after, self.clock.now()) or 0.0
                pause_s = max(pause_s, min(asked_s, MAX_RETRY_AFTER_S))
            if self.clock.monotonic() + pause_s > ends_at:
                return outcome
            yield Pause(pause_s, retry=True)
            attempt += 1

    def ask(self, call: Call, kind: type[T], policy: RequestRetryPolicy | None = None) -> Flow[T]:
        """Make a call and decode its answer as `kind`."""
        outcome = yield from self.exchange(call, policy or self.policy)
        return self._decode(call, outcome, kind)

    def ask_by_id(self, collection: str, name: str, kind: type[T]) -> Flow[T]:
        """Ask for one thing by its id."""
        return self.ask(calls.ask_call(collection, name, field="id"), kind)

    def about(self, collection: str, advertiser_id: str, kind: type[T], as_of: datetime | None) -> Flow[T]:
        """Ask what is known of one advertiser."""
        return self.ask(calls.ask_call(collection, advertiser_id, field="advertiser_id", as_of=as_of), kind)

    def ready(self) -> Flow[bool]:
        """Whether the platform is up, asked once."""
        outcome = yield calls.READY
        if isinstance(outcome, Reply) and outcome.status < 500:
            self._decode(calls.READY, outcome, object)
            return True
        return False

    def replay(self, name: str, idempotency_key: str | None) -> Flow[Replayed]:
        """Put a dead letter back into its lane."""
        key = calls.idempotency_key(idempotency_key)
        return (yield from self.ask(calls.replay_call(name, key=key), Replayed))

    def replay_many(
        self, wanted: DeadLetterFilter, *, dry_run: bool, rate: float, limit: int | None, cursor: str
    ) -> Flow[HandledLetters]:
        """Put all that match back, request by request, each paced by the platform."""
        return self._handle_many(
            lambda most, after: calls.replay_many_call(
                ReplayRequest(filter=wanted, dry_run=dry_run, rate=rate, limit=most, cursor=after)
            ),
            limit,
            cursor,
        )

    def purge_many(
        self, wanted: DeadLetterFilter, *, dry_run: bool, limit: int | None, cursor: str
    ) -> Flow[HandledLetters]:
        """Delete all that match, request by request."""
        return self._handle_many(
            lambda most, after: calls.purge_many_call(
                PurgeRequest(filter=wanted, dry_run=dry_run, limit=most, cursor=after)
            ),
            limit,
            cursor,
        )

    def _handle_many(
        self, call: Callable[[int, str], Call], limit: int | None, cursor: str
    ) -> Flow[HandledLetters]:
        """The same call from cursor to cursor, until the letters or the limit are at their end."""
        ids: list[str] = []
        gone = scanned = 0
        while True:
            left = MAX_HANDLED if limit is None else min(limit - len(ids) - gone, MAX_HANDLED)
            answer = yield from self.ask(call(left, cursor), HandledLetters)
            ids += answer.ids
            gone += answer.gone
            scanned += answer.scanned
            cursor = answer.cursor
            if not cursor or (limit is not None and len(ids) + gone >= limit):
                return structs.replace(answer, ids=ids, gone=gone, scanned=scanned)

    # ----------------------------------------------------------------- notifications

    def send(self, notification: object, idempotency_key: str | None) -> Flow[Receipt]:
        """Send one notification."""
        key = calls.idempotency_key(idempotency_key)
        call = calls.notifications_call(calls.notification_body(notification), key=key)
        answer = yield from self.ask(call, NotificationsAccepted)
        if answer.errors:
            error = answer.errors[0]
            raise InvalidRecordError(error.detail, field=error.field, limit=error.limit)
        if not answer.receipts:
            raise unexpected_answer(call, 202, "neither a receipt nor an error")
        return answer.receipts[0]

    def send_many(
        self, notifications: Iterable[object], *, atomic: bool, idempotency_key: str | None
    ) -> Flow[NotificationsAccepted]:
        """Send notifications, batch by batch."""
        key = calls.idempotency_key(idempotency_key)
        if atomic:
            return (yield from self._send_atomic(notifications, key))
        receipts: list[Receipt] = []
        errors: list[RecordError] = []
        accepted = rejected = 0
        for number, batch in enumerate(calls.batches(notifications, NotificationRequest, self.max_batch)):
            call = calls.notifications_call(batch.body, key=f"{key}-{number}")
            try:
                answer = yield from self._send_notifications(call, batch)
            except TocsinError as error:
                error.add_note(
                    f"{accepted} records were accepted before; to go on without sending them twice, "
                    f"send the same records again with idempotency_key={key!r}"
                )
                raise
            accepted += answer.accepted
            rejected += answer.rejected
            receipts += answer.receipts
            errors += answer.errors
        return NotificationsAccepted(accepted=accepted, rejected=rejected, receipts=receipts, errors=errors)

    def _send_atomic(self, notifications: Iterable[object], key: str) -> Flow[NotificationsAccepted]:
        batch = calls.atomic_batch(notifications, NotificationRequest)
        if batch.errors:
            count = len(batch.indexes) + len(batch.errors)
            return NotificationsAccepted(accepted=0, rejected=count, receipts=[], errors=batch.errors)
        call = calls.notifications_call(batch.body, key=key, atomic=True)
        return (yield from self._send_notifications(call, batch))

    def _send_notifications(self, call: Call, batch: Batch) -> Flow[NotificationsAccepted]:
        answer, errors = yield from self._send_batch(call, batch, NotificationsAccepted)
        rejected = (answer.rejected if answer else len(batch.indexes)) + len(batch.errors)
        if not answer:
            return NotificationsAccepted(accepted=0, rejected=rejected, receipts=[], errors=errors)
        receipts = [structs.replace(one, index=_position(call, batch, one.index)) for one in answer.receipts]
        return NotificationsAccepted(
            accepted=answer.accepted, rejected=rejected, receipts=receipts, errors=errors
        )

    def _send_batch(
        self, call: Call, batch: Batch, kind: type[A]
    ) -> Flow[tuple[A | None, list[RecordError]]]:
        """One request: its answer (None when nothing was sent, or every record refused), and all errors.

        The errors are ours and the platform's, by the caller's indexes.
        """
        answer: A | None = None
        theirs: list[RecordError] = []
        if batch.body:
            outcome = yield from self.exchange(call, self.policy)
            refused = refused_records(outcome)
            if refused is None:
                answer = self._decode(call, outcome, kind)
                theirs = answer.errors
            else:
                theirs = refused
        moved = [structs.replace(one, index=_position(call, batch, one.index)) for one in theirs]
        return answer, sorted(batch.errors + moved, key=lambda one: one.index)

    def wait(self, name: str, timeout_s: float) -> Flow[NotificationStatus]:
        """Ask for a notification's state until it is final."""
        ends_at = self.clock.monotonic() + timeout_s
        call = calls.ask_call("notifications", name, field="id")
        poll_s = FIRST_POLL_S
        while True:
            left_s = max(ends_at - self.clock.monotonic(), 0.0)
            policy = replace(self.policy, total_s=min(self.policy.total_s, left_s))
            status = yield from self.ask(call, NotificationStatus, policy)
            if status.state in FINAL_STATES:
                return status
            left_s = ends_at - self.clock.monotonic()
            if left_s <= 0:
                raise TimedOutError(
                    f"notification {name} is still {status.state} after {timeout_s:g} s",
                    hint="it stays accepted: ask for its status later",
                )
            yield Pause(min(poll_s, left_s), retry=False)
            poll_s = min(poll_s * POLL_GROWTH, SLOWEST_POLL_S)

    # ----------------------------------------------------------------- activity and predictions

    def send_activity(self, activities: Iterable[object]) -> Flow[ActivityAccepted]:
        """Send activities, batch by batch."""
        errors: list[RecordError] = []
        durabilities: list[Durability] = []
        accepted = rejected = 0
        for batch in calls.batches(activities, ActivityRequest, self.max_batch):
            answer, found = yield from self._send_batch(
                calls.activity_call(batch.body), batch, ActivityAccepted
            )
            if answer:
                accepted += answer.accepted
                durabilities.append(answer.durability)
            rejected += (answer.rejected if answer else len(batch.indexes)) + len(batch.errors)
            errors += found
        durability = weakest(durabilities)
        return ActivityAccepted(accepted=accepted, rejected=rejected, durability=durability, errors=errors)

    def churn_many(
        self, ids: Iterable[str], as_of: datetime | None, *, drivers: bool = False
    ) -> Flow[ChurnBatchAnswer]:
        """Ask for many predictions, request by request."""
        predictions: list[ChurnAnswer] = []
        unknown: list[str] = []
        degraded = False
        for call in calls.churn_calls(ids, as_of, drivers=drivers):
            answer = yield from self.ask(call, ChurnBatchAnswer)
            predictions += answer.predictions
            unknown += answer.unknown
            degraded |= answer.degraded
        return ChurnBatchAnswer(predictions=predictions, unknown=unknown, degraded=degraded)

    def features_many(
        self,
        ids: Iterable[str],
        features: Iterable[str],
        values: Mapping[str, float] | None,
        as_of: datetime | None,
    ) -> Flow[list[FeatureRow]]:
        """Ask for the features of many advertisers, request by request."""
        rows: list[FeatureRow] = []
        for call in calls.features_calls(ids, features, values, as_of):
            answer = yield from self.ask(call, FeaturesBatchAnswer)
            rows += answer.rows
        return rows

    def _decode(self, call: Call, outcome: Outcome, kind: type[T]) -> T:
        return decode(call, outcome, kind, url=self.url, now=self.clock.now())


def _position(call: Call, batch: Batch, index: int) -> int:
    """The caller's index of the batch's record `index`."""
    if not 0 <= index < len(batch.indexes):
        raise unexpected_answer(call, 202, f"it speaks of record {index} of {len(batch.indexes)}")
    return batch.indexes[index]
