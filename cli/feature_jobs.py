"""`tocsin features backfill` and `tocsin features verify`: between the archive and the online state."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from cli.importing import progress_bar
from tocsin.errors import NotFoundError, StorageUnavailableError, TimedOutError
from tocsin.settings import Settings
from tocsin.storage.connect import CONSUME_TIMEOUT_S, connect, resolve_url
from tocsin.wire.lanes import LaneName

GATE_SAMPLES = 2_000  # replayed before a model is put before people

if TYPE_CHECKING:
    from features.jobs.backfill import Done, Plan
    from features.jobs.skew import Report
    from models.evaluation.leakage import Finding


def backfill_command(
    settings: Settings,
    console: Console,
    *,
    uri: str,
    parallel: int,
    address: str,
    json: bool,
    emit: Callable[[object], None],
) -> None:
    """Bring the online state up to the archive, and say what was done.

    Raises:
        TocsinError: the archive is empty or unusable, or storage does not answer; run it again to go on.
    """
    from features.jobs.backfill import plan
    from features.offline.archive import Archive

    uri = uri or settings.archive
    source = Archive(uri)
    work = plan(source, settings.partitions(LaneName.ACTIVITY))
    total = work.events(range(work.partitions))
    if not total:
        raise NotFoundError(f"there are no events in {source.place}", hint="name the archive with --archive")
    with _saying_what_to_do(), progress_bar(console) as bar:
        task = bar.add_task("backfilling", total=total)
        done = _backfill(
            settings, uri, work, parallel, address, lambda number: bar.advance(task, float(number))
        )
    if json:
        emit({**msgspec.to_builtins(done), "archive_events": total})
        return
    said = f"{done.events:,} events of {done.advertisers:,} advertisers gone through"
    if done.skipped:
        said += f"; {done.skipped:,} advertisers had been done before"
    if done.again:
        said += f"; {done.again:,} portions worked out again, as live shards wrote meanwhile"
    console.print(said)


def _backfill(
    settings: Settings, uri: str, work: Plan, parallel: int, address: str, on_events: Callable[[int], None]
) -> Done:
    os.environ.setdefault(
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0"
    )  # or each worker would make its own environment
    if parallel <= 1 and not address:
        from actors.backfill import backfill

        return asyncio.run(backfill(settings, uri, work, sorted(work.counts), on_events))
    import ray

    from actors.backfill import backfill_on_ray

    quiet: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": False,
    }
    if address:
        from launch.platform import ROOT, check_reachable

        check_reachable(address)
        code = {"working_dir": str(ROOT), "excludes": [".venv", ".git", ".uv", ".peers", ".*_cache"]}
        ray.init(address=address, runtime_env=code, **quiet)
    else:
        try:
            ray.init(address="local", num_cpus=parallel, include_dashboard=False, **quiet)
        except Exception as error:  # a bare Exception upstream
            raise TimedOutError(
                f"Ray did not start: {error}",
                hint="try again when the machine is less busy, or without --parallel",
            ) from error
    try:
        return backfill_on_ray(settings, uri, work, parallel=parallel, on_events=on_events)
    finally:
        ray.shutdown()


def verify_command(
    settings: Settings,
    console: Console,
    *,
    uri: str,
    limit: int,
    json: bool,
    emit: Callable[[object], None],
) -> bool:
    """Replay what was served, and say what differs. Returns whether nothing does.

    Raises:
        TocsinError: storage does not answer, or the archive is unusable.
    """
    report = asyncio.run(_verify(settings, uri or settings.archive, limit))
    if json:
        emit({**msgspec.to_builtins(report), "clean": report.clean})
        return report.clean
    console.print(
        f"{report.samples:,} served vectors sampled, {report.compared:,} replayed offline; not compared: "
        f"{report.other_schema:,} of other definitions, {report.unsettled:,} served while too much arrived"
    )
    if report.clean:
        console.print("[bold]no value differs[/bold]")
        return True
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("feature", "differ", "an advertiser", "served", "offline"):
        table.add_column(heading, no_wrap=heading in {"feature", "an advertiser"})
    first = {one.feature: one for one in reversed(report.examples)}
    for name, number in sorted(report.mismatches.items(), key=lambda pair: -pair[1]):
        example = first.get(name)
        shown = (
            (example.advertiser_id, f"{example.served}", f"{example.offline}") if example else ("", "", "")
        )
        table.add_row(name, f"{number:,}", *shown)
    console.print(table)
    return False


def served_skew(settings: Settings, names: Sequence[str]) -> Finding:
    """Whether the newest served vectors are what training would have seen, as far as a model's features go.

    Raises:
        TocsinError: as `verify_command`.
    """
    from models.evaluation.leakage import train_serve_skew

    report = asyncio.run(_verify(settings, settings.archive, GATE_SAMPLES))
    return train_serve_skew(report.compared, report.mismatches, names)


@contextmanager
def _saying_what_to_do() -> Iterator[None]:
    try:
        yield
    except StorageUnavailableError as error:
        raise StorageUnavailableError(
            error.message, hint="start the platform with `tocsin up`, or check TOCSIN_REDIS_URL"
        ) from None


async def _verify(settings: Settings, uri: str, limit: int) -> Report:
    from features.jobs.skew import read_samples, read_tail, verify
    from features.offline.archive import Archive
    from tocsin.keys import FeatureKeys

    client = connect(resolve_url(settings), timeout_s=CONSUME_TIMEOUT_S)
    try:
        keys = FeatureKeys(settings.namespace)
        with _saying_what_to_do():
            samples = await read_samples(client, keys, limit=limit)
            tail = await read_tail(client, keys, settings.partitions(LaneName.ACTIVITY))
    finally:
        await client.aclose()
    return verify(samples, tail, Archive(uri))
