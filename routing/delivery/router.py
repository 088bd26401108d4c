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


FRESH_S = 5.0
"""A block that waited longer for its turn is looked at again: quiet hours may have begun, or somebody muted it."""


class Work:
    """Blocks, and what they hold.

    Args:
        entries: The blocks.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.deliveries: list[Delivery] = []
        self.open: Sequence[Delivery] = ()  # those that no stage decided
        self.unreadable: list[Entry] = []

    def only(self, entries: Sequence[Entry]) -> Work:
        """The part of it that these blocks hold."""
        if len(entries) == len(self.entries):
            return self
        part = Work(entries)
        part.deliveries = [delivery for delivery in self.deliveries if delivery.entry in entries]
        part.open = [delivery for delivery in self.open if delivery.entry in entries]
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
        late: What goes on behind its block; None: a block waits for its slowest call.
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
        self._turns = OrderedGate()
        self._decode = msgspec.msgpack.Decoder(list[Envelope]).decode

    def faults(self) -> Mapping[Fault, int]:
        """What its stages survived."""
        return faults_of(*self._stages)

    async def handle(self, entries: Sequence[Entry], hold: Hold | None = None) -> Writes:
        """Deliver what the blocks hold; what to write is settled together with their acknowledgement.

        Delivery begins in the order in which blocks came, so that a recipient's notifications stay in order. Blocks
        overlap while recipients are looked up, and again while channels wait for their answers. Where the store does
        not answer, the block keeps its place and looks again, and those after it wait with it.

        Args:
            entries: The blocks.
            hold: Which of them are still ours, asked again after each wait. Without one all are, and there is one try.

        Raises:
            StorageUnavailableError: the store did not answer in time; nothing was told to anybody.
        """
        hold = hold or Kept(entries)
        turn = self._turns.take()
        try:
            work = await self._prepare(entries, hold)
            looked_at = self._clock.monotonic()
            await turn.comes()
            if self._clock.monotonic() - looked_at > FRESH_S:
                work = await self._prepare(work.entries, hold)
            work = work.only(hold.begin())
            delivering = asyncio.ensure_future(self._deliver_open(work.open))
            await asyncio.sleep(0)  # each channel is asked before the next block's are
        finally:
            turn.passes()
        settled: Sequence[Delivery] = work.deliveries
        if self._late is not None and not delivering.done():
            settled = await self._late.settle_by(delivering, work.deliveries)
        else:
            await delivering

        def stage(pipe: Pipeline) -> None:
            if settled:
                self._ledger.stage(pipe, settled)
            stage_quarantine(pipe, self._keys, work.unreadable)

        return stage

    async def _prepare(self, entries: Sequence[Entry], hold: Hold) -> Work:
        """Read the blocks and run the stages, until the store answers. A try that failed leaves nothing behind."""
        while True:
            work = self._read(entries)
            try:
                work.open = await run_stages(self._stages, work.deliveries, self._clock)
            except StorageUnavailableError as error:
                log.warning(
                    "%d blocks wait for the store (%s), and so does what comes after", len(entries), error
                )
                entries = await hold.again()
                if not entries:
                    raise
            else:
                return work

    async def _deliver_open(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            await self._deliver(deliveries)

    def _read(self, entries: Sequence[Entry]) -> Work:
        work = Work(entries)
        for entry in entries:
            envelopes = self._envelopes(entry)
            if envelopes is None:
                work.unreadable.append(entry)
                continue
            work.deliveries += [
                Delivery(envelope.id, envelope, entry, index) for index, envelope in enumerate(envelopes)
            ]
        return work

    def _envelopes(self, entry: Entry) -> list[Envelope] | None:
        if entry.version == WIRE_VERSION:
            try:
                return self._decode(entry.block)
            except msgspec.MsgspecError:
                pass
        log.error("block %s of partition %d cannot be read; set aside", entry.entry, entry.partition)
        return None
