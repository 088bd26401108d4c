"""OrderedGate: a ticket lock. Work that overlaps passes one point in the order in which it arrived.

    ticket taken ──► wait (the ticket before is released) ──► released

Tickets are served in the order in which they were taken, however long the work before the gate lasts; work after it
may overlap again.
"""

from __future__ import annotations

import asyncio


class Ticket:
    """One place in the queue, from `OrderedGate.take_ticket`. Release it whatever happened to its work.

    Args:
        before: Set when the ticket before this one is released; None: there is none.
    """

    def __init__(self, before: asyncio.Event | None) -> None:
        self.released = asyncio.Event()
        self._before = before

    async def wait(self) -> None:
        """Wait until the ticket before this one is released."""
        if self._before is not None:
            await self._before.wait()
            self._before = None

    def release(self) -> None:
        """Let the next ticket through."""
        self.released.set()


class OrderedGate:
    """A queue of one event loop."""

    def __init__(self) -> None:
        self._last: asyncio.Event | None = None

    def take_ticket(self) -> Ticket:
        """A place behind all tickets taken before."""
        before = self._last if self._last is not None and not self._last.is_set() else None
        ticket = Ticket(before)
        self._last = ticket.released
        return ticket
