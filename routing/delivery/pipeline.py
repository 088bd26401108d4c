"""The delivery pipeline: stages over a batch, each a decision with a named reason.

    DELIVERY = (Expire(), Preferences(store), QuietHours(), Throttle(windows), Choose(…), Deliver(channels, retry))

A stage gets the deliveries that are still undecided and may decide some. What no stage decides stays pending.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from routing.deliveries import Delivery
from tocsin.clock import Clock
from tocsin.wire.notifications import NotificationState


class DeliveryStage(Protocol):
    """One step of the pipeline."""

    async def __call__(self, batch: Sequence[Delivery], now: float) -> int | None:
        """Decide some of these, or none. Returns how many; None where it does not count."""
        ...


async def run_stages(
    stages: Sequence[DeliveryStage], batch: Sequence[Delivery], clock: Clock
) -> Sequence[Delivery]:
    """Hand each stage what is still undecided, beginning with the batch. Returns what no stage decided."""
    for stage in stages:
        if not batch:
            break
        if await stage(batch, clock.now()) != 0:
            batch = [delivery for delivery in batch if delivery.state is NotificationState.ACCEPTED]
    return batch
