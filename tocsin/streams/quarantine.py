"""Blocks that cannot be read are set aside, so that they block no lane and can be examined."""

from __future__ import annotations

from collections.abc import Sequence

from redis.asyncio.client import Pipeline

from tocsin.keys import LaneKeys
from tocsin.streams.records import Entry

ENTRIES = 1000  # kept; the oldest are dropped first


def stage_quarantine(pipe: Pipeline, keys: LaneKeys, entries: Sequence[Entry]) -> None:
    """Add to a transaction that these blocks are set aside and counted."""
    for entry in entries:
        pipe.xadd(
            keys.quarantine,
            {"partition": entry.partition, "entry": entry.entry, "v": entry.version, "b": entry.block},
            maxlen=ENTRIES,
        )
        pipe.hincrby(keys.counts, "quarantined", 1)
