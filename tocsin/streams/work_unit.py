"""Blocks that are handled together.

waiting ──begin──► begun ──settled──► gone
│ its partition is lost, or it is given up at the stop
└──► left to the partition's next owner, with all that waits behind it in that partition
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Iterator, Sequence

from tocsin.streams.records import Entry


class WorkUnit:
    """Blocks that are handled together; the consumer's `Hold`.

    Args:
        entries: The blocks.
        check: Takes what was lost out of every unit that has not begun.
        pause: Waits after a number of tries, then does the same.
    """

    def __init__(
        self,
        entries: tuple[Entry, ...],
        check: Callable[[], None],
        pause: Callable[[WorkUnit, int], Awaitable[None]],
    ) -> None:
        self.entries = entries  # those that were not lost
        self.begun = False
        self._check = check
        self._pause = pause
        self._tries = 0

    def begin(self) -> Sequence[Entry]:
        """The blocks that are still ours."""
        if not self.begun:
            self._check()
            self.begun = True
        return self.entries

    async def wait_to_retry(self) -> Sequence[Entry]:
        """Wait, then the blocks that are still ours."""
        self._tries += 1
        await self._pause(self, self._tries)
        return self.entries

    def leave(self, partitions: Container[int]) -> None:
        """Take out what is of these partitions, unless work on it has begun."""
        if not self.begun:
            self.entries = tuple(entry for entry in self.entries if entry.partition not in partitions)


def in_units(entries: Sequence[Entry], max_entries: int, max_bytes: int) -> Iterator[tuple[Entry, ...]]:
    """Entries in order, cut so that a unit has at most so many and, from the second on, at most so many bytes."""
    unit: list[Entry] = []
    size = 0
    for entry in entries:
        if unit and (len(unit) == max_entries or size + len(entry.block) > max_bytes):
            yield tuple(unit)
            unit, size = [], 0
        unit.append(entry)
        size += len(entry.block)
    if unit:
        yield tuple(unit)
