"""The router: takes blocks from a notification lane and delivers them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

import msgspec
from redis.asyncio.client import Pipeline

from routing.ledger import Ledger
from routing.pipeline import Delivery, DeliveryStage, run_stages
from routing.turns import Turns
from tocsin.clock import Clock
from tocsin.keys import LaneKeys
from tocsin.lanes import Entry, Stage
from tocsin.quarantine import stage_quarantine
from tocsin.schemas import WIRE_VERSION, Envelope
from tocsin.telemetry.reports import Fault, faults_of

log = logging.getLogger(__name__)


class Router:
    """The handler of a notification lane.

    Args:
        stages: The pipeline, a literal; the last one delivers.
        ledger: Where outcomes go.
        keys: The lane's keys.
        clock: Time.
    """

    def __init__(self, stages: Sequence[DeliveryStage], ledger: Ledger, keys: LaneKeys, clock: Clock) -> None:
        self._stages = tuple(stages)
        self._ledger = ledger
        self._keys = keys
        self._clock = clock
        self._turns = Turns()
        self._decode = msgspec.msgpack.Decoder(list[Envelope]).decode

    def faults(self) -> Mapping[Fault, int]:
        """What its stages survived."""
        return faults_of(*self._stages)

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
        await self._deliver(deliveries)

        def stage(pipe: Pipeline) -> None:
            if deliveries:
                self._ledger.stage(pipe, deliveries)
            stage_quarantine(pipe, self._keys, unreadable)

        return stage

    async def _deliver(self, deliveries: Sequence[Delivery]) -> None:
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
        await last

    def _envelopes(self, entry: Entry) -> list[Envelope] | None:
        if entry.version == WIRE_VERSION:
            try:
                return self._decode(entry.block)
            except msgspec.MsgspecError:
                pass
        log.error("block %s of partition %d cannot be read; set aside", entry.entry, entry.partition)
        return None
