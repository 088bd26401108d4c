"""Backfill on many cores and nodes: a Ray task for each partition of the activity lane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import ray

from features.jobs.backfill import Backfill, Done, Plan, merged
from features.offline.archive import Archive
from tocsin.clock import SystemClock
from tocsin.settings import Settings
from tocsin.storage.connect import CONSUME_TIMEOUT_S, connect, resolve_url

RETRIES = 3  # of a task whose worker died; it goes on where it stopped


async def backfill(
    settings: Settings, uri: str, work: Plan, partitions: list[int], on_events: Callable[[int], None]
) -> Done:
    """Backfill some partitions in this process.

    Raises:
        TocsinError: as `features.jobs.backfill.Backfill.run`.
    """
    client = connect(resolve_url(settings), timeout_s=CONSUME_TIMEOUT_S)
    try:
        job = Backfill(
            client,
            Archive(uri),
            namespace=settings.namespace,
            work=work,
            as_of=settings.as_of,
            clock=SystemClock(),
        )
        return await job.run(partitions, on_events)
    finally:
        await client.aclose()


def _one(settings: Settings, uri: str, work: Plan, partition: int) -> Done:
    return asyncio.run(backfill(settings, uri, work, [partition], lambda _number: None))


def backfill_on_ray(
    settings: Settings, uri: str, work: Plan, *, parallel: int, on_events: Callable[[int], None]
) -> Done:
    """Backfill every partition, so many at a time, on the Ray cluster that this process has joined.

    Raises:
        TocsinError: as `features.jobs.backfill.Backfill.run`.
    """
    task: Any = ray.remote(num_cpus=1, max_retries=RETRIES)(_one)
    shared = ray.put(work)
    rest = sorted(work.counts, key=lambda partition: -work.events([partition]))
    running: dict[Any, int] = {}
    results: list[Done] = []
    while rest or running:
        while rest and len(running) < parallel:
            partition = rest.pop(0)
            running[task.remote(settings, uri, shared, partition)] = partition
        done, _ = ray.wait(list(running), num_returns=1)
        for reference in done:
            try:
                results.append(ray.get(reference))
            except ray.exceptions.RayTaskError as error:
                raise (error.cause or error) from None
            on_events(work.events([running.pop(reference)]))
    return merged(results)
