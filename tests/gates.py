"""A gate on a real server, its stopwatch moved by hand."""

from __future__ import annotations

from typing import Any

import msgspec
from redis import asyncio as aioredis
from redis.asyncio.client import Pipeline

from routing.intake.admission import AdmissionPolicy, AdmissionReason, LaneFacts
from serve_deployments.serving.gate import Gate
from tests.fakes import ManualClock
from tocsin.settings import Settings
from tocsin.streams.lanes import Lane
from tocsin.streams.records import Record, Writes
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import Envelope, Notification

PARTITIONS = 2
NOW = 1_732_430_000.0
ENCODE = msgspec.msgpack.encode


class Post:
    """A gate over one lane, its stopwatch moved by hand."""

    def __init__(self, client: aioredis.Redis, namespace: str, **limits: Any) -> None:
        self.clock = ManualClock()
        self.lane = Lane(client, namespace=namespace, name="p2", partitions=PARTITIONS, block_records=10)
        policy = AdmissionPolicy.of(msgspec.structs.replace(Settings.from_env({}), **limits))
        self.gate = Gate({LaneName.P2: self.lane}, policy, self.clock)

    async def send(self, number: int, source: str = "s") -> None:
        note = Notification("reminder", "t", "r", "", "", "", source, ("log",), "", 0.0, "", {}, NOW)
        await self.lane.append([Record(n % PARTITIONS, ENCODE(Envelope(note))) for n in range(number)])

    async def admits(
        self, number: int, source: str = "s", *, whole: bool = False
    ) -> tuple[bool, AdmissionReason]:
        decision = (await self.gate.decide(LaneName.P2, {source: number}, whole=whole))[source]
        if decision.admit:
            self.gate.take(LaneName.P2, {source: number})
        return decision.admit, decision.reason

    async def facts(self) -> LaneFacts:
        self.clock.advance(1.0)
        found = await self.gate.facts(LaneName.P2)
        assert found is not None
        return found


def delivered(lane: Lane, number: int) -> Writes:
    def stage(pipe: Pipeline) -> None:
        pipe.hincrby(lane.keys.counts, "delivered", number)

    return stage
