"""The feature store compared with Feast: online reads, ingest, point-in-time joins, and a real file end to end.

    one embedded Valkey ◄── our shards and reader, and Feast's `get_online_features`, by turns
    files               ◄── `point_in_time` over the archive, and Feast's `get_historical_features`, by turns

Feast runs in an environment of its own (`benchmarks.features.feast_peer`). A ratio is Feast's time divided by ours, or
our rate divided by Feast's: above 1, ours is faster.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from benchmarks.features import google, offline
from benchmarks.features.feast_peer import FeastPeer
from benchmarks.features.load import ADVERTISERS, Send, loader
from benchmarks.features.online import (
    BATCHES,
    DRAIN_S,
    FRESH_PER_S,
    HISTORY_EVENTS,
    MAX_PER_S,
    POLL_S,
    READ_FEATURES,
    START_S,
    Bench,
)
from benchmarks.harness.cores import one_core
from benchmarks.harness.figures import Figures, percentile
from benchmarks.harness.pool_member import member
from benchmarks.harness.processes import Worker
from benchmarks.harness.run import Options, run, say, workspace
from features.definitions import FEATURE_NAMES, FEATURES
from features.online.reader import OnlineReader
from tocsin.settings import Settings
from tocsin.storage.connect import resolve_url
from tocsin.storage.embedded import EmbeddedServer
from tocsin.wire.lanes import LaneName

TURNS = 5
OUR_READS = {1: 1_000, 10: 500, 100: 200}  # in a turn
FEAST_READS = {1: 400, 10: 200, 100: 100}
QUICK_READS = 20


def measure(settings: Settings, options: Options) -> Figures:
    """Everything, in order; the shards are gone before the offline part."""
    with ExitStack() as stack:
        server = EmbeddedServer(settings.data_path, say)
        stack.callback(server.stop)
        endpoint = server.start()
        feast = stack.enter_context(FeastPeer(resolve_url(settings), settings.data_path / "feast"))
        online = _online(settings, options, feast, endpoint.pid)
        joins = offline.measure(settings.data_path / "offline", feast, options)
    with workspace() as other:
        file = _google(other)
    return {
        "online": online.pop("online"),
        "ingest_per_s": online.pop("ingest_per_s"),
        "freshness_p99_s": online.pop("freshness_p99_s"),
        "point_in_time": joins,
        "google_file": file,
        **online,
    }


def _shards(stack: ExitStack, settings: Settings) -> dict[str, Worker]:
    shards = {
        f"shard-{number}": stack.enter_context(
            Worker(member, f"shard-{number}", LaneName.ACTIVITY.value, settings)
        )
        for number in range(settings.pool_size(LaneName.ACTIVITY))
    }
    for shard in shards.values():
        shard.receive(str, timeout_s=START_S)
    return shards


def _online(settings: Settings, options: Options, feast: FeastPeer, server: int) -> Figures:
    settings = msgspec.structs.replace(settings, as_of="now")
    with ExitStack() as stack:
        shards = _shards(stack, settings)
        load = stack.enter_context(Worker(loader, settings, options.seed))
        load.receive(str, timeout_s=START_S)
        watched = {name: worker.pid for name, worker in shards.items()} | {
            "loader": load.pid,
            "server": server,
        }
        bench = Bench(settings, load, watched)
        history = ADVERTISERS * (10 if options.quick else HISTORY_EVENTS)
        say(f"features: {history:,} events of history")
        before = bench.send(Send(events=history, days=float(HISTORY_EVENTS)))
        say(f"features: as many events as the shards apply, for {options.seconds:.1f} s")
        flood = bench.send(Send(events=int(options.seconds * MAX_PER_S), days=0.05, seconds=options.seconds))
        say(f"features: {FRESH_PER_S:,.0f} events/s for {options.seconds:.1f} s")
        paced = bench.send(Send(events=int(options.seconds * FRESH_PER_S), days=0.001, per_s=FRESH_PER_S))
        say("features: reading, ours and Feast's by turns")
        bench.warm()
        found = feast.run("load", advertisers=ADVERTISERS, features=READ_FEATURES, seed=options.seed)
        with one_core(os.getpid(), feast.pid, server):
            online = {str(batch): _read(bench, feast, batch, options) for batch in BATCHES}
    return {
        "online": online,
        "ingest_per_s": flood["per_s"],
        "freshness_p99_s": round((paced["freshness_ms"]["p99"] or 0.0) / 1000, 4),
        "features_read": READ_FEATURES,
        "features_stored": len(FEATURES),
        "advertisers": ADVERTISERS,
        "feast": found["feast"],
        "ingest": {"history": before, "flood": flood, "paced": paced},
        "lost": before["lost"] + flood["lost"] + paced["lost"],
    }


def _read(bench: Bench, feast: FeastPeer, batch: int, options: Options) -> Figures:
    """One batch size: ratios are taken turn by turn; returns their medians."""
    turns: list[dict[str, float]] = []
    for turn in range(2 if options.quick else TURNS):
        ours = bench.read(batch, QUICK_READS if options.quick else OUR_READS[batch], options.seed + turn)
        reads = QUICK_READS if options.quick else FEAST_READS[batch]
        took = feast.run("read", batch=batch, reads=reads, seed=options.seed + turn)["ms"]
        p50, p99 = percentile(took, 0.5), percentile(took, 0.99)
        turns.append(
            {
                **ours,
                "feast_p50_ms": p50,
                "feast_p99_ms": p99,
                "ratio_p50": p50 / ours["ours_p50_ms"],
                "ratio_p99": p99 / ours["ours_p99_ms"],
            }
        )
    middle = {name: round(median(turn[name] for turn in turns), 4) for name in turns[0]}
    first = ("ours_p50_ms", "feast_p50_ms", "ratio_p50", "ratio_p99")
    return {name: middle[name] for name in (*first, *(name for name in middle if name not in first))}


def _google(settings: Settings) -> Figures | None:
    """The file through the lane to servable vectors of every advertiser, and by pandas; None where it is not there."""
    path: Path = google.FILE
    if not path.exists():
        return None
    say("features: the Google file end to end, and by pandas")
    with ExitStack() as stack:
        server = EmbeddedServer(settings.data_path, say)
        stack.callback(server.stop)
        server.start()
        _shards(stack, settings)
        load = stack.enter_context(Worker(loader, settings, 0))
        load.receive(str, timeout_s=START_S)
        bench = Bench(settings, load, {})
        began = time.perf_counter()
        rows = google.run_send(settings, path)
        deadline = time.monotonic() + DRAIN_S
        while bench.waiting() and time.monotonic() < deadline:
            time.sleep(POLL_S)
        imported_s = time.perf_counter() - began
        began = time.perf_counter()
        frame, as_of = google.with_pandas(path)
        pandas_s = time.perf_counter() - began
        differ = _differing(bench.reader, frame, as_of)
    return {
        "rows": rows,
        "advertisers": len(frame),
        "import_s": round(imported_s, 3),
        "import_rows_per_s": round(rows / imported_s),
        "pandas_s": round(pandas_s, 3),
        "values_that_differ": differ,
    }


def _differing(reader: OnlineReader, frame: Any, as_of: float) -> int:
    """Values of pandas that are not ours, but for its rounding of floats."""
    answer = reader.read(frame.index.tolist(), as_of)
    ours = np.array([answer.vector(place) for place in range(len(frame))])
    theirs = frame[list(FEATURE_NAMES)].to_numpy(dtype=float, na_value=np.nan)
    return int((~np.isclose(ours, theirs, rtol=1e-9, atol=1e-6, equal_nan=True)).sum())


def main(argv: list[str] | None = None) -> int:
    """Run it; returns the exit status."""
    return run("features", "The feature store compared with Feast, online and offline.", measure, argv)
