"""`Client`: the Python client that waits; `tocsin.client.asynchronous` has the one to await.

Both only carry out what `tocsin.client.flows` decides. Every method raises the classes of `tocsin.errors`:
`InvalidRecordError` (names the field), `UnauthorizedError`, `NotFoundError`, `ConflictError`,
`OverloadedError`, `StorageUnavailableError`, `ModelUnavailableError`, `UnreachableError`, `TimedOutError`,
and `RequestFailedError` for anything else. What is retryable has been retried by then.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx2

from tocsin.client.answers import Outcome
from tocsin.client.calls import (
    ActivityLike,
    Call,
    NotificationLike,
    dead_letters_call,
    letter_filter,
    notification_given,
    purge_call,
)
from tocsin.client.churn_methods import ChurnMethods
from tocsin.client.feature_methods import FeatureMethods
from tocsin.client.flows import Flow, Flows, Pause, RequestRetryPolicy
from tocsin.client.recipient_methods import RecipientMethods
from tocsin.client.transport import check_limits, failure, platform_url, reply, request_headers, request_parts
from tocsin.clock import Clock, SystemClock
from tocsin.wire.activity import ActivityAccepted
from tocsin.wire.dead_letters import (
    DEFAULT_RATE,
    DeadLetterPage,
    DeadLetterView,
    HandledLetters,
    Purged,
    Replayed,
    Traits,
    Where,
)
from tocsin.wire.insights import InsightAnswer
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import NotificationsAccepted, NotificationStatus, Receipt

T = TypeVar("T")


class Client(RecipientMethods, FeatureMethods, ChurnMethods):
    """A blocking client of one platform; safe to share between threads.

    Args:
        base_url: the platform's address; else `TOCSIN_URL`, else `http://127.0.0.1:8000`.
        api_key: sent as a bearer token; else `TOCSIN_API_KEY`, else none is sent.
        timeout_s: seconds to wait for a connection, and for each part of an answer.
        retries: further tries of a call that failed for a passing reason.
        max_batch: records a request, at most 10,000.
        retry_total_s: seconds after which no further try begins.
        transport: stands in for the network, in tests.
        clock: where time comes from.
        sleep: how to wait, in seconds.

    Raises:
        ConfigurationError: one of these cannot be used.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 10.0,
        retries: int = 4,
        max_batch: int = 1000,
        retry_total_s: float = 60.0,
        transport: httpx2.BaseTransport | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        check_limits(timeout_s, retries, max_batch, retry_total_s)
        url = platform_url(base_url)
        policy = RequestRetryPolicy(retries=retries, total_s=retry_total_s)
        self._flows = Flows(url, policy, max_batch, clock or SystemClock(), random.random)
        self._http = httpx2.Client(
            base_url=url, headers=request_headers(api_key), timeout=timeout_s, transport=transport
        )
        self._sleep = sleep
        self.retries_made = 0  # over the client's life: a number that grows says the platform is struggling

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._flows.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _run(self, flow: Flow[T]) -> T:
        outcome: Outcome | None = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result
            outcome = None
            if isinstance(step, Pause):
                self.retries_made += step.retry
                self._sleep(step.seconds)
            else:
                outcome = self._perform(step)

    def _perform(self, call: Call) -> Outcome:
        try:
            return reply(self._http.request(call.method, call.path, **request_parts(call)))
        except httpx2.RequestError as error:
            return failure(error)

    # ----------------------------------------------------------------- notifications

    def send(
        self,
        notification: NotificationLike | None = None,
        /,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Receipt:
        """Send one notification, given as a struct, a mapping or fields.

        `idempotency_key`: the same key with the same notification returns the first receipt.
        """
        return self._run(self._flows.send(notification_given(notification, fields), idempotency_key))

    def send_many(
        self,
        notifications: Iterable[NotificationLike],
        *,
        atomic: bool = False,
        idempotency_key: str | None = None,
    ) -> NotificationsAccepted:
        """Send notifications in batches; indexes in the answer are positions in `notifications`.

        Records that break their schema are not sent and come back in `errors`, as those the platform refuses
        do; one with the code `overloaded` may be sent again after its `retry_after_s`. When a batch fails
        for good the error is raised, with a note on how to go on.

        Args:
            notifications: structs or mappings.
            atomic: store all or none; they must then fit one request (10,000 records, 8 MiB).
            idempotency_key: starts the key of each batch, so that the same call made again, even by another
                process, returns the first receipts. Default: a fresh one.
        """
        flow = self._flows.send_many(notifications, atomic=atomic, idempotency_key=idempotency_key)
        return self._run(flow)

    def status(self, id: str) -> NotificationStatus:  # noqa: A002 - the wire's own word
        """State and history of a notification, by its receipt's id."""
        return self._run(self._flows.ask_by_id("notifications", id, NotificationStatus))

    def wait(self, id: str, timeout_s: float = 30.0) -> NotificationStatus:  # noqa: A002
        """Poll until a notification's state is final; `TimedOutError` after `timeout_s` seconds."""
        return self._run(self._flows.wait(id, timeout_s))

    # ----------------------------------------------------------------- activity and predictions

    def send_activity(self, activities: Iterable[ActivityLike]) -> ActivityAccepted:
        """Send activities in batches, with answers merged as by `send_many`.

        The durability is the weakest of the batches'. Sending an event again replaces it, so a failed upload
        may simply be repeated.
        """
        return self._run(self._flows.send_activity(activities))

    def insight(self, advertiser_id: str, as_of: datetime | None = None) -> InsightAnswer:
        """What one should know about an advertiser, now or as of an aware datetime."""
        return self._run(self._flows.about("insights", advertiser_id, InsightAnswer, as_of))

    # ----------------------------------------------------------------- operations

    def dead_letters(
        self,
        lane: LaneName | str | None = None,
        limit: int = 50,
        *,
        cursor: str = "",
        **where: Unpack[Traits],
    ) -> DeadLetterPage:
        """The newest dead letters that match, of one lane or of all.

        A page with a `cursor` is not the last: the next one is asked for with it.

        Args:
            lane: only this lane.
            limit: how many to return, at most 500.
            cursor: of an earlier page.
            where: `reason`, `source`, `recipient`, `since`, `until` (aware datetimes), `text` (in the error).
        """
        wanted = letter_filter({"lane": lane, **where})
        return self._run(self._flows.ask(dead_letters_call(wanted, limit, cursor), DeadLetterPage))

    def dead_letter(self, id: str) -> DeadLetterView:  # noqa: A002
        """One dead letter, by its notification's id."""
        return self._run(self._flows.ask_by_id("dead-letters", id, DeadLetterView))

    def replay(self, id: str, *, idempotency_key: str | None = None) -> Replayed:  # noqa: A002
        """Put a dead letter back into its lane."""
        return self._run(self._flows.replay(id, idempotency_key))

    def replay_many(
        self,
        *,
        dry_run: bool = False,
        rate: float = DEFAULT_RATE,
        limit: int | None = None,
        cursor: str = "",
        **where: Unpack[Where],
    ) -> HandledLetters:
        """Put the dead letters that match back into their lanes; interrupted, it may simply be called again.

        Args:
            dry_run: only say which would be.
            rate: letters a second, 1 to 1,000.
            limit: how many at the most; None: all that match.
            cursor: go on from where an earlier answer ended.
            where: as `dead_letters`, and `lane`.
        """
        wanted = letter_filter(where)
        flow = self._flows.replay_many(wanted, dry_run=dry_run, rate=rate, limit=limit, cursor=cursor)
        return self._run(flow)

    def purge(self, id: str) -> Purged:  # noqa: A002
        """Delete a dead letter for good."""
        return self._run(self._flows.ask(purge_call(id), Purged))

    def purge_many(
        self, *, dry_run: bool = False, limit: int | None = None, cursor: str = "", **where: Unpack[Where]
    ) -> HandledLetters:
        """Delete the dead letters that match, for good; without a filter, all. Arguments as `replay_many`."""
        wanted = letter_filter(where)
        return self._run(self._flows.purge_many(wanted, dry_run=dry_run, limit=limit, cursor=cursor))

    def ready(self) -> bool:
        """Whether the platform is up, asked once; False also when it cannot be reached."""
        return self._run(self._flows.ready())
