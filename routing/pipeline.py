"""The delivery pipeline: stages over a batch, each a decision with a named reason.

    DELIVERY = (Expire(), Deliver(channels, retry))

A stage gets the deliveries that are still undecided and may decide some. What no stage decides stays pending.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from tocsin.clock import Clock
from tocsin.schemas import Attempt, Envelope, NotificationState

log = logging.getLogger(__name__)


class OutcomeReason(StrEnum):
    """Why a delivery is in its state: a metric label, so the list is short and closed."""

    NONE = ""
    STALE = "stale"  # expired before it was delivered
    RETRY_SCHEDULED = "retry_scheduled"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    REFUSED = "refused"  # every open channel said no for good


@dataclass(slots=True)
class Delivery:
    """One notification on its way through the stages."""

    id: str
    envelope: Envelope
    state: NotificationState = NotificationState.ACCEPTED  # accepted: undecided
    reason: OutcomeReason = OutcomeReason.NONE
    error: str = ""
    attempts: tuple[Attempt, ...] = ()
    decided_at: float = 0.0
    retry_at: float = 0.0

    def decide(self, state: NotificationState, reason: OutcomeReason, at: float) -> None:
        """Fix what becomes of it."""
        self.state = state
        self.reason = reason
        self.decided_at = at


class DeliveryStage(Protocol):
    """One step of the pipeline."""

    async def __call__(self, batch: Sequence[Delivery], now: float) -> None:
        """Decide some of these, or none."""
        ...


async def run_stages(stages: Sequence[DeliveryStage], batch: Sequence[Delivery], clock: Clock) -> None:
    """Hand each stage what is still undecided."""
    for stage in stages:
        open_ = [delivery for delivery in batch if delivery.state is NotificationState.ACCEPTED]
        if not open_:
            return
        await stage(open_, clock.now())
