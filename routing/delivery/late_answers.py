"""Deliveries whose provider takes long: their block goes on without them.

    tried ──answered within patience_s──► settled with its block
      └──not yet──► settled as a retry, put off again and again while we wait ──answered──► corrected in place
                                                                             └─we died──► the retry is tried

So a provider that hangs holds up neither the other records of a block nor the blocks behind it, and nothing is lost:
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

AGAIN_S = 0.05  # between looks for a stand-in that is not settled yet


class LatePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How long a block waits for its providers, how much may go on behind it, and how soon it is tried if we die."""

    patience_s: float
    lease_s: float = 15.0
    max_records: int = 5_000


class LateDeliveries:
    """What still waits for an answer after its block was settled.

    Args:
        ledger: Where outcomes go.
        policy: Patience and bounds.
        clock: Time.
    """

    def __init__(self, ledger: Ledger, policy: LatePolicy, clock: Clock) -> None:
        self.records = 0  # that go on behind their blocks now
        self.corrected = 0
        self.given_up = 0  # answered, but their retry had gone its way
        self._ledger = ledger
        self._policy = policy
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    async def settle_by(
        self, delivering: asyncio.Future[None], deliveries: Sequence[Delivery]
    ) -> Sequence[Delivery]:
        """Wait for what is being delivered, but not for long.

        Args:
            delivering: Decides the deliveries.
            deliveries: Of some blocks.

        Returns:
            What to settle: each delivery, or a retry that stands in for one that has no answer yet.
        """
        if self.records < self._policy.max_records:
            await asyncio.wait([delivering], timeout=self._policy.patience_s)
        if delivering.done() or self.records >= self._policy.max_records:
            await delivering
            return deliveries
        now = self._clock.now()
        standins = {
            at: standin_for(one, now, now + self._policy.lease_s)
            for at, one in enumerate(deliveries)
            if one.state is NotificationState.ACCEPTED
        }
        late = [(deliveries[at], standin) for at, standin in standins.items()]
        self.records += len(late)
        task = asyncio.create_task(self._finish(delivering, late))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return [standins.get(at, one) for at, one in enumerate(deliveries)]

    async def drain(self) -> None:
        """Wait until nothing is late any more; each of its waits is bounded."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _finish(
        self, delivering: asyncio.Future[None], late: Sequence[tuple[Delivery, Delivery]]
    ) -> None:
        try:
            standins = [standin for _, standin in late]
            while not (await asyncio.wait([delivering], timeout=self._policy.lease_s / 3))[0]:
                await self._renew(standins)
            await delivering
            for one, standin in late:
                await self._correct(one, standin)
        except Exception:
            log.exception("%d late deliveries ended with an error; they will be tried again", len(late))
        finally:
            self.records -= len(late)

    async def _renew(self, standins: Sequence[Delivery]) -> None:
        due = self._clock.now() + self._policy.lease_s
        try:
            await self._ledger.put_off(standins, due)
        except StorageUnavailableError as error:
            log.warning("%d late deliveries may be told again: %s", len(standins), error)
            return
        for standin in standins:
            standin.retry_at = due

    async def _correct(self, one: Delivery, standin: Delivery) -> None:
        while self._clock.now() < standin.retry_at:
            try:
                if await self._ledger.correct(one, standin):
                    self.corrected += 1
                    return
            except StorageUnavailableError as error:
                log.warning("%s was answered late and is not written yet: %s", one.id, error)
            await asyncio.sleep(AGAIN_S)
        self.given_up += 1
        log.warning("%s was answered late and may be told again", one.id)


def standin_for(one: Delivery, now: float, due: float) -> Delivery:
    """A retry in place of a delivery that is still being tried: as it was before this pass."""
    standin = copy.copy(one)
    standin.attempts = one.envelope.attempts
    standin.parked_at = one.envelope.parked_at
    standin.retry_at = due
    standin.decide(NotificationState.RETRYING, OutcomeReason.IN_FLIGHT, now)
    return standin
