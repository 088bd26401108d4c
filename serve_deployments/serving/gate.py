"""The gate of one replica: facts about the lanes, sampled alongside the requests, and the policy applied to them.

    unknown ──await──► fresh ──250 ms──► ageing (answers, one sample under way) ──500 ms──► stale ──await──► fresh

A request waits for a sample only after a pause in traffic. While a server does not answer, everything bound for it is
let in: the append behind the gate will say what is wrong. Each server is sampled by itself, so that one that is away
neither holds up nor blinds the lanes of another.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from redis import asyncio as aioredis
from redis import exceptions as redis_errors

from routing.intake.admission import (
    ADMITTED,
    LATE_RECORDS,
    MAX_SOURCES,
    SAMPLE_S,
    STALE_S,
    AdmissionDecision,
    AdmissionPolicy,
    AdmissionReason,
    Holdings,
    LaneFacts,
)
from serve_deployments.serving.lane_facts import read_facts, share_holdings
from tocsin.clock import Clock
from tocsin.errors import OverloadedError
from tocsin.streams.lanes import Lane
from tocsin.telemetry.reports import REFUSED, Fault, Reports
from tocsin.wire.lanes import LaneName

log = logging.getLogger(__name__)

SAMPLE_WAIT_S = 0.25  # of a send's deadline; the write itself gets the most of it
RATE_WINDOW_S = 1.0  # the drain rate is measured over at least this long
PACE_S = 1.0  # how fast what is known of a lane's capacity follows: blocks are settled in bunches
REMEMBERED_S = 600  # how long a source counts after it sent something

SAYS = {
    AdmissionReason.MEMORY: "the storage server's memory is nearly used up",
    AdmissionReason.RECORDS: "too many records wait",
    AdmissionReason.AGE: "the oldest record has waited too long",
    AdmissionReason.SHARE: "this source has more than its share of what waits",
}


class ServerMemory(msgspec.Struct, frozen=True):
    """What the server said of its memory, in bytes; a limit of 0 is none."""

    used: int
    limit: int


class LaneSample(msgspec.Struct, frozen=True):
    """One answer of the server about one lane."""

    memory: ServerMemory
    now_s: float
    blocks: int
    retrying: int
    oldest_s: float
    accepted: int
    finished: int

    @classmethod
    def read(cls, answer: Sequence[Any]) -> LaneSample:
        """From what `read_facts` returns."""
        text, now_ms, blocks, retrying, oldest_ms, accepted, finished = answer
        return cls(
            read_memory(text.decode()), now_ms / 1000, blocks, retrying, oldest_ms / 1000, accepted, finished
        )

    @property
    def records(self) -> int:
        """Accepted and not yet out of the lane. Where nothing waits, only retries can be left."""
        return max(self.accepted - self.finished, 0) if self.blocks else self.retrying

    @property
    def waiting(self) -> int:
        """The same without those to be tried again."""
        return max(self.records - self.retrying, 0)


async def take_sample(lane: Lane) -> LaneSample:
    """Ask its server about one lane.

    Raises:
        RedisError: as the driver raises it.
    """
    return LaneSample.read(await read_facts(lane))


def read_memory(text: str) -> ServerMemory:
    """INFO's section as numbers; what the server leaves out of its own limit is left out here, too."""
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    found = {name: int(lines.get(name, "0")) for name in ("used_memory", "maxmemory")}
    uncounted = int(lines.get("mem_not_counted_for_evict", "0"))
    return ServerMemory(found["used_memory"] - uncounted, found["maxmemory"])


class Sampled:
    """The lanes of one storage server, and where the sampling of it stands."""

    def __init__(self, lanes: Mapping[LaneName, Lane]) -> None:
        self.lanes = lanes
        self.at = -math.inf
        self.task: asyncio.Task[None] | None = None
        self.bytes_since = 0  # let in since the sample


def by_server(lanes: Mapping[LaneName, Lane]) -> dict[LaneName, Sampled]:
    """For each lane its server; lanes that share a client share it."""
    grouped: dict[aioredis.Redis, dict[LaneName, Lane]] = defaultdict(dict)
    for name, lane in lanes.items():
        grouped[lane.client][name] = lane
    return {name: sampled for sampled in map(Sampled, grouped.values()) for name in sampled.lanes}


class Gate:
    """Decides for one replica.

    Args:
        lanes: Those it lets in to.
        policy: The limits.
        clock: Only its stopwatch is used.
    """

    def __init__(self, lanes: Mapping[LaneName, Lane], policy: AdmissionPolicy, clock: Clock) -> None:
        self.policy = policy
        self.refused: Counter[tuple[LaneName, AdmissionReason]] = Counter()
        self.samples = self.failures = 0
        self._servers = by_server(lanes)
        self._shared = [name for name in lanes if policy.limits(name).shared_from_s < math.inf]
        self._clock = clock
        self.reports = [
            Reports(lane.client, lane.keys.reports, partial(self._counted, name))
            for name, lane in lanes.items()
        ]
        self._samples: dict[LaneName, LaneSample] = {}
        self._drains: dict[
            LaneName, tuple[LaneSample, float]
        ] = {}  # a sample to measure from, the rate before it
        self._capacities: dict[LaneName, float] = {}
        self._holdings: dict[LaneName, Holdings] = defaultdict(Holdings)
        self._since: Counter[LaneName] = Counter()  # records let in since the sample

    async def decide(
        self, lane: LaneName, sources: Mapping[str, int], *, whole: bool
    ) -> dict[str, AdmissionDecision]:
        """A decision for each source's records of one request.

        Args:
            lane: Where they are bound for.
            sources: How many records of each.
            whole: All of them or none, as under an idempotency key: its repeat must find the same records.
        """
        facts = await self.facts(lane)
        decision = ADMITTED if facts is None else self.policy.admit(lane, facts)
        if facts is None or not decision.admit:
            decisions = dict.fromkeys(sources, decision)
        else:
            holdings = self._holdings[lane]
            decisions = {
                source: self.policy.admit_source(lane, facts, holdings, source, records)
                for source, records in sources.items()
            }
            refusals = [one for one in decisions.values() if not one.admit]
            if whole and refusals:
                decisions = dict.fromkeys(sources, refusals[0])
        for source, records in sources.items():
            if not decisions[source].admit:
                self.refused[lane, decisions[source].reason] += records
        return decisions

    def take(self, lane: LaneName, sources: Mapping[str, int]) -> None:
        """Count records that go in, before they do: the next request must know, the facts do not yet."""
        self._since[lane] += sum(sources.values())
        if lane in self._shared:
            for source, records in sources.items():
                self._holdings[lane].take(source, records)

    def grow(self, lane: LaneName, size: int) -> None:
        """Count the bytes that go in, likewise."""
        self._servers[lane].bytes_since += size

    async def facts(self, lane: LaneName) -> LaneFacts | None:
        """What is known of a lane; None when the server does not answer."""
        server = self._servers[lane]
        age_s = self._clock.monotonic() - server.at
        if age_s > SAMPLE_S and server.task is None:
            server.task = asyncio.create_task(self._renew(server))
        if age_s > STALE_S and server.task is not None:
            # Shared, and not ended by a caller that goes away. Where it takes longer, the sample before it has to do.
            await asyncio.wait({server.task}, timeout=SAMPLE_WAIT_S)
        sample = self._samples.get(lane)
        if sample is None:
            return None
        used = sample.memory.used + server.bytes_since
        return LaneFacts(
            records=sample.records + self._since[lane],
            waiting=sample.waiting + self._since[lane],
            blocks=sample.blocks,
            oldest_age_s=max(sample.now_s - sample.oldest_s, 0.0),
            memory_ratio=used / sample.memory.limit if sample.memory.limit else 0.0,
            drained_per_s=self._drains[lane][1],
            capacity_per_s=self._capacities.get(lane, 0.0),
        )

    async def run(self) -> None:
        """Tell the servers what was refused, until cancelled."""
        await asyncio.gather(*(one.run() for one in self.reports))

    def _counted(self, name: LaneName) -> dict[str, int]:
        refused = {f"{REFUSED}{reason}": n for (lane, reason), n in self.refused.items() if lane == name}
        return refused | {Fault.ADMISSION_BLIND: self.failures}

    async def _renew(self, server: Sampled) -> None:
        since = {name: self._since[name] for name in server.lanes}
        size = server.bytes_since
        try:
            samples = await asyncio.gather(*(take_sample(lane) for lane in server.lanes.values()))
            found = dict(zip(server.lanes, samples, strict=True))
            shared = [lane for name, lane in server.lanes.items() if name in self._shared]
            await asyncio.gather(
                *(self._share_out(lane, found[LaneName(lane.name)].waiting) for lane in shared)
            )
        except (redis_errors.RedisError, OSError) as error:
            self.failures += 1
            log.warning("admission knows nothing of %s: %s", ", ".join(server.lanes), error)
            for name in server.lanes:
                self._samples.pop(name, None)
        else:
            self.samples += 1
            for name, sample in found.items():
                self._measure(name, sample)
                self._samples[name] = sample
                self._since[name] -= since[name]  # what was let in meanwhile may not be in the sample
            server.bytes_since -= size
        finally:
            server.at = self._clock.monotonic()
            server.task = None

    async def _share_out(self, lane: Lane, waiting: int) -> None:
        """Tell the others what this replica let in, and learn what each source holds of what waits."""
        holdings = self._holdings[LaneName(lane.name)]
        unreported = holdings.unreported()
        held = await share_holdings(
            lane, unreported, waiting=waiting, remembered_s=REMEMBERED_S, max_sources=MAX_SOURCES
        )
        holdings.refresh(held, unreported)

    def _measure(self, lane: LaneName, sample: LaneSample) -> None:
        before = self._samples.get(lane)
        if before is not None and sample.now_s > before.now_s:
            known = self._capacities.get(lane, 0.0)
            self._capacities[lane] = capacity(known, before, sample)
        base, rate = self._drains.setdefault(lane, (sample, 0.0))
        if sample.now_s - base.now_s >= RATE_WINDOW_S:
            rate = max(sample.finished - base.finished, 0) / (sample.now_s - base.now_s)
            self._drains[lane] = (sample, rate)


def capacity(known: float, before: LaneSample, after: LaneSample) -> float:
    """How fast a lane drains when there is enough to do, in records a second, from two samples.

    What was drained is the least it can do; it can do less than was known only if there was enough to do all the time.
    """
    took_s = after.now_s - before.now_s
    rate = max(after.finished - before.finished, 0) / took_s
    smoothed = known + (rate - known) * min(took_s / PACE_S, 1.0)
    busy = min(before.waiting, after.waiting) >= LATE_RECORDS and took_s <= PACE_S
    return smoothed if busy else max(known, smoothed)


def refusal(lane: LaneName, decision: AdmissionDecision) -> OverloadedError:
    """A decision as the error a caller gets: names the lane, the reason and when to come back."""
    return OverloadedError(
        f"{lane} takes no more records now ({decision.reason}): {SAYS[decision.reason]}",
        retry_after_s=decision.retry_after_s,
        hint=f"send them again in {decision.retry_after_s:.0f} s; more urgent lanes may still be open",
    )
