"""What travels in a lane: records, the blocks that hold them, and where each one is."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import msgspec
from redis.asyncio.client import Pipeline

from tocsin.errors import InvalidRecordError
from tocsin.wire.lanes import LaneName

# The most records in one entry: a p0 is an entry of its own, handled at once; the others share entries.
BLOCK_RECORDS = {LaneName.P0: 1, LaneName.P1: 100, LaneName.P2: 500, LaneName.ACTIVITY: 500}
MAX_ENTRY_NUMBER = 2**64 - 1  # of each half of a stream entry's id

Writes = Callable[[Pipeline], None]
"""Adds what is to be written to a transaction."""


class Record(msgspec.Struct, frozen=True):
    """One record to append: an encoded body for a partition."""

    partition: int
    body: bytes
    dedup_key: str = ""


class Placement(msgspec.Struct, frozen=True):
    """Where a record went. `duplicate`: it was there before, under this id."""

    id: str
    duplicate: bool = False


class Position(msgspec.Struct, frozen=True):
    """A record's id, taken apart."""

    lane: str
    partition: int
    entry: str
    index: int

    @classmethod
    def parse(cls, record_id: str) -> Position:
        """Read an id such as `p0-3-1732430000000-0-17`.

        Raises:
            InvalidRecordError: it is not an id of ours.
        """
        parts = record_id.split("-")
        numbers = all(p.isascii() and p.isdigit() for p in parts[1:]) and len(record_id) <= 96
        if len(parts) != 5 or not numbers or max(map(int, parts[2:4])) > MAX_ENTRY_NUMBER:
            raise InvalidRecordError(
                f"{record_id[:96]!r} is not a notification id",
                field="id",
                limit="lane-partition-ms-seq-index",
            )
        lane, partition, ms, seq, index = parts
        return cls(lane, int(partition), f"{ms}-{seq}", int(index))


class Entry(msgspec.Struct, frozen=True):
    """One block as read: still pending, to be settled after the work."""

    lane: str
    partition: int
    entry: str
    version: int
    block: bytes

    def record_id(self, index: int) -> str:
        """The id of the record at `index`."""
        return f"{self.lane}-{self.partition}-{self.entry}-{index}"


class LaneDepth(msgspec.Struct, frozen=True, kw_only=True):
    """How much waits in a lane, in blocks; `retrying` in records."""

    blocks: int
    pending: int
    retrying: int


def partition_of(key: str, partitions: int) -> int:
    """The partition of a recipient or advertiser: stable over processes and restarts."""
    return zlib.crc32(key.encode()) % partitions


def pack_block(bodies: Sequence[bytes]) -> bytes:
    """A MessagePack array of already encoded records."""
    return b"\xdd" + len(bodies).to_bytes(4, "big") + b"".join(bodies)
