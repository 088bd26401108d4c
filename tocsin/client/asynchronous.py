"""`AsyncClient`: the same as `tocsin.client.blocking.Client` with `await`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
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
from tocsin.client.churn_methods import AsyncChurnMethods
from tocsin.client.feature_methods import AsyncFeatureMethods
from tocsin.client.flows import Flow, Flows, Pause, RequestRetryPolicy
from tocsin.client.recipient_methods import AsyncRecipientMethods
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


class AsyncClient(AsyncRecipientMethods, AsyncFeatureMethods, AsyncChurnMethods):
    """`Client` for asyncio: the same arguments, methods and errors; `sleep` is a coroutine function."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 10.0,
        retries: int = 4,
        max_batch: int = 1000,
        retry_total_s: float = 60.0,
        transport: httpx2.AsyncBaseTransport | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        check_limits(timeout_s, retries, max_batch, retry_total_s)
        url = platform_url(base_url)
        policy = RequestRetryPolicy(retries=retries, total_s=retry_total_s)
        self._flows = Flows(url, policy, max_batch, clock or SystemClock(), random.random)
        self._http = httpx2.AsyncClient(
            base_url=url, headers=request_headers(api_key), timeout=timeout_s, transport=transport
        )
        self._sleep = sleep
        self.retries_made = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._flows.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _run(self, flow: Flow[T]) -> T:
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
                await self._sleep(step.seconds)
            else:
                outcome = await self._perform(step)

    async def _perform(self, call: Call) -> Outcome:
        try:
            return reply(await self._http.request(call.method, call.path, **request_parts(call)))
        except httpx2.RequestError as error:
            return failure(error)

    async def send(
        self,
        notification: NotificationLike | None = None,
        /,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Receipt:
        """As `Client.send`."""
        return await self._run(self._flows.send(notification_given(notification, fields), idempotency_key))

    async def send_many(
        self,
        notifications: Iterable[NotificationLike],
        *,
        atomic: bool = False,
        idempotency_key: str | None = None,
    ) -> NotificationsAccepted:
        """As `Client.send_many`."""
        flow = self._flows.send_many(notifications, atomic=atomic, idempotency_key=idempotency_key)
        return await self._run(flow)

    async def status(self, id: str) -> NotificationStatus:  # noqa: A002
        """As `Client.status`."""
        return await self._run(self._flows.ask_by_id("notifications", id, NotificationStatus))

    async def wait(self, id: str, timeout_s: float = 30.0) -> NotificationStatus:  # noqa: A002
        """As `Client.wait`."""
        return await self._run(self._flows.wait(id, timeout_s))

    async def send_activity(self, activities: Iterable[ActivityLike]) -> ActivityAccepted:
        """As `Client.send_activity`."""
        return await self._run(self._flows.send_activity(activities))

    async def insight(self, advertiser_id: str, as_of: datetime | None = None) -> InsightAnswer:
        """As `Client.insight`."""
        return await self._run(self._flows.about("insights", advertiser_id, InsightAnswer, as_of))

    async def dead_letters(
        self,
        lane: LaneName | str | None = None,
        limit: int = 50,
        *,
        cursor: str = "",
        **where: Unpack[Traits],
    ) -> DeadLetterPage:
        """As `Client.dead_letters`."""
        wanted = letter_filter({"lane": lane, **where})
        return await self._run(self._flows.ask(dead_letters_call(wanted, limit, cursor), DeadLetterPage))

    async def dead_letter(self, id: str) -> DeadLetterView:  # noqa: A002
        """As `Client.dead_letter`."""
        return await self._run(self._flows.ask_by_id("dead-letters", id, DeadLetterView))

    async def replay(self, id: str, *, idempotency_key: str | None = None) -> Replayed:  # noqa: A002
        """As `Client.replay`."""
        return await self._run(self._flows.replay(id, idempotency_key))

    async def replay_many(
        self,
        *,
        dry_run: bool = False,
        rate: float = DEFAULT_RATE,
        limit: int | None = None,
        cursor: str = "",
        **where: Unpack[Where],
    ) -> HandledLetters:
        """As `Client.replay_many`."""
        wanted = letter_filter(where)
        flow = self._flows.replay_many(wanted, dry_run=dry_run, rate=rate, limit=limit, cursor=cursor)
        return await self._run(flow)

    async def purge(self, id: str) -> Purged:  # noqa: A002
        """As `Client.purge`."""
        return await self._run(self._flows.ask(purge_call(id), Purged))

    async def purge_many(
        self, *, dry_run: bool = False, limit: int | None = None, cursor: str = "", **where: Unpack[Where]
    ) -> HandledLetters:
        """As `Client.purge_many`."""
        wanted = letter_filter(where)
        return await self._run(self._flows.purge_many(wanted, dry_run=dry_run, limit=limit, cursor=cursor))

    async def ready(self) -> bool:
        """As `Client.ready`."""
        return await self._run(self._flows.ready())
