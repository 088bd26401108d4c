"""Coroutines that share an object, made to overlap in every way that hypothesis thinks of.

A fake that stands for a server or a file awaits `pauses()` wherever the real one would wait; how often it gives way to
the others there is drawn, so the order in which they go on is explored and a failure is shrunk and repeats.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from hypothesis import strategies as st


class Pauses:
    """Gives way as often as it was told, in turn; then not at all.

    Args:
        times: How often at each await.
    """

    def __init__(self, times: Iterable[int]) -> None:
        self._times = list(times)[::-1]

    async def __call__(self) -> None:
        """One await of a fake."""
        for _ in range(self._times.pop() if self._times else 0):
            await asyncio.sleep(0)


pauses = st.lists(st.integers(0, 4), max_size=40).map(Pauses)


async def together(work: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Run all of them at once; the first error is raised."""
    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(one)
