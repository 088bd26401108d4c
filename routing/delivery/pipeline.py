"""The delivery pipeline: stages that decide, each with a named reason, then one step that delivers.

    decide = (Expire(), Preferences(store), QuietHours(), Throttle(windows))  ──undecided──►  Deliver(channels, retry)

A stage receives the deliveries that are still undecided and may decide some. `routing.delivery.assembly` holds the
pipelines of the lanes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from routing.deliveries import Delivery
from tocsin.clock import Clock
from tocsin.wire.notifications import NotificationState

DeliveryStep = Callable[[Sequence[Delivery]], Awaitable[None]]
"""Delivers what no stage decided, and records in each delivery what became of it."""


class DeliveryStage(Protocol):
    """One decision of the pipeline."""

    async def __call__(self, batch: Sequence[Delivery], now: float) -> int:
        """Decide some of these, or none. Returns how many it decided."""
        ...


async def run_stages(
    stages: Sequence[DeliveryStage], batch: Sequence[Delivery], clock: Clock
) -> Sequence[Delivery]:
    """Hand each stage what is still undecided, beginning with the batch. Returns what no stage decided."""
    for stage in stages:
        if not batch:
            break
        if await stage(batch, clock.now()):
            batch = [delivery for delivery in batch if delivery.state is NotificationState.ACCEPTED]
    return batch
