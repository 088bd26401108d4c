"""OrderedGate: work that overlaps goes through one gate in the order it came.

    taken ──► comes (the one before has passed) ──► passed

What takes its turn first comes first, however long others prepare; after the gate they overlap again.
"""

from __future__ import annotations

import asyncio


class Turn:
    """One place in the queue; `OrderedGate.take` hands it out. It must pass, whatever happened to its work."""

    def __init__(self, before: asyncio.Event | None) -> None:
        self.passed = asyncio.Event()
        self._before = before

    async def comes(self) -> None:
        """Wait until whoever came before has passed."""
        if self._before is not None:
            await self._before.wait()
            self._before = None

    def passes(self) -> None:
        """Let the next one come."""
        self.passed.set()


class OrderedGate:
    """A queue of one event loop."""

    def __init__(self) -> None:
        self._last: asyncio.Event | None = None

    def take(self) -> Turn:
        """The place after everybody who took one before."""
        before = self._last if self._last is not None and not self._last.is_set() else None
        turn = Turn(before)
        self._last = turn.passed
        return turn
