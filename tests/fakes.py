"""Stand-ins for what the platform stands on: time, a lane and the leases, all moved by hand."""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from redis.asyncio.client import Pipeline

from routing.channels import ChannelResult, Deliverable, Failure, FailureReason, LocalChannel
from tocsin.clock import Clock
from tocsin.errors import ConflictError
from tocsin.keys import DEDUP_TTL_S, LaneKeys
from tocsin.streams.records import Entry, LaneDepth, Placement, Record, Writes, pack_block
from tocsin.wire.lanes import WIRE_VERSION
from tocsin.wire.notifications import Attempt, Notification

START = 1_732_430_000.0


async def wait_until(
    predicate: Callable[[], bool | Awaitable[bool]], timeout_s: float = 5.0, every_s: float = 0.002
) -> None:
    """Wait for a condition; fails when it does not come true in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = predicate()
        if answer if isinstance(answer, bool) else await answer:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {timeout_s:g} s")
        await asyncio.sleep(every_s)


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = START) -> None:
        self._now = now
        self._monotonic = 1000.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._now += seconds
        self._monotonic += seconds


class RecordingPipeline:
    """Takes the writes of a stage and keeps them: `(command, arguments, options)`."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, command: str) -> Callable[..., RecordingPipeline]:
        if command.startswith("_"):
            raise AttributeError(command)

        def record(*arguments: Any, **options: Any) -> RecordingPipeline:
            self.calls.append((command, arguments, options))
            return self

        return record

    def named(self, command: str) -> list[tuple[Any, ...]]:
        """The arguments of every call of one command."""
        return [arguments for name, arguments, _ in self.calls if name == command]

    def counted(self, key: str) -> dict[str, int]:
        """What `HINCRBY` added to each field of a key."""
        totals: dict[str, int] = defaultdict(int)
        for target, name, number in self.named("hincrby"):
            if target == key:
                totals[name] += number
        return dict(totals)


def staged(writes: Writes) -> RecordingPipeline:
    """What some writes put into the transaction."""
    pipe = RecordingPipeline()
    writes(cast("Pipeline", pipe))
    return pipe


@dataclass
class Pending:
    """An entry that was read: by whom and when (stopwatch, s)."""

    consumer: str
    since: float


@dataclass
class Remembered:
    """What an idempotency key stands for."""

    fingerprint: str
    placements: list[Placement]
    until: float


class MemoryLane:
    """The lane in memory: same contract as `tocsin.streams.lanes.Lane`, no server.

    `faults` holds, by method name, errors to raise before the next calls do anything.
    """

    def __init__(
        self, clock: Clock, *, name: str = "p0", partitions: int = 2, block_records: int = 500
    ) -> None:
        self.name = name
        self.partitions = partitions
        self.keys = LaneKeys("memory", name)
        self.accepted = 0
        self.settled: list[Entry] = []
        self.pipe = RecordingPipeline()  # the writes of every stage that was settled
        self.faults: dict[str, deque[Exception]] = defaultdict(deque)
        self.calls: list[str] = []
        self._clock = clock
        self._block_records = block_records
        self._streams: list[dict[str, bytes]] = [{} for _ in range(partitions)]
        self._pending: list[dict[str, Pending]] = [{} for _ in range(partitions)]
        self._read_to = [(0, -1)] * partitions
        self._last = [(0, -1)] * partitions
        self._retries: list[dict[bytes, float]] = [{} for _ in range(partitions)]
        self._dedup: dict[str, tuple[str, float]] = {}
        self._requests: dict[str, Remembered] = {}
        self._news = asyncio.Event()

    # ------------------------------------------------------------------ the contract

    async def append(
        self, records: Sequence[Record], *, idempotency_key: str = "", fingerprint: str = ""
    ) -> list[Placement]:
        self._call("append")
        now = self._clock.now()
        known = self._requests.get(idempotency_key)
        if idempotency_key and known is not None and now < known.until:
            if known.fingerprint != fingerprint:
                raise ConflictError("this Idempotency-Key was used for a different request")
            return [Placement(placement.id, duplicate=True) for placement in known.placements]
        placements: dict[int, Placement] = {}
        for members in self._units(records):
            first = records[members[0]]
            base, seen = self._place(first, [records[i].body for i in members], now)
            for offset, index in enumerate(members):
                placements[index] = Placement(f"{self.name}-{base}-{offset}", duplicate=seen)
        ordered = [placements[index] for index in range(len(records))]
        if idempotency_key:
            self._requests[idempotency_key] = Remembered(fingerprint, ordered, now + DEDUP_TTL_S)
        return ordered

    async def read(
        self, consumer: str, partitions: Sequence[int], *, count: int, block_ms: int
    ) -> list[Entry]:
        self._call("read")
        found = self._take(consumer, partitions, count)
        if not found:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), block_ms / 1000)
            found = self._take(consumer, partitions, count)
        return found

    async def claim(self, consumer: str, partition: int, *, min_idle_ms: int) -> list[Entry]:
        self._call("claim")
        now = self._clock.monotonic()
        claimed = []
        for entry, pending in sorted(self._pending[partition].items(), key=lambda item: _order(item[0])):
            if (now - pending.since) * 1000 >= min_idle_ms:
                self._pending[partition][entry] = Pending(consumer, now)
                claimed.append(self._entry(partition, entry))
        return claimed

    async def settle(self, entries: Sequence[Entry], writes: Writes, *, again: bool = False) -> None:
        self._call("settle")
        if again and entries[0].entry not in self._streams[entries[0].partition]:
            return
        pipe = staged(writes)  # when it raises, nothing was written
        self.pipe.calls += pipe.calls
        for key, envelopes in pipe.named("zadd"):
            for partition in range(self.partitions):
                if key == self.keys.retries(partition):
                    self._retries[partition].update(envelopes)
        for entry in entries:
            self._pending[entry.partition].pop(entry.entry, None)
            self._streams[entry.partition].pop(entry.entry, None)
            self.settled.append(entry)

    async def unsettled(self, entries: Sequence[Entry]) -> list[Entry]:
        self._call("unsettled")
        return [entry for entry in entries if entry.entry in self._streams[entry.partition]]

    async def promote(self, partition: int, now: float, *, limit: int) -> int:
        self._call("promote")
        retries = self._retries[partition]
        due = sorted((at, body) for body, at in retries.items() if at <= now)[:limit]
        for _, body in due:
            del retries[body]
            self._add(partition, b"\x91" + body)
        return len(due)

    # ------------------------------------------------------------------ what tests look at

    async def depth(self) -> LaneDepth:
        return LaneDepth(
            blocks=sum(map(len, self._streams)),
            pending=sum(map(len, self._pending)),
            retrying=sum(map(len, self._retries)),
        )

    def waiting(self) -> list[Entry]:
        """Every block that is not settled."""
        return [self._entry(p, entry) for p in range(self.partitions) for entry in self._streams[p]]

    def owners(self) -> dict[str, str]:
        """Pending entries and who has them."""
        return {entry: held.consumer for pending in self._pending for entry, held in pending.items()}

    def put(self, partition: int, block: bytes) -> str:
        """A block that did not come through `append`: anything at all."""
        return self._add(partition, block)

    # ------------------------------------------------------------------ inside

    def _call(self, method: str) -> None:
        self.calls.append(method)
        if self.faults[method]:
            raise self.faults[method].popleft()

    def _units(self, records: Sequence[Record]) -> list[list[int]]:
        alone = [[index] for index, record in enumerate(records) if record.dedup_key]
        shared: dict[int, list[int]] = defaultdict(list)
        for index, record in enumerate(records):
            if not record.dedup_key:
                shared[record.partition].append(index)
        size = self._block_records
        blocks = [m[start : start + size] for m in shared.values() for start in range(0, len(m), size)]
        return sorted(alone + blocks)

    def _place(self, record: Record, bodies: Sequence[bytes], now: float) -> tuple[str, bool]:
        first, until = self._dedup.get(record.dedup_key, ("", 0.0))
        if record.dedup_key and now < until:
            return first, True
        base = f"{record.partition}-{self._add(record.partition, pack_block(bodies))}"
        if record.dedup_key:
            self._dedup[record.dedup_key] = (base, now + DEDUP_TTL_S)
        self.accepted += len(bodies)
        return base, False

    def _add(self, partition: int, block: bytes) -> str:
        ms, seq = self._last[partition]
        now_ms = int(self._clock.now() * 1000)
        self._last[partition] = (now_ms, 0) if now_ms > ms else (ms, seq + 1)
        entry = "{}-{}".format(*self._last[partition])
        self._streams[partition][entry] = block
        self._news.set()
        return entry

    def _take(self, consumer: str, partitions: Sequence[int], count: int) -> list[Entry]:
        taken = []
        for partition in partitions:
            new = [entry for entry in self._streams[partition] if _order(entry) > self._read_to[partition]]
            for entry in new[:count]:
                self._read_to[partition] = _order(entry)
                self._pending[partition][entry] = Pending(consumer, self._clock.monotonic())
                taken.append(self._entry(partition, entry))
        return taken

    def _entry(self, partition: int, entry: str) -> Entry:
        return Entry(self.name, partition, entry, WIRE_VERSION, self._streams[partition][entry])


def _order(entry: str) -> tuple[int, int]:
    ms, _, seq = entry.partition("-")
    return int(ms), int(seq)


class FixedOwnership:
    """Partitions that are ours until a test says otherwise.

    `surplus` is what the next heartbeat asks to give up; `faults` are errors the next heartbeats raise; `lapsed`
    are partitions that the next looks find not held.
    """

    def __init__(self, partitions: Sequence[int], name: str = "router-0") -> None:
        self.name = name
        self.owned = set(partitions)
        self.surplus: set[int] = set()
        self.released: list[int] = []
        self.left = False
        self.beats = 0
        self.faults: deque[Exception] = deque()
        self.lapsed: deque[set[int]] = deque()
        self.taken: set[int] = set()  # by another member

    def held(self) -> list[int]:
        return sorted(self.owned - (self.lapsed.popleft() if self.lapsed else set()))

    async def beat(self) -> list[int]:
        self.beats += 1
        if self.faults:
            raise self.faults.popleft()
        return sorted(self.surplus & self.owned)

    async def acquire(self, partitions: Sequence[int]) -> list[int]:
        return [partition for partition in partitions if partition not in self.taken]

    async def release(self, partitions: Sequence[int], *, leave: bool = False) -> None:
        self.owned -= set(partitions)
        self.released += partitions
        self.left = self.left or leave


@dataclass(frozen=True)
class Item:
    """What a channel is handed, without a pipeline around it."""

    id: str
    notification: Notification
    targets: Mapping[str, str] = field(default_factory=dict)

    def target(self, channel: str) -> str | Failure:
        return self.targets.get(channel) or Failure(FailureReason.NO_TARGET, "none")


class OneByOne(LocalChannel, ABC):
    """A channel that answers each of a batch on its own; subclasses say how by `answer`."""

    name: str
    clock: Clock

    @abstractmethod
    def answer(self, notification_id: str, notification: Notification) -> Failure | None: ...

    async def deliver(self, batch: Sequence[Deliverable]) -> Sequence[ChannelResult]:
        return [ChannelResult((self._attempt(item),)) for item in batch]

    def _attempt(self, item: Deliverable) -> Attempt:
        at = self.clock.now()
        failure = self.answer(item.id, item.notification)
        took_ms = round((self.clock.now() - at) * 1000, 3)
        if failure is not None:
            return failure.attempt(self.name, at, took_ms)
        return Attempt(at, self.name, ok=True, duration_ms=took_ms)

    async def close(self) -> None:
        return None
