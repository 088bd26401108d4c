"""Background work: one step, repeated and supervised.

    waiting ──every_s, or `wake` is set──► running ──ends or fails──► waiting
       └── `until` is set, or the task is cancelled ──► over

A step that fails is logged, reported to `failed` and run again; nothing but cancellation or `until` ends the loop.
It stands below every room, because storage reports, breakers and leases need it as much as shards and replicas do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from tocsin.errors import TocsinError

log = logging.getLogger(__name__)


async def repeat(
    name: str,
    step: Callable[[], Awaitable[object]],
    *,
    every_s: float | None = None,
    wake: asyncio.Event | None = None,
    until: asyncio.Event | None = None,
    failed: Callable[[Exception], None] | None = None,
    level: int = logging.WARNING,
    wait_first: bool = False,
) -> None:
    """Run a step until cancelled, or until an event is set.

    Args:
        name: For the log.
        step: What to do. Cancelled in the middle where the task is cancelled; `until` lets it finish.
        every_s: Seconds between the end of a step and the next; None: only when woken.
        wake: Set when there is something to do; cleared before the step that does it.
        until: Set to end the loop; a wait ends at once.
        failed: Called with each failure, for a counter.
        level: How an expected failure (`TocsinError`) is logged; any other is logged with its traceback.
        wait_first: Whether to wait before the first step.
    """
    waiting = wait_first
    while until is None or not until.is_set():
        if waiting:
            await _wait(every_s, wake, until)
            if until is not None and until.is_set():
                return
        waiting = True
        if wake is not None:
            wake.clear()
        try:
            await step()
        except TocsinError as error:
            log.log(level, "%s: %s; trying again", name, error)
            if failed is not None:
                failed(error)
        except Exception as error:
            log.exception("%s failed; trying again", name)
            if failed is not None:
                failed(error)


async def _wait(every_s: float | None, wake: asyncio.Event | None, until: asyncio.Event | None) -> None:
    events = [event for event in (wake, until) if event is not None]
    if not events:
        if every_s is None:
            raise ValueError("a loop that nothing wakes needs every_s")
        await asyncio.sleep(every_s)
        return
    if any(event.is_set() for event in events):
        return
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, timeout=every_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
