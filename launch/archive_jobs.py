"""Long work between the archive and the online state: backfill, and the replay of what was served."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from launch.ray_cluster import QUIET, join
from tocsin.errors import StorageUnavailableError, TimedOutError
from tocsin.settings import Settings
from tocsin.storage.connect import CONSUME_TIMEOUT_S, connect, resolve_url
from tocsin.wire.lanes import LaneName

if TYPE_CHECKING:
    from features.jobs.backfill import Done, Plan
    from features.jobs.skew import Report
    from models.evaluation.leakage import Finding

GATE_SAMPLES = 2_000  # replayed before a model may serve


def run_backfill(
    settings: Settings, uri: str, work: Plan, parallel: int, address: str, on_events: Callable[[int], None]
) -> Done:
    """Backfill in this process, or on Ray where it is parallel or has an address.

    Raises:
        TocsinError: as `features.jobs.backfill.Backfill.run`; run it again to continue.
    """
    os.environ.setdefault(
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0"
    )  # or each worker would make its own environment
    if parallel <= 1 and not address:
        from actors.backfill import backfill

        return asyncio.run(backfill(settings, uri, work, sorted(work.counts), on_events))
    import ray

    from actors.backfill import backfill_on_ray

    if address:
        join(address)
    else:
        try:
            ray.init(address="local", num_cpus=parallel, include_dashboard=False, **QUIET)
        except Exception as error:  # a bare Exception upstream
            raise TimedOutError(
                f"Ray did not start: {error}",
                hint="try again when the machine is less busy, or without --parallel",
            ) from error
    try:
        return backfill_on_ray(settings, uri, work, parallel=parallel, on_events=on_events)
    finally:
        ray.shutdown()


async def _replay(settings: Settings, uri: str, limit: int) -> Report:
    from features.jobs.skew import read_samples, read_tail, verify
    from features.offline.archive import Archive
    from tocsin.keys import FeatureKeys

    client = connect(resolve_url(settings), timeout_s=CONSUME_TIMEOUT_S)
    try:
        keys = FeatureKeys(settings.namespace)
        with with_next_step():
            samples = await read_samples(client, keys, limit=limit)
            tail = await read_tail(client, keys, settings.partitions(LaneName.ACTIVITY))
    finally:
        await client.aclose()
    return verify(samples, tail, Archive(uri))


def replay_served(settings: Settings, uri: str, limit: int) -> Report:
    """Replay the newest samples of what was served from an archive.

    Raises:
        TocsinError: storage does not answer, or the archive is unusable.
    """
    return asyncio.run(_replay(settings, uri, limit))


def served_skew(settings: Settings, names: Sequence[str]) -> Finding:
    """Whether the newest served vectors are what training would have seen, as far as a model's features go.

    Raises:
        TocsinError: as `replay_served`.
    """
    from models.evaluation.leakage import train_serve_skew

    report = replay_served(settings, settings.archive, GATE_SAMPLES)
    return train_serve_skew(report.compared, report.mismatches, names)


@contextmanager
def with_next_step() -> Iterator[None]:
    """Say what to do where storage does not answer."""
    try:
        yield
    except StorageUnavailableError as error:
        raise StorageUnavailableError(
            error.message, hint="start the platform with `tocsin up`, or check TOCSIN_REDIS_URL"
        ) from None
