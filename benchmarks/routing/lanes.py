"""Routing end to end: a flood of P2 through real routers, single P0s at the same time, and the floor below it.

    loader ──Lane.append──► p2 lane ──► router-p2-0 ──► sink channel       (processes of their own)
    this process, 50/s ───► p0 lane ──► router-p0-0, router-p0-1 ──► log channel
                              all on one embedded server, every write fsynced

In the same run, before and after, on the same server with the same payloads: the bare loop
`XADD block -> XREADGROUP -> decode -> XACK, XDEL`, which no router can beat.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import msgspec
import psutil
from redis import asyncio as aioredis

from benchmarks.harness.figures import Figures, summary_ms
from benchmarks.harness.payloads import BLOCK_RECORDS, p0_record
from benchmarks.harness.pool_member import member
from benchmarks.harness.processes import Worker
from benchmarks.harness.run import Options, run, say, workspace
from benchmarks.routing import evidence, over_http, processes
from tocsin.settings import Settings
from tocsin.storage.connect import connect, resolve_url
from tocsin.storage.embedded import EmbeddedServer, ServerEndpoint
from tocsin.streams.lanes import Lane
from tocsin.wire.lanes import LaneName

P0_PER_S = 50.0
MAX_RECORDS = 400_000_000  # of one flood
MAX_PART_S = 15.0  # idle, floor and scattered flood, however long the flood lasts
MAX_HTTP_S = 60.0
MAX_BACKLOG_RECORDS = 50_000
START_S = 60.0
WARM_UP_S = 2.0
DRAIN_S = 120.0
PATIENCE_S = 20.0  # a P0 that waits so long is a figure, not an error
POLL_S = 0.02
RSS_EVERY_S = 0.2
MIB = 1024 * 1024
P2_ROUTER = "router-p2-0"

# Settings, options, the loader, the bare reader and the processes watched, to figures.
Plan = Callable[[Settings, Options, Worker, Worker, Mapping[str, int]], Coroutine[Any, Any, Figures]]


class Rss(msgspec.Struct, frozen=True):
    """Memory of processes at one moment, in bytes."""

    routers: int
    server: int


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one flood, from the first block sent until nothing waited any more."""

    sent: processes.Flooded
    took_s: float
    cpu_s: dict[str, float]  # processor time by process
    rss: list[Rss]  # over time
    server_bytes: int = 0  # what the server holds at the end beyond what it held at the beginning
    p0_accepted_at: dict[str, float] = {}

    @property
    def per_s(self) -> float:
        """Records through the whole path a second."""
        return self.sent.records / self.took_s

    def cpu_us(self, process: str) -> float:
        """Processor time of a process for one record: steadier than rates where cores are shared."""
        return round(self.cpu_s[process] / self.sent.records * 1e6, 2)


class Bench:
    """The lanes and processes of one run.

    Args:
        client: The server.
        settings: Where and how.
        load: The loader's process.
        bare: The bare reader's process.
        watched: Processes by name, whose processor time is reported; the routers' memory as well.
    """

    def __init__(
        self,
        client: aioredis.Redis,
        settings: Settings,
        load: Worker,
        bare: Worker,
        watched: Mapping[str, int],
    ) -> None:
        self.client = client
        self.lanes = {name: Lane.of(client, settings, name) for name in (LaneName.P0, LaneName.P2)}
        self._load = load
        self._bare = bare
        self._watched = {name: psutil.Process(pid) for name, pid in watched.items()}

    async def bare_loop(self, seconds: float) -> Flow:
        """The floor."""
        before = self._cpu_s()
        self._bare.send("read")
        sent = await self._send_p2(seconds, processes.Target.BARE)
        read = await asyncio.to_thread(self._bare.receive, processes.Read, timeout_s=DRAIN_S)
        if read.records != sent.records:
            raise RuntimeError(f"the bare loop read {read.records:,} of {sent.records:,} records")
        return Flow(sent=sent, took_s=read.last_at - sent.first_at, cpu_s=self._cpu_since(before), rss=[])

    async def flood(self, seconds: float, target: processes.Target, *, p0: bool = False) -> Flow:
        """P2 as fast as the lane takes it, with P0 at the same time where `p0`, until all of it is delivered."""
        rss: list[Rss] = []
        held = await self._server_bytes()
        watching = asyncio.create_task(self._watch_rss(rss))
        sent_all = asyncio.Event()
        p0_task = asyncio.create_task(self.send_p0(seconds if p0 else 0.0, sent_all))
        before = self._cpu_s()
        sent = await self._send_p2(seconds, target)
        sent_all.set()
        drained_at = await self._drained(LaneName.P2, retried=target is not processes.Target.HANGING)
        cpu_s = self._cpu_since(before)
        watching.cancel()
        accepted_at = await p0_task
        await self._drained(LaneName.P0)
        return Flow(
            sent=sent,
            took_s=drained_at - sent.first_at,
            cpu_s=cpu_s,
            rss=rss,
            server_bytes=await self._server_bytes() - held,
            p0_accepted_at=accepted_at,
        )

    async def send_p0(self, seconds: float, end: asyncio.Event | None = None) -> dict[str, float]:
        """P0 one by one on a fixed schedule, however long each takes; when each was accepted, by id.

        A slow answer delays no later send, so it hides nothing from the figures. Ends early at `end`.
        """
        began = time.monotonic()
        sending = []
        for number in range(int(P0_PER_S * seconds)):
            await asyncio.sleep(max(0.0, began + number / P0_PER_S - time.monotonic()))
            if end is not None and end.is_set():
                break
            sending.append(asyncio.create_task(self._send_one(number)))
        return dict(await asyncio.gather(*sending))

    async def _send_one(self, number: int) -> tuple[str, float]:
        lane, now = self.lanes[LaneName.P0], time.time()
        placed = await lane.append([p0_record(number, lane.partitions, now)])
        return placed[0].id, now

    async def _send_p2(self, seconds: float, target: processes.Target) -> processes.Flooded:
        order = processes.Flood(
            seconds=seconds,
            max_records=MAX_RECORDS,
            max_backlog=MAX_BACKLOG_RECORDS // BLOCK_RECORDS,
            target=target,
        )
        self._load.send(order)
        return await asyncio.to_thread(self._load.receive, processes.Flooded, timeout_s=seconds + DRAIN_S)

    async def _drained(self, name: LaneName, *, retried: bool = True) -> float:
        """When nothing waited in a lane any more (monotonic), or the deadline, where something still does.

        Args:
            name: The lane.
            retried: Retries count as waiting.
        """
        deadline = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline:
            depth = await self.lanes[name].depth()
            if not (depth.blocks or (retried and depth.retrying)):
                break
            await asyncio.sleep(POLL_S)
        return time.monotonic()

    def _cpu_s(self) -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in self._watched.items()}
        return {name: used.user + used.system for name, used in times.items()}

    def _cpu_since(self, before: Mapping[str, float]) -> dict[str, float]:
        return {name: used - before[name] for name, used in self._cpu_s().items()}

    async def _server_bytes(self) -> int:
        return int((await self.client.info("memory"))["used_memory_dataset"])

    async def _watch_rss(self, samples: list[Rss]) -> None:
        routers = [process for name, process in self._watched.items() if name.startswith("router-")]
        server = self._watched["server"]
        while True:
            together = sum(process.memory_info().rss for process in routers)
            samples.append(Rss(together, server.memory_info().rss))
            await asyncio.sleep(RSS_EVERY_S)


async def measure_lanes(
    settings: Settings, options: Options, load: Worker, bare: Worker, watched: Mapping[str, int]
) -> Figures:
    """Everything, in order: idle, floor, floods, floor; then the evidence."""
    client = connect(
        resolve_url(settings), timeout_s=PATIENCE_S, max_connections=round(PATIENCE_S * P0_PER_S) + 10
    )
    try:
        bench = Bench(client, settings, load, bare, watched)
        part_s = min(options.seconds / 4, MAX_PART_S)
        warm_up = await bench.send_p0(WARM_UP_S)  # the routers lease their partitions meanwhile
        say(f"routing: P0 alone for {part_s:.1f} s")
        idle = await bench.send_p0(part_s)
        say(f"routing: the bare loop for {part_s:.1f} s")
        floors = [await bench.bare_loop(part_s)]
        say(f"routing: P2 flood with P0 at the same time for {options.seconds:.1f} s")
        flow = await bench.flood(options.seconds, processes.Target.BLOCKS, p0=True)
        say(f"routing: P2 flood scattered over partitions for {part_s:.1f} s")
        scattered = await bench.flood(part_s, processes.Target.SCATTERED)
        say(f"routing: the bare loop again for {part_s:.1f} s")
        floors.append(await bench.bare_loop(part_s))
        figures = speeds(flow, scattered, floors) | await outcomes(
            bench, settings, warm_up, idle, [flow, scattered]
        )
        say(
            f"routing: the same flood, one in a hundred to a provider that hangs, for {options.seconds:.1f} s"
        )
        hanging = await flood_with_hanging_provider(bench, options.seconds, figures)
        return figures | {"hanging": hanging, "lost": figures["lost"] + hanging["lost"]}
    finally:
        await client.aclose()


async def measure_flood(
    settings: Settings, options: Options, load: Worker, bare: Worker, watched: Mapping[str, int]
) -> Figures:
    """One flood with P0 at the same time and nothing else: what peers are compared with."""
    client = connect(resolve_url(settings), timeout_s=PATIENCE_S)
    try:
        bench = Bench(client, settings, load, bare, watched)
        warm_up = await bench.send_p0(WARM_UP_S)
        load_1m = round(os.getloadavg()[0], 2)
        flow = await bench.flood(options.seconds, processes.Target.BLOCKS, p0=True)
        figures = {
            "load_1m": load_1m,
            "delivered_per_s": round(flow.per_s),
            "cores_used": {name: round(used / flow.took_s, 2) for name, used in flow.cpu_s.items()},
        }
        return figures | await outcomes(bench, settings, warm_up, {}, [flow])
    finally:
        await client.aclose()


def speeds(flow: Flow, scattered: Flow, floors: Sequence[Flow]) -> Figures:
    """Rates, and their ratios to the floor."""
    sent = flow.sent
    settled, ended = flow.rss[len(flow.rss) // 4], flow.rss[-1]
    bare_per_s = sum(floor.per_s for floor in floors) / len(floors)
    bare_cpu_us = sum(floor.cpu_us("bare-reader") for floor in floors) / len(floors)
    return {
        "accepted_per_s": round(sent.records / (sent.last_at - sent.first_at)),
        "burst_accepted_per_s": round(sent.burst_records / sent.burst_s),
        "delivered_per_s": round(flow.per_s),
        "scattered_delivered_per_s": round(scattered.per_s),
        "bare_loop_per_s": round(bare_per_s),
        "bare_loop_rounds": [round(floor.per_s) for floor in floors],
        "ratio_to_bare": round(flow.per_s / bare_per_s, 3),
        "cpu_us_per_record": {
            "router": flow.cpu_us(P2_ROUTER),
            "router_scattered": scattered.cpu_us(P2_ROUTER),
            "bare_loop": round(bare_cpu_us, 2),
        },
        "cores_used": {name: round(used / flow.took_s, 2) for name, used in flow.cpu_s.items()},
        "rss_growth_mib": round((ended.routers - settled.routers) / MIB, 1),
        "server_rss_growth_mib": round((ended.server - settled.server) / MIB, 1),
        "server_bytes_per_record": round(flow.server_bytes / sent.records, 3),
    }


async def outcomes(
    bench: Bench,
    settings: Settings,
    warm_up: Mapping[str, float],
    idle: Mapping[str, float],
    flows: Sequence[Flow],
) -> Figures:
    """The final states of everything sent, by the ledger; for P0 by the delivery logs as well."""
    p0, p2 = bench.lanes[LaneName.P0], bench.lanes[LaneName.P2]
    flooded = {key: at for flow in flows for key, at in flow.p0_accepted_at.items()}
    p0_accepted = len(warm_up) + len(idle) + len(flooded)
    accepted = p0_accepted + sum(flow.sent.records for flow in flows)
    accounted = await evidence.accounted(bench.client, p0) + await evidence.accounted(bench.client, p2)
    latencies = await evidence.latencies_ms(bench.client, p0, {**idle, **flooded})
    logs = await asyncio.to_thread(evidence.delivery_logs, settings.data_path / "deliveries")
    alone = summary_ms([latencies[key] for key in idle if key in latencies])
    crowded = summary_ms([latencies[key] for key in flooded if key in latencies])
    return {
        "p0_ms": {"idle": alone, "flood": crowded},
        "p0_flood_to_idle": {
            q: round(crowded[q] / alone[q], 2) if alone[q] and crowded[q] else None for q in ("p50", "p99")
        },
        "accepted": accepted,
        "lost": max(0, accepted - accounted),
        "unlogged": p0_accepted - logs.distinct,
        "duplicates": max(0, accounted - accepted) + logs.duplicates,
    }


async def flood_with_hanging_provider(bench: Bench, seconds: float, without: Figures) -> Figures:
    """The flood again: what one provider that never answers costs all others."""
    lane = bench.lanes[LaneName.P2]
    before = await evidence.accounted(bench.client, lane)
    flow = await bench.flood(seconds, processes.Target.HANGING, p0=True)
    waiting = (await lane.depth()).retrying
    finished = await evidence.accounted(bench.client, lane) - before
    latencies = await evidence.latencies_ms(bench.client, bench.lanes[LaneName.P0], flow.p0_accepted_at)
    p0_ms = summary_ms(list(latencies.values()))
    return {
        "delivered_per_s": round(finished / flow.took_s),
        "ratio_to_flood": round(finished / flow.took_s / without["delivered_per_s"], 3),
        "p0_ms": p0_ms,
        "p0_p99_to_flood": round(p0_ms["p99"] / without["p0_ms"]["flood"]["p99"], 2),
        "parked": waiting,
        "lost": max(0, flow.sent.records - finished - waiting),
    }


def measure(settings: Settings, options: Options) -> Figures:
    """Start a server and processes, measure, stop them."""
    settings = msgspec.structs.replace(settings, webhook_allow_private=True)
    with ExitStack() as stack:
        server = EmbeddedServer(settings.data_path, say)
        stack.callback(server.stop)
        return measure_on(server.start(), settings, options, measure_lanes)


def measure_on(endpoint: ServerEndpoint, settings: Settings, options: Options, plan: Plan) -> Figures:
    """Start the processes on a server that runs, carry out a plan, stop them."""
    with ExitStack() as stack:
        routers = {
            f"router-{lane}-{number}": stack.enter_context(
                Worker(member, f"router-{lane}-{number}", lane.value, settings)
            )
            for lane in (LaneName.P0, LaneName.P2)
            for number in range(settings.pool_size(lane))
        }
        hanging_url = stack.enter_context(Worker(processes.hanging_provider)).receive(str, timeout_s=START_S)
        load = stack.enter_context(Worker(processes.loader, settings, options.seed, hanging_url))
        bare = stack.enter_context(Worker(processes.bare_reader, settings))
        for worker in (*routers.values(), load, bare):
            worker.receive(str, timeout_s=START_S)
        watched = {name: worker.pid for name, worker in routers.items()}
        watched |= {"loader": load.pid, "bare-reader": bare.pid, "server": endpoint.pid}
        return asyncio.run(plan(settings, options, load, bare, watched))


def measure_all(settings: Settings, options: Options) -> Figures:
    """The lanes first, alone on the machine; then the same over HTTP with the whole platform up."""
    figures = measure(settings, options)
    with workspace() as other:
        shorter = msgspec.structs.replace(options, seconds=min(options.seconds, MAX_HTTP_S))
        http = over_http.measure(other, shorter)
    return figures | http | {"lost": figures["lost"] + http["http_lost"]}


def main(argv: list[str] | None = None) -> int:
    """Run it; returns the exit status."""
    return run("routing", "Notifications through lanes and routers, end to end.", measure_all, argv)
