"""What a consumer needs of a lane, of leases and of the handler that does the work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tocsin.streams.records import Entry, Placement, Record, Writes


class Queue(Protocol):
    """What a consumer needs of a lane; the contract that every implementation keeps."""

    name: str
    partitions: int

    async def append(
        self, records: Sequence[Record], *, idempotency_key: str = "", fingerprint: str = ""
    ) -> list[Placement]:
        """Store records durably, all or none."""
        ...

    async def read(
        self, consumer: str, partitions: Sequence[int], *, count: int, block_ms: int
    ) -> list[Entry]:
        """Take new blocks."""
        ...

    async def claim(self, consumer: str, partition: int, *, min_idle_ms: int) -> list[Entry]:
        """Take over blocks another consumer left."""
        ...

    async def settle(self, entries: Sequence[Entry], writes: Writes, *, again: bool = False) -> None:
        """Acknowledge and trim, with what `writes` writes; with `again`, unless that was done already."""
        ...

    async def unsettled(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those that are not settled yet."""
        ...

    async def promote(self, partition: int, now: float, *, limit: int) -> int:
        """Bring retries that are due back."""
        ...


class Ownership(Protocol):
    """Which partitions are ours: `tocsin.streams.leases.Leases`, or a fixed set in tests."""

    name: str

    def held(self) -> list[int]:
        """The partitions that are ours now."""
        ...

    async def beat(self) -> list[int]:
        """Renew, take what is due; returns what is to be drained and given up."""
        ...

    async def acquire(self, partitions: Sequence[int]) -> list[int]:
        """Take or renew these; returns those that are ours now."""
        ...

    async def release(self, partitions: Sequence[int], *, leave: bool = False) -> None:
        """Give partitions up; with `leave`, leave the pool."""
        ...


class Hold(Protocol):
    """What a handler may ask about its blocks while it works on them."""

    def begin(self) -> Sequence[Entry]:
        """The blocks still ours; from here on they are brought to an end, even if their partitions are lost."""
        ...

    async def wait_to_retry(self) -> Sequence[Entry]:
        """Wait a little before another try; then the blocks that are still ours. None: give up."""
        ...


class Handler(Protocol):
    """The work: look at blocks, act, and return what to write together with their acknowledgement.

    Before it does what cannot be taken back it calls `Hold.begin`, and works on what that returns and no more. It
    must not raise for a bad record (dead-letter it instead); when it does raise, the blocks stay pending and are
    tried again after `ConsumerPolicy.requeue_s`, while later ones go ahead. Where these must wait, it tries again
    by itself, with `Hold.wait_to_retry`.
    """

    async def handle(self, entries: Sequence[Entry], hold: Hold) -> Writes:
        """Do the work of these blocks; returns the writes to make with their acknowledgement."""
        ...


class Kept:
    """The hold on blocks that nobody else can claim: all are ours, and there is no other try.

    Args:
        entries: The blocks.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries

    def begin(self) -> Sequence[Entry]:
        """All of them."""
        return self._entries

    async def wait_to_retry(self) -> Sequence[Entry]:
        """None."""
        return ()
