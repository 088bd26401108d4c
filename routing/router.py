"""The router: takes blocks from a notification lane and delivers them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import msgspec
from redis.asyncio.client import Pipeline

from routing.late import LateDeliveries
from routing.ledger import Ledger
from routing.pipeline import Delivery, DeliveryStage, run_stages
from routing.turns import Turns
from tocsin.clock import Clock
from tocsin.keys import LaneKeys
from tocsin.lanes import Entry, Stage
from tocsin.quarantine import stage_quarantine
from tocsin.schemas import WIRE_VERSION, Envelope

log = logging.getLogger(__name__)


class Router:
    """The handler of a notification lane.

    Args:
        stages: The pipeline, a literal; the last one delivers.
        ledger: Where outcomes go.
        keys: The lane's keys.
        clock: Time.
        late: What goes on behind its block; None: a block waits for its slowest call.
    """

    def __init__(
        self,
        stages: Sequence[DeliveryStage],
        ledger: Ledger,
        keys: LaneKeys,
        clock: Clock,
        *,
        late: LateDeliveries | None = None,
    ) -> None:
        self._late = late
        self._stages = tuple(stages)
        self._ledger = ledger
        self._keys = keys
        self._clock = clock
        self._turns = Turns()
        self._decode = msgspec.msgpack.Decoder(list[Envelope]).decode

    async def handle(self, entries: Sequence[Entry]) -> Stage:
        """Deliver what the blocks hold; what to write is settled together with their acknowledgement."""
        deliveries: list[Delivery] = []
        unreadable: list[Entry] = []
        for entry in entries:
            envelopes = self._envelopes(entry)
            if envelopes is None:
                unreadable.append(entry)
                continue
            deliveries += [
                Delivery(envelope.id, envelope, entry, index) for index, envelope in enumerate(envelopes)
            ]
        settled = await self._deliver(deliveries)

        def stage(pipe: Pipeline) -> None:
            if settled:
                self._ledger.stage(pipe, settled)
            stage_quarantine(pipe, self._keys, unreadable)

        return stage

    async def _deliver(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Run the stages: the last one begins in the order in which blocks came, or a recipient's would get mixed up.

        Blocks overlap while recipients are looked up, and again while channels wait for their answers.
        """
        turn = self._turns.take()
        try:
            await run_stages(self._stages[:-1], deliveries, self._clock)
            await turn.comes()
            last = asyncio.ensure_future(run_stages(self._stages[-1:], deliveries, self._clock))
            await asyncio.sleep(0)  # each channel is asked before the next block's are
        finally:
            turn.passes()
        if self._late is not None and not last.done():
            return await self._late.settle_by(last, deliveries)
        await last
        return deliveries

    def _envelopes(self, entry: Entry) -> list[Envelope] | None:
        if entry.version == WIRE_VERSION:
            try:
                return self._decode(entry.block)
            except msgspec.MsgspecError:
                pass
        log.error("block %s of partition %d cannot be read; set aside", entry.entry, entry.partition)
        return None
