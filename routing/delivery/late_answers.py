"""Deliveries whose provider answers late: their block is settled without them.

    tried ──answered within wait_s──► settled with its block
      └──not yet──► a placeholder retry is settled, and postponed while we wait ──answered──► corrected in place
                                                                              └─we died──► the retry is tried

So a provider that hangs delays neither the other records of a block nor the blocks behind it, and nothing is lost:
the correction and the retry exclude each other on the server.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Sequence

import msgspec

from routing.deliveries import Delivery, OutcomeReason
from routing.ledger.ledger import Ledger
from tocsin.clock import Clock
from tocsin.errors import StorageUnavailableError
from tocsin.wire.notifications import NotificationState

log = logging.getLogger(__name__)

CORRECT_RETRY_S = 0.05  # between tries while the placeholder is not settled yet


class LatePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How long a block waits for its providers, and how many records may outlast their blocks.

    A placeholder is tried `lease_s` after it was last postponed, should this process die.
    """

    wait_s: float
    lease_s: float = 15.0
    max_records: int = 5_000


class LateDeliveries:
    """Deliveries that still wait for an answer after their block was settled.

    Args:
        ledger: Where outcomes go.
        policy: Waits and limits.
        clock: Time.
    """

    def __init__(self, ledger: Ledger, policy: LatePolicy, clock: Clock) -> None:
        self.records = 0  # waiting now
        self.corrected = 0
        self.superseded = 0  # answered, but their placeholder had already come back into the lane
        self._ledger = ledger
        self._policy = policy
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    async def wait_or_defer(
        self, delivering: asyncio.Future[None], deliveries: Sequence[Delivery]
    ) -> Sequence[Delivery]:
        """Wait for deliveries at most `wait_s`.

        Args:
            delivering: Done when all deliveries are decided.
            deliveries: Of some blocks.

        Returns:
            What to settle: each delivery, or a placeholder retry for one that has no answer yet.
        """
        if self.records < self._policy.max_records:
            await asyncio.wait([delivering], timeout=self._policy.wait_s)
        if delivering.done() or self.records >= self._policy.max_records:
            await delivering
            return deliveries
        now = self._clock.now()
        placeholders = {
            at: placeholder_for(one, now, now + self._policy.lease_s)
            for at, one in enumerate(deliveries)
            if one.state is NotificationState.ACCEPTED
        }
        late = [(deliveries[at], placeholder) for at, placeholder in placeholders.items()]
        self.records += len(late)
        task = asyncio.create_task(self._finish(delivering, late))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return [placeholders.get(at, one) for at, one in enumerate(deliveries)]

    async def drain(self) -> None:
        """Wait until nothing is late; each of the waits is bounded."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _finish(
        self, delivering: asyncio.Future[None], late: Sequence[tuple[Delivery, Delivery]]
    ) -> None:
        try:
            placeholders = [placeholder for _, placeholder in late]
            while not (await asyncio.wait([delivering], timeout=self._policy.lease_s / 3))[0]:
                await self._renew(placeholders)
            await delivering
            for one, placeholder in late:
                await self._correct(one, placeholder)
        except Exception:
            log.exception("%d late deliveries ended with an error; they will be retried", len(late))
        finally:
            self.records -= len(late)

    async def _renew(self, placeholders: Sequence[Delivery]) -> None:
        due = self._clock.now() + self._policy.lease_s
        try:
            await self._ledger.postpone(placeholders, due)
        except StorageUnavailableError as error:
            log.warning(
                "placeholders of %d late deliveries were not postponed, they may be delivered twice: %s",
                len(placeholders),
                error,
            )
            return
        for placeholder in placeholders:
            placeholder.retry_at = due

    async def _correct(self, one: Delivery, placeholder: Delivery) -> None:
        while self._clock.now() < placeholder.retry_at:
            try:
                if await self._ledger.correct(one, placeholder):
                    self.corrected += 1
                    return
            except StorageUnavailableError as error:
                log.warning("late answer of %s not written yet: %s", one.id, error)
            await asyncio.sleep(CORRECT_RETRY_S)
        self.superseded += 1
        log.warning("late answer of %s: its retry was already due, it may be delivered twice", one.id)


def placeholder_for(one: Delivery, now: float, due: float) -> Delivery:
    """A retry in place of a delivery that is still being tried: its state before this pass, due at `due`."""
    placeholder = copy.copy(one)
    placeholder.attempts = one.envelope.attempts
    placeholder.parked_at = one.envelope.parked_at
    placeholder.retry_at = due
    placeholder.decide(NotificationState.RETRYING, OutcomeReason.IN_FLIGHT, now)
    return placeholder
