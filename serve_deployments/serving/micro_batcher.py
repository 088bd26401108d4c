"""Questions that arrive while others are being answered go together: batches without waiting for company.

    ask ──► waiting ──► up to `most` at once ──work──► each gets its own answer
                           └── while this runs, the next batch gathers

Nobody waits for a window to close: alone, a question is a batch of one, at once. Under load a batch is whatever came
meanwhile, so it grows just as fast as there is need.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar, cast

Q = TypeVar("Q")
A = TypeVar("A")


class MicroBatcher(Generic[Q, A]):
    """Answers questions together.

    Args:
        work: Answers several questions, in order. An answer may be an exception: its asker gets it raised.
        most: Questions in a batch.
        at_once: Batches being worked on at the same time: while one waits for storage, another may compute.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]],
        *,
        most: int,
        at_once: int = 2,
    ) -> None:
        self._work = work
        self._most = most
        self._at_once = at_once
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def ask(self, question: Q) -> A:
        """The answer to one question; raises what its work raised.

        How many may wait is the caller's to bound: Serve's `max_ongoing_requests` does.
        """
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if len(self._running) < self._at_once:
            task = asyncio.create_task(self._run())
            self._running.add(task)
        return await future

    async def _run(self) -> None:
        """Batches until nobody waits. It leaves in the step in which it finds so: else a question could be missed."""
        try:
            await self._batches()
        finally:
            self._running.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    def _next_batch(self) -> list[tuple[Q, asyncio.Future[A]]]:
        """The next questions, without those whose askers have gone: nobody works for them."""
        batch: list[tuple[Q, asyncio.Future[A]]] = []
        while self._waiting and len(batch) < self._most:
            question, future = self._waiting.popleft()
            if not future.done():
                batch.append((question, future))
        return batch

    async def _batches(self) -> None:
        await asyncio.sleep(0)  # callers ready in this turn of the loop join the batch
        while self._waiting:
            batch = self._next_batch()
            if not batch:
                return
            try:
                answers = await self._work([question for question, _ in batch])
            except Exception as error:  # noqa: BLE001 (raised to each caller)
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():  # gave up meanwhile
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
