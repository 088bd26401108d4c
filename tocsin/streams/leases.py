"""Who consumes which partition: a pool that shares its partitions out by itself.

    unowned ──acquire──► owned ──renew──► owned
       ▲                   │ lease lapses (the owner is dead or cut off)
       └──release/expiry───┘

Every member reports itself with a heartbeat and learns who else is alive; the sorted list of members fixes who
should own what, so nobody needs to be asked. A partition changes hands only when its lease was given up or has
lapsed: a slow but living owner keeps it, because heartbeats run alongside the work.

A name belongs to the process that took it last. One that was stopped, replaced under its name and woken up gets no
lease any more, and gives none up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import msgspec
from redis import asyncio as aioredis

from tocsin.clock import Clock
from tocsin.keys import LaneKeys
from tocsin.processes import ProcessRecord, this_process
from tocsin.storage.errors import translated
from tocsin.streams.lease_scripts import acquire, release, report_alive

log = logging.getLogger(__name__)


class LeasePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a dead owner is noticed: a lease outlives several heartbeats that are missed."""

    ttl_s: float = 6.0
    heartbeat_s: float = 1.0


def share(name: str, members: Sequence[str], partitions: int) -> list[int]:
    """The partitions `name` should own: dealt out in turn over the sorted members.

    Every partition has exactly one owner, and shares differ by at most one.
    """
    ranked = sorted(members)
    if name not in ranked:
        return []
    return list(range(ranked.index(name), partitions, len(ranked)))


class Leases:
    """The leases of one pool member on one lane.

    Args:
        client: An asyncio client with a timeout well below the lease.
        keys: The lane's keys.
        name: The member: unique in the pool, the same after a restart.
        partitions: How many partitions the lane has.
        policy: Lease and heartbeat times.
        clock: Only its stopwatch is used.
        process: The process that consumes; by default this one.
    """

    def __init__(
        self,
        client: aioredis.Redis,
        *,
        keys: LaneKeys,
        name: str,
        partitions: int,
        policy: LeasePolicy,
        clock: Clock,
        process: ProcessRecord | None = None,
    ) -> None:
        self.name = name
        self.superseded = False  # another process took the name over
        self.policy = policy
        self._client = client
        self._keys = keys
        self._partitions = partitions
        self._clock = clock
        self._held_until: dict[int, float] = {}
        self._record = msgspec.json.encode(process or this_process())
        self._first = True
        # A renewal under way would bring back what is given up meanwhile.
        self._changing = asyncio.Lock()

    def held(self) -> list[int]:
        """The partitions that are ours now. One whose lease may have lapsed is not among them."""
        now = self._clock.monotonic()
        return sorted(partition for partition, until in self._held_until.items() if now < until)

    async def beat(self) -> list[int]:
        """Report alive, renew what is held, take what is due to us and free. Returns what should be given up.

        Raises:
            StorageUnavailableError: the server does not answer; leases run on until they lapse.
        """
        async with self._changing:
            return await self._beat()

    async def _beat(self) -> list[int]:
        with translated():
            members = await report_alive(
                self._client,
                members=self._keys.members,
                process=self._keys.process(self.name),
                name=self.name,
                record=self._record,
                first=self._first,
                ttl_ms=self._ttl_ms,
            )
        self._first = False
        if not members:
            if not self.superseded:
                log.error("%s: another process has this name; this one consumes nothing any more", self.name)
            self.superseded = True
            self._held_until.clear()
            return []
        due = share(self.name, members, self._partitions)
        surplus = [p for p in self.held() if p not in due]
        await self._acquire(sorted({*due, *surplus}))
        return surplus

    async def acquire(self, partitions: Sequence[int]) -> list[int]:
        """Take or renew leases; returns those that are ours now. What another member has stays with it.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        async with self._changing:
            return await self._acquire(partitions)

    async def _acquire(self, partitions: Sequence[int]) -> list[int]:
        if not partitions:
            return []
        asked_at = self._clock.monotonic()
        with translated():
            ours = await acquire(
                self._client,
                process=self._keys.process(self.name),
                leases=[self._keys.lease(p) for p in partitions],
                name=self.name,
                record=self._record,
                ttl_ms=self._ttl_ms,
            )
        for partition, is_ours in zip(partitions, ours, strict=True):
            if is_ours:
                self._held_until[partition] = asked_at + self.policy.ttl_s
            else:
                self._held_until.pop(partition, None)
        return [partition for partition, is_ours in zip(partitions, ours, strict=True) if is_ours]

    @property
    def _ttl_ms(self) -> int:
        return int(self.policy.ttl_s * 1000)

    async def release(self, partitions: Sequence[int], *, leave: bool = False) -> None:
        """Give partitions up; with `leave`, leave the pool as well.

        Raises:
            StorageUnavailableError: the server does not answer; the leases lapse by themselves.
        """
        async with self._changing:
            for partition in partitions:
                self._held_until.pop(partition, None)
            leases = [self._keys.lease(p) for p in partitions]
            if not (leases or leave):
                return
            with translated():
                await release(
                    self._client,
                    members=self._keys.members,
                    process=self._keys.process(self.name),
                    leases=leases,
                    name=self.name,
                    record=self._record,
                    leave=leave,
                )
