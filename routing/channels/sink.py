"""The `sink` channel: delivers to nobody and counts. What a benchmark measures is then the platform alone."""

from __future__ import annotations

from collections.abc import Sequence

from routing.channels import ChannelResult, Deliverable, LocalChannel
from tocsin.clock import Clock
from tocsin.wire.notifications import Attempt


class SinkChannel(LocalChannel):
    """Takes everything at once."""

    name = "sink"

    def __init__(self, clock: Clock) -> None:
        self.delivered = 0
        self._clock = clock

    async def deliver(self, batch: Sequence[Deliverable]) -> Sequence[ChannelResult]:
        """Every one is delivered."""
        self.delivered += len(batch)
        return [ChannelResult((Attempt(self._clock.now(), self.name, ok=True),))] * len(batch)

    async def close(self) -> None:
        """Nothing to close."""
