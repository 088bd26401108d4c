"""The online half of the feature store: activity through the lane to servable vectors, and reading them back.

    loader ──Lane.append──► activity lane ──► shard-0, shard-1 ──► events, tiles, packed vectors
    this process ───────────────────────────────── MGET ◄──────────┘

Reads are in process, over the same client as their floor: a bare `MGET` of the same keys and one
`struct.unpack` each, which no store of packed vectors can beat.
"""

from __future__ import annotations

import random
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import msgspec
import psutil
import redis

from benchmarks.features.load import ADVERTISERS, Send, Sent, advertiser, loader
from benchmarks.harness.figures import Figures, percentile
from benchmarks.harness.pool_member import member
from benchmarks.harness.processes import Worker
from benchmarks.harness.run import Options, run, say
from features.definitions import FEATURE_NAMES, FEATURES
from features.online.packing import PACKERS
from features.online.reader import OnlineReader
from tocsin.keys import FeatureKeys, LaneKeys
from tocsin.settings import Settings
from tocsin.storage.connect import resolve_url
from tocsin.storage.embedded import EmbeddedServer
from tocsin.streams.records import partition_of
from tocsin.telemetry.latency import quantile_ms
from tocsin.wire.lanes import LaneName

BATCHES = (1, 10, 100)
READ_FEATURES = 20
HISTORY_EVENTS = 60  # an advertiser, over as many days
MAX_PER_S = 90_000
FRESH_PER_S = 10_000.0
START_S = 60.0
DRAIN_S = 180.0
POLL_S = 0.02
ROUNDS = {1: 4_000, 10: 2_000, 100: 1_000}
QUICK_ROUNDS = 100


class Bench:
    """One run against one server.

    Args:
        settings: Where and how.
        load: The loader's process.
        watched: Processes by name, whose processor time is reported.
    """

    def __init__(self, settings: Settings, load: Worker, watched: dict[str, int]) -> None:
        url = resolve_url(settings)
        self.client: Any = redis.Redis.from_url(url, socket_timeout=10.0, protocol=2)
        self.partitions = settings.partitions(LaneName.ACTIVITY)
        self.reader = OnlineReader(self.client, namespace=settings.namespace, partitions=self.partitions)
        self.keys = FeatureKeys(settings.namespace)
        self.lane = LaneKeys(settings.namespace, LaneName.ACTIVITY)
        self._load = load
        self._watched = {name: psutil.Process(pid) for name, pid in watched.items()}

    # ------------------------------------------------------------------ writing

    def send(self, order: Send) -> Figures:
        """Carry out an order and wait until all is applied. Returns rates, freshness and processor time by process."""
        self._load.send(order)
        self._load.receive(str, timeout_s=DRAIN_S)
        applied, latency, used = self._applied(), self._latency(), self._cpu_s()
        self._load.send("go")
        sent = self._load.receive(Sent, timeout_s=DRAIN_S)
        deadline = time.monotonic() + DRAIN_S
        while self.waiting() and time.monotonic() < deadline:
            time.sleep(POLL_S)
        took_s = time.monotonic() - sent.first_at
        fresh = {bucket: number - latency.get(bucket, 0) for bucket, number in self._latency().items()}
        return {
            "events": sent.events,
            "per_s": round(sent.events / took_s),
            "lost": sent.events - (self._applied() - applied),
            "freshness_ms": {"p50": quantile_ms(fresh, 0.5), "p99": quantile_ms(fresh, 0.99)},
            "cpu_us_per_event": {
                name: round((now - used[name]) / sent.events * 1e6, 2) for name, now in self._cpu_s().items()
            },
            "cores_used": {
                name: round((now - used[name]) / took_s, 2) for name, now in self._cpu_s().items()
            },
        }

    def _applied(self) -> int:
        return int(self.client.hget(self.lane.counts, "applied") or 0)

    def _latency(self) -> dict[int, int]:
        return {int(bucket): int(number) for bucket, number in self.client.hgetall(self.lane.latency).items()}

    def waiting(self) -> int:
        """How many blocks wait in the lane."""
        return sum(int(self.client.xlen(self.lane.stream(partition))) for partition in range(self.partitions))

    def _cpu_s(self) -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in self._watched.items()}
        return {name: used.user + used.system for name, used in times.items()}

    # ------------------------------------------------------------------ reading

    def warm(self) -> None:
        """Make every vector valid for the present hour: read, and let the shards renew what is missing."""
        names = [advertiser(number) for number in range(ADVERTISERS)]
        deadline = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline:
            wanted = self.reader.read(names, time.time()).wanted
            if not wanted:
                return
            for name in wanted:
                self.client.sadd(self.keys.wanted(partition_of(name, self.partitions)), name)
            time.sleep(1.0)

    def read(self, batch: int, rounds: int, seed: int) -> Figures:
        """Latencies of one batch size, ours and the floor's by turns."""
        chance = random.Random(seed)  # noqa: S311 (nothing secret)
        names = FEATURE_NAMES[:READ_FEATURES]
        ours: list[float] = []
        floor: list[float] = []
        fallbacks = 0
        for _ in range(rounds):
            ids = [advertiser(number) for number in chance.sample(range(ADVERTISERS), batch)]
            began = time.perf_counter()
            answer = self.reader.read(ids, time.time())
            columns, stale = answer.columns(names), answer.stale()
            ours.append((time.perf_counter() - began) * 1000)
            fallbacks += len(answer.wanted)
            if len(columns) != READ_FEATURES or len(stale) != batch:
                raise RuntimeError("a read gave too few features")
            keys = [self.keys.vectors(name) for name in ids]
            began = time.perf_counter()
            self.bare(keys)
            floor.append((time.perf_counter() - began) * 1000)
        return {
            "ours_p50_ms": round(percentile(ours, 0.5), 4),
            "ours_p99_ms": round(percentile(ours, 0.99), 4),
            "floor_p50_ms": round(percentile(floor, 0.5), 4),
            "floor_p99_ms": round(percentile(floor, 0.99), 4),
            "over_floor_p50": round(percentile(ours, 0.5) / percentile(floor, 0.5), 2),
            "fallbacks": fallbacks,
        }

    def bare(self, keys: Sequence[str]) -> list[tuple[float, ...]]:
        """The floor."""
        return [_BARE.unpack(body) for body in self.client.mget(keys) if body is not None]


_BARE = struct.Struct("<" + "".join(f"48x{packer.count}d" for packer in PACKERS))


def measure(settings: Settings, options: Options) -> Figures:
    """Start a server and shards, measure, stop them."""
    settings = msgspec.structs.replace(settings, as_of="now")
    with ExitStack() as stack:
        server = EmbeddedServer(settings.data_path, say)
        stack.callback(server.stop)
        endpoint = server.start()
        shards = {
            f"shard-{number}": stack.enter_context(
                Worker(member, f"shard-{number}", LaneName.ACTIVITY.value, settings)
            )
            for number in range(settings.pool_size(LaneName.ACTIVITY))
        }
        load = stack.enter_context(Worker(loader, settings, options.seed))
        for worker in (*shards.values(), load):
            worker.receive(str, timeout_s=START_S)
        watched = {name: worker.pid for name, worker in shards.items()}
        return _measure(
            Bench(settings, load, watched | {"loader": load.pid, "server": endpoint.pid}), options
        )


def _measure(bench: Bench, options: Options) -> Figures:
    rounds: Callable[[int], int] = lambda batch: QUICK_ROUNDS if options.quick else ROUNDS[batch]  # noqa: E731
    history = ADVERTISERS * (10 if options.quick else HISTORY_EVENTS)
    say(f"features: {history:,} events of history")
    before = bench.send(Send(events=history, days=float(HISTORY_EVENTS)))
    say(f"features: as many events as the shards apply, for {options.seconds:.1f} s")
    flood = bench.send(Send(events=int(options.seconds * MAX_PER_S), days=0.05, seconds=options.seconds))
    say(f"features: {FRESH_PER_S:,.0f} events/s for {options.seconds:.1f} s")
    paced = bench.send(Send(events=int(options.seconds * FRESH_PER_S), days=0.001, per_s=FRESH_PER_S))
    say("features: reading")
    bench.warm()
    online = {str(batch): bench.read(batch, rounds(batch), options.seed) for batch in BATCHES}
    return {
        "online": online,
        "online_features": READ_FEATURES,
        "stored_features": len(FEATURES),
        "advertisers": ADVERTISERS,
        "ingest_per_s": flood["per_s"],
        "freshness_p99_s": round((paced["freshness_ms"]["p99"] or 0.0) / 1000, 4),
        "ingest": {"history": before, "flood": flood, "paced": paced},
        "lost": before["lost"] + flood["lost"] + paced["lost"],
    }


def main(argv: list[str] | None = None) -> int:
    """Run it alone; returns the exit status."""
    return run(
        "features_online", "The online half of the feature store.", measure, argv, module="features.online"
    )


if __name__ == "__main__":
    sys.exit(main())
