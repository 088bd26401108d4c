"""Who consumes which partition: a pool that shares its partitions out by itself.

    unowned ──acquire──► owned ──renew──► owned
       ▲                   │ lease lapses (the owner is dead or cut off)
       └──release/expiry───┘

Every member reports itself with a heartbeat and learns who else is alive; the sorted list of members fixes who
should own what, so nobody needs to be asked. A partition changes hands only when its lease was given up or has
lapsed: a slow but living owner keeps it, because heartbeats run beside the work.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from redis import asyncio as aioredis

from tocsin.clock import Clock
from tocsin.keys import LaneKeys
from tocsin.storage.errors import translated
from tocsin.storage.scripts import ACQUIRE, HEARTBEAT, RELEASE, Script


class LeasePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a dead owner is noticed. Three missed heartbeats lose a lease."""

    ttl_s: float = 6.0
    heartbeat_s: float = 1.5


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
    ) -> None:
        self.name = name
        self.policy = policy
        self._client = client
        self._keys = keys
        self._partitions = partitions
        self._clock = clock
        self._held_until: dict[int, float] = {}
        self._heartbeat = Script(HEARTBEAT)
        self._acquire = Script(ACQUIRE)
        self._release = Script(RELEASE)

    def held(self) -> list[int]:
        """The partitions that are ours now. One whose lease may have lapsed is not among them."""
        now = self._clock.monotonic()
        return sorted(partition for partition, until in self._held_until.items() if now < until)

    async def beat(self) -> list[int]:
        """Report alive, renew what is held, take what is due to us and free. Returns what should be given up.

        Raises:
            StorageUnavailableError: the server does not answer; leases run on until they lapse.
        """
        ttl_ms = int(self.policy.ttl_s * 1000)
        with translated():
            leases = [self._keys.lease(p) for p in range(self._partitions)]
            members, _owners = await self._heartbeat.run(
                self._client, [self._keys.members, *leases], [self.name, ttl_ms]
            )
            due = share(self.name, [m.decode() for m in members], self._partitions)
            surplus = [p for p in self.held() if p not in due]
            wanted = sorted({*due, *surplus})
            asked_at = self._clock.monotonic()
            if wanted:
                ours = await self._acquire.run(
                    self._client, [self._keys.lease(p) for p in wanted], [self.name, ttl_ms]
                )
                for partition, flag in zip(wanted, ours, strict=True):
                    if flag:
                        self._held_until[partition] = asked_at + self.policy.ttl_s
                    else:
                        self._held_until.pop(partition, None)
        return surplus

    async def release(self, partitions: Sequence[int], *, leave: bool = False) -> None:
        """Give partitions up; with `leave`, leave the pool as well.

        Raises:
            StorageUnavailableError: the server does not answer; the leases lapse by themselves.
        """
        for partition in partitions:
            self._held_until.pop(partition, None)
        keys = [self._keys.lease(p) for p in partitions]
        if leave:
            keys.insert(0, self._keys.members)
        if not keys:
            return
        with translated():
            await self._release.run(self._client, keys, [self.name, 1 if leave else 0])
