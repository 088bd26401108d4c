"""The offline half: features of labels as of past moments, ours from the archive and Feast's from a file."""

from __future__ import annotations

import resource
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.features.feast_peer import FeastPeer
from benchmarks.features.load import ADVERTISERS, advertiser
from benchmarks.harness.figures import Figures
from benchmarks.harness.processes import Worker, receive, send
from benchmarks.harness.run import Options, say
from features.definitions import FEATURE_NAMES
from features.offline.archive import Archive
from features.offline.point_in_time import point_in_time

BEGIN = 1_700_000_000
DAYS = 400
LABELS_FROM_DAY = 100
CAMPAIGNS = 20
APPEND_ROWS = 1_000_000
TURN_S = 1_800.0
MAX_PAIRS = 50_000_000  # Feast joins every label with every event of its advertiser before it chooses


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """Some labels against some events, in files: an archive for us, one file each for Feast."""

    events: int
    labels: int
    archive: str
    labels_file: str
    feast_events: str
    feast_labels: str


class Took(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of ours."""

    rows: int
    seconds: float
    peak_mib: float  # of the process since its start


def make_case(folder: Path, events: int, labels: int, seed: int) -> Case:
    """Made-up spend of 5,000 advertisers over 400 days; labels at any second of the last 300."""
    chance = np.random.default_rng(seed)
    place = folder / f"{events}-{labels}"
    case = Case(
        events=events,
        labels=labels,
        archive=str(place / "archive"),
        labels_file=str(place / "labels.parquet"),
        feast_events=str(place / "feast-events.parquet"),
        feast_labels=str(place / "feast-labels.parquet"),
    )
    place.mkdir(parents=True)
    names = pa.array([advertiser(number) for number in range(ADVERTISERS)])
    archive = Archive(case.archive)
    with pq.ParquetWriter(case.feast_events, _FEAST_EVENTS) as feast:
        for first in range(0, events, APPEND_ROWS):
            table = _some_events(names, first, min(APPEND_ROWS, events - first), chance)
            archive.append(table, f"bench-{first}")
            when = _timestamps(table["event_time"].to_numpy())
            feast.write_table(pa.table([table["advertiser_id"], when, table["amount"]], schema=_FEAST_EVENTS))
    archive.compact(time.time())
    as_of = BEGIN + chance.integers(LABELS_FROM_DAY * 86_400, DAYS * 86_400, labels).astype(np.float64)
    whose = names.take(pa.array(chance.integers(0, ADVERTISERS, labels)))
    pq.write_table(pa.table({"advertiser_id": whose, "as_of": as_of}), case.labels_file)
    few = min(labels, MAX_PAIRS * ADVERTISERS // events)
    feast_labels = pa.table({"advertiser_id": whose[:few], "event_timestamp": _timestamps(as_of[:few])})
    pq.write_table(feast_labels, case.feast_labels)
    return case


_FEAST_EVENTS = pa.schema(
    [
        ("advertiser_id", pa.string()),
        ("event_timestamp", pa.timestamp("us", tz="UTC")),
        ("amount", pa.float64()),
    ]
)


def _timestamps(seconds: Any) -> pa.Array:
    return pa.array((seconds * 1e6).astype(np.int64), pa.timestamp("us", tz="UTC"))


def _some_events(names: pa.Array, first: int, count: int, chance: np.random.Generator) -> pa.Table:
    time_ = BEGIN + chance.integers(0, DAYS * 86_400, count).astype(np.float64)
    campaigns = pa.array([f"campaign-{number}" for number in range(CAMPAIGNS)])
    return pa.table(
        {
            "advertiser_id": names.take(pa.array(chance.integers(0, ADVERTISERS, count))),
            "event_time": time_,
            "arrival": time_ + chance.random(count),
            "amount": np.round(chance.gamma(1.0, 50.0, count), 2),
            "kind": pa.repeat(pa.scalar("spend"), count),
            "campaign_id": campaigns.take(pa.array(chance.integers(0, CAMPAIGNS, count))),
            "event_id": pa.array([f"{first + number:024x}" for number in range(count)]),
        }
    )


def worker(pipe: Connection) -> None:
    """Answer cases (`Case` in, `Took` out) until the pipe closes."""
    send(pipe, "ready")
    while True:
        try:
            case = receive(pipe, Case)
        except EOFError:
            return
        labels = pq.read_table(case.labels_file)
        began = time.perf_counter()
        answer = point_in_time(Archive(case.archive), labels)
        seconds = time.perf_counter() - began
        if not np.isfinite(answer["events_lifetime"].to_numpy()).mean() > 0.9:
            raise RuntimeError("labels without events")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        send(pipe, Took(rows=len(labels), seconds=seconds, peak_mib=peak))


def compare(case: Case, feast: FeastPeer, rounds: int) -> Figures:
    """Ours and Feast's by turns on one case; a process of ours for each turn, so that its peak is its own."""
    ours: list[Took] = []
    theirs: list[dict[str, Any]] = []
    for _ in range(rounds):
        with Worker(worker) as mine:
            mine.receive(str, timeout_s=60.0)
            mine.send(case)
            ours.append(mine.receive(Took, timeout_s=TURN_S))
        theirs.append(feast.run("join", events=case.feast_events, labels=case.feast_labels))
    ours_per_s = median(took.rows / took.seconds for took in ours)
    feast_per_s = median(found["rows"] / found["seconds"] for found in theirs)
    return {
        "ours_rows_per_s": round(ours_per_s),
        "feast_rows_per_s": round(feast_per_s),
        "ratio": round(ours_per_s / feast_per_s, 1),
        "events": case.events,
        "labels": case.labels,
        "feast_labels": theirs[0]["rows"],
        "ours_features": len(FEATURE_NAMES),
        "feast_features": 1,
        "ours_peak_mib": round(max(took.peak_mib for took in ours)),
        "turns": rounds,
    }


def measure(folder: Path, feast: FeastPeer, options: Options) -> Figures:
    """Compare on all events, and on a tenth of them, where Feast can join every label as well."""
    events, labels = (500_000, 20_000) if options.quick else (10_000_000, 200_000)
    rounds = 1 if options.quick else 2
    found: list[Figures] = []
    for number in (events, events // 10):
        say(f"features: {labels:,} labels against {number:,} events")
        case = make_case(folder, number, labels, options.seed)
        found.append(compare(case, feast, rounds))
    return {**found[0], "a_tenth_of_the_events": found[1]}
