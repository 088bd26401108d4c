"""How many members a pool should have: pure, from what waits.

    steady ──blocks wait, twice in a row──► grow by one
       ▲  └──nothing waited for `idle_s`──► shrink by one
       └───────────────────────────────────────┘

A pool never leaves its bounds, and never has more members than its lane has partitions: they would have nothing
to do.
"""

from __future__ import annotations

import msgspec


class ScalingPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a pool grows and when it shrinks."""

    blocks_a_member: int  # waiting blocks that one member is expected to work off soon
    grow_after: int = 2  # samples in a row above that
    idle_s: float = 60.0  # nothing waiting for so long


class PoolBounds(msgspec.Struct, frozen=True, kw_only=True):
    """The least and the most members."""

    least: int
    most: int


class PoolLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of a pool between samples."""

    members: int
    busy_samples: int = 0
    idle_since: float | None = None


def plan(
    load: PoolLoad, waiting_blocks: int, now: float, policy: ScalingPolicy, bounds: PoolBounds
) -> PoolLoad:
    """The pool as it should be after this sample: `members` differs from before by one at most.

    Args:
        load: As the last call returned it.
        waiting_blocks: Blocks in the lane, pending ones included.
        now: A stopwatch's reading (s).
        policy: When to move.
        bounds: Where to stop.
    """
    members = min(max(load.members, bounds.least), bounds.most)
    if waiting_blocks > policy.blocks_a_member * members:
        busy = load.busy_samples + 1
        if busy >= policy.grow_after and members < bounds.most:
            return PoolLoad(members=members + 1)
        return PoolLoad(members=members, busy_samples=busy)
    if waiting_blocks:
        return PoolLoad(members=members)
    since = now if load.idle_since is None else load.idle_since
    if now - since >= policy.idle_s and members > bounds.least:
        return PoolLoad(members=members - 1, idle_since=now)
    return PoolLoad(members=members, idle_since=since)
