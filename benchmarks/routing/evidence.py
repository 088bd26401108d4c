"""What happened to notifications, read afterwards from two independent sources:

the ledger (counts and outcomes on the server) and the delivery logs (files of the `log` channel).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from redis import asyncio as aioredis

from benchmarks.harness.payloads import BLOCK_RECORDS
from routing.ledger.outcomes import field, unpack
from tocsin.streams.lanes import Lane
from tocsin.streams.records import Position
from tocsin.wire.notifications import NotificationState

FINAL = ("delivered", "suppressed", "expired", "dead")
PAGE = 500


class Line(msgspec.Struct, frozen=True):
    """The part of a line of a delivery log that is read."""

    id: str


_line = msgspec.json.Decoder(Line)


class Deliveries:
    """Counts deliveries by notification at one byte each, so that a million fit."""

    def __init__(self) -> None:
        self._entries: dict[str, bytearray] = {}
        self.lines = 0

    def add(self, notification_id: str) -> None:
        """One delivery more."""
        entry, _, index = notification_id.rpartition("-")
        counts = self._entries.get(entry)
        if counts is None:
            counts = self._entries[entry] = bytearray(BLOCK_RECORDS)
        counts[int(index)] = min(255, counts[int(index)] + 1)
        self.lines += 1

    @property
    def distinct(self) -> int:
        """Notifications delivered at least once."""
        return sum(len(counts) - counts.count(0) for counts in self._entries.values())

    @property
    def duplicates(self) -> int:
        """Deliveries beyond the first of each notification."""
        return self.lines - self.distinct


def delivery_logs(folder: Path) -> Deliveries:
    """Every line of every delivery log."""
    found = Deliveries()
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as lines:
            for line in lines:
                found.add(_line.decode(line).id)
    return found


async def counts(client: aioredis.Redis, lane: Lane) -> dict[str, int]:
    """The ledger's totals of a lane."""
    answer: Any = await client.hgetall(lane.keys.counts)
    return {name.decode(): int(number) for name, number in answer.items()}


async def accounted(client: aioredis.Redis, lane: Lane) -> int:
    """Notifications of a lane that reached an end."""
    found = await counts(client, lane)
    return sum(found.get(state, 0) for state in FINAL)


async def latencies_ms(
    client: aioredis.Redis, lane: Lane, accepted_at: Mapping[str, float]
) -> dict[str, float]:
    """Raw accept-to-delivered times by id, from the ledger's outcomes; absent: not delivered."""
    found: dict[str, float] = {}
    for ids in pages(list(accepted_at)):
        async with client.pipeline(transaction=False) as pipe:
            for notification_id in ids:
                position = Position.parse(notification_id)
                key, entry = lane.keys.outcomes(position.partition, position.entry), position.entry
                pipe.hmget(key, [field(entry, position.index), field(entry)])
            answers: list[Any] = await pipe.execute()
        for notification_id, (own, shared) in zip(ids, answers, strict=True):
            if not (own or shared):
                continue
            outcome = unpack(own or shared, Position.parse(notification_id).entry)
            if outcome.state == NotificationState.DELIVERED:
                found[notification_id] = (outcome.at - accepted_at[notification_id]) * 1000
    return found


def pages(items: list[str]) -> Iterable[list[str]]:
    """`items`, `PAGE` at a time."""
    return (items[start : start + PAGE] for start in range(0, len(items), PAGE))
