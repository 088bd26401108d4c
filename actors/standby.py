"""A stand-in for a pool nobody works in: the supervisor consumes p0 itself until a member is back.

    idle ──no member beats, though some did before──► consuming ──a member beats again for `back_s`──► idle

A new process takes seconds to start on a busy machine, and an emergency cannot wait for it; the supervisor's runs
already. Which of them a notification belongs to is decided by the leases, as between any two members.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from tocsin.clock import Clock

log = logging.getLogger(__name__)

BACK_S = 5.0
UNSEEN_S = 30.0  # without any member since the watch began: they may only be starting


class Member(Protocol):
    """A pool member in this process: `actors.members.PoolMember`."""

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Drain. Returns whether it ended in time."""
        ...


class Standby:
    """Starts a member where no other beats, and ends it when others do.

    Args:
        name: Of the pool, for the log.
        start: Starts a member in this process; may block for a moment.
        clock: Only its stopwatch is used.
        back_s: How long others must beat before this one goes.
    """

    def __init__(
        self, name: str, start: Callable[[], Member], clock: Clock, *, back_s: float = BACK_S
    ) -> None:
        self.times = 0
        self._name = name
        self._start = start
        self._clock = clock
        self._back_s = back_s
        self._member: Member | None = None
        self._began_at = clock.monotonic()
        self._seen = False
        self._beating_since: float | None = None

    @property
    def consuming(self) -> bool:
        """Whether the stand-in works now."""
        return self._member is not None

    async def look(self, beating: int) -> None:
        """Decide once, by how many other members beat now."""
        now = self._clock.monotonic()
        if beating:
            self._seen = True
            since = self._beating_since = now if self._beating_since is None else self._beating_since
            if self._member is not None and now - since >= self._back_s:
                await self.end()
            return
        self._beating_since = None
        if self._member is None and (self._seen or now - self._began_at >= UNSEEN_S):
            log.error("%s: no member does anything; the supervisor consumes in their place", self._name)
            self._member = await asyncio.to_thread(self._start)
            self.times += 1

    async def end(self) -> None:
        """Drain the stand-in, if there is one."""
        member, self._member = self._member, None
        if member is not None:
            log.info("%s: members are back; the supervisor's stand-in leaves", self._name)
            if not await asyncio.to_thread(member.stop):
                log.error("%s: the stand-in did not end in time; its leases lapse", self._name)
