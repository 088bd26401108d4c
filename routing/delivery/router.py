"""The router: takes blocks from a notification lane and delivers them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

import msgspec
from redis.asyncio.client import Pipeline

from routing.deliveries import Delivery
from routing.delivery.late_answers import LateDeliveries
from routing.delivery.ordered_gate import OrderedGate
from routing.delivery.pipeline import DeliveryStage, DeliveryStep, run_stages
from routing.ledger.ledger import Ledger
from tocsin.clock import Clock
from tocsin.errors import StorageUnavailableError
from tocsin.keys import LaneKeys
from tocsin.streams.ports import Hold, Kept
from tocsin.streams.quarantine import stage_quarantine
from tocsin.streams.records import Entry, Writes
from tocsin.telemetry.reports import Fault, faults_of
from tocsin.wire.lanes import WIRE_VERSION
from tocsin.wire.notifications import Envelope

log = logging.getLogger(__name__)


MAX_DECISION_AGE_S = 5.0
"""A block that waited longer at the gate is decided again: quiet hours may have begun, or its recipient muted it."""


class DecodedBlocks:
    """Blocks and the deliveries read from them.

    Args:
        entries: The blocks.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.deliveries: list[Delivery] = []
        self.undecided: Sequence[Delivery] = ()  # by no stage
        self.unreadable: list[Entry] = []

    def subset(self, entries: Sequence[Entry]) -> DecodedBlocks:
        """The same for some of the blocks."""
        if len(entries) == len(self.entries):
            return self
        part = DecodedBlocks(entries)
        part.deliveries = [delivery for delivery in self.deliveries if delivery.entry in entries]
        part.undecided = [delivery for delivery in self.undecided if delivery.entry in entries]
        part.unreadable = [entry for entry in self.unreadable if entry in entries]
        return part


class Router:
    """The handler of a notification lane.

    Args:
        decide: The stages, in order.
        deliver: Delivers what no stage decided.
        ledger: Where outcomes go.
        keys: The lane's keys.
        clock: Time.
        late: Deliveries that outlast their block; None: a block waits for its slowest call.
    """

    def __init__(
        self,
        decide: Sequence[DeliveryStage],
        deliver: DeliveryStep,
        ledger: Ledger,
        keys: LaneKeys,
        clock: Clock,
        *,
        late: LateDeliveries | None = None,
    ) -> None:
        self._late = late
        self._stages = tuple(decide)
        self._deliver = deliver
        self._ledger = ledger
        self._keys = keys
        self._clock = clock
        self._gate = OrderedGate()
        self._decode = msgspec.msgpack.Decoder(list[Envelope]).decode

    def faults(self) -> Mapping[Fault, int]:
        """The faults its stages counted."""
        return faults_of(*self._stages)

    async def handle(self, entries: Sequence[Entry], hold: Hold | None = None) -> Writes:
        """Deliver what the blocks hold; returns the writes to settle together with their acknowledgement.

        Delivery begins in the order in which blocks came, so that a recipient's notifications stay in order. Blocks
        overlap while recipients are looked up, and again while channels wait for their answers. Where the store does
        not answer, the block keeps its place and is decided again, and those after it wait with it.

        Args:
            entries: The blocks.
            hold: Says after each wait which of them are still ours. Without one all are, and there is one try.

        Raises:
            StorageUnavailableError: the store did not answer in time; nothing was delivered.
        """
        hold = hold or Kept(entries)
        ticket = self._gate.take_ticket()
        try:
            decoded = await self._prepare(entries, hold)
            decided_at = self._clock.monotonic()
            await ticket.wait()
            if self._clock.monotonic() - decided_at > MAX_DECISION_AGE_S:
                decoded = await self._prepare(decoded.entries, hold)
            decoded = decoded.subset(hold.begin())
            delivering = asyncio.ensure_future(self._deliver_undecided(decoded.undecided))
            await asyncio.sleep(0)  # each channel is asked before the next block's are
        finally:
            ticket.release()
        settled: Sequence[Delivery] = decoded.deliveries
        if self._late is not None and not delivering.done():
            settled = await self._late.wait_or_defer(delivering, decoded.deliveries)
        else:
            await delivering

        def stage(pipe: Pipeline) -> None:
            if settled:
                self._ledger.stage(pipe, settled)
            stage_quarantine(pipe, self._keys, decoded.unreadable)

        return stage

    async def _prepare(self, entries: Sequence[Entry], hold: Hold) -> DecodedBlocks:
        """Read the blocks and run the stages until the store answers. A failed try leaves nothing behind."""
        while True:
            decoded = self._read(entries)
            try:
                decoded.undecided = await run_stages(self._stages, decoded.deliveries, self._clock)
            except StorageUnavailableError as error:
                log.warning("%d blocks, and all behind them, wait for the store: %s", len(entries), error)
                entries = await hold.wait_to_retry()
                if not entries:
                    raise
            else:
                return decoded

    async def _deliver_undecided(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            await self._deliver(deliveries)

    def _read(self, entries: Sequence[Entry]) -> DecodedBlocks:
        decoded = DecodedBlocks(entries)
        for entry in entries:
            envelopes = self._envelopes(entry)
            if envelopes is None:
                decoded.unreadable.append(entry)
                continue
            decoded.deliveries += [
                Delivery(envelope.id, envelope, entry, index) for index, envelope in enumerate(envelopes)
            ]
        return decoded

    def _envelopes(self, entry: Entry) -> list[Envelope] | None:
        if entry.version == WIRE_VERSION:
            try:
                return self._decode(entry.block)
            except msgspec.MsgspecError:
                pass
        log.error("block %s of partition %d cannot be read; quarantined", entry.entry, entry.partition)
        return None
