"""The consumer loop: one for every lane and every kind of work.

    joining ──leases──► consuming ──storage fails──► healing ──answers──► consuming
                            │ stop()
                            ▼
                        draining ──in flight done──► stopped

Work is acknowledged after it is done, in the same transaction as its results, so a consumer that dies leaves
its blocks pending; whoever gets its partitions claims them first. The process outlives every storage failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from tocsin.clock import Clock
from tocsin.errors import StateMovedError, TocsinError
from tocsin.lanes import Entry, Queue, Stage

log = logging.getLogger(__name__)


class Ownership(Protocol):
    """Which partitions are ours: `tocsin.leases.Leases`, or a fixed set in tests."""

    name: str

    def held(self) -> list[int]:
        """The partitions that are ours now."""
        ...

    async def beat(self) -> list[int]:
        """Renew, take what is due; returns what is to be drained and given up."""
        ...

    async def release(self, partitions: Sequence[int], *, leave: bool = False) -> None:
        """Give partitions up; with `leave`, leave the pool."""
        ...


class Handler(Protocol):
    """The work: look at blocks, act, and return what to write together with their acknowledgement.

    It must not raise for a bad record (dead-letter it instead); when it does raise, the blocks stay pending
    and are tried again after `ConsumerPolicy.requeue_s`.
    """

    async def handle(self, entries: Sequence[Entry]) -> Stage:
        """Do the work of these blocks; returns the writes to make with their acknowledgement."""
        ...


class ConsumerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a lane is consumed."""

    unit_entries: int  # blocks handled together: 1 for p0, more for the others
    read_entries: int  # blocks taken from a partition in one read
    concurrency: int  # units in flight at once
    unit_bytes: int = 2**63 - 1  # a unit ends before the block that takes it beyond this; it has one at least
    block_ms: int = 1000  # how long an idle read waits
    read_every_s: float = 0.0  # reads are at least so far apart: blocks gather while little waits
    heartbeat_s: float = 1.5
    promote_every_s: float = 0.25
    promote_limit: int = 200
    requeue_s: float = 2.0  # pause before a block that raised is tried again
    heal_backoff_s: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0)


class ConsumerState(StrEnum):
    """Where the loop is."""

    JOINING = "joining"
    CONSUMING = "consuming"
    HEALING = "healing"
    DRAINING = "draining"
    STOPPED = "stopped"


class Consumer:
    """Runs one handler over the partitions this member owns.

    Args:
        queue: The lane.
        ownership: The leases.
        handler: The work.
        policy: Batch sizes and waits.
        clock: Time, for what is due.
    """

    def __init__(
        self, queue: Queue, ownership: Ownership, handler: Handler, *, policy: ConsumerPolicy, clock: Clock
    ) -> None:
        self.state = ConsumerState.JOINING
        self.failures = 0  # storage failures survived
        self.handled_blocks = 0
        self._queue = queue
        self._ownership = ownership
        self._handler = handler
        self._policy = policy
        self._clock = clock
        self._stopping = asyncio.Event()
        self._drained = asyncio.Event()  # heartbeats go on until then
        self._read_at = float("-inf")  # on the stopwatch
        self._claimed: set[int] = set()
        self._surplus: set[int] = set()  # owned, but due to another member: drained, then given up
        self._in_flight: dict[asyncio.Task[None], tuple[Entry, ...]] = {}
        self._slots = asyncio.Semaphore(policy.concurrency)

    async def run(self) -> None:
        """Consume until `stop`; returns when everything in flight is settled."""
        background = [
            asyncio.create_task(self._forever(self._beat, self._policy.heartbeat_s)),
            asyncio.create_task(self._forever(self._promote, self._policy.promote_every_s)),
        ]
        attempt = 0
        while not self._stopping.is_set():
            try:
                await self._turn()
                attempt = 0
            except TocsinError as error:
                self.state = ConsumerState.HEALING
                self.failures += 1
                # The server may have carried out a read whose answer was lost: what it handed us is pending, so claim
                # afresh. Otherwise it would wait for the partition's next owner.
                self._claimed.clear()
                log.warning("%s: %s; trying again", self._ownership.name, error)
                await self._pause(
                    self._policy.heal_backoff_s[min(attempt, len(self._policy.heal_backoff_s) - 1)]
                )
                attempt += 1
        self.state = ConsumerState.DRAINING
        if self._in_flight:
            await asyncio.wait(self._in_flight)
        self._drained.set()
        for task in background:
            task.cancel()
        # A step may swallow the cancellation; it then sees that all is drained, and each of its waits is bounded.
        await asyncio.gather(*background, return_exceptions=True)
        with contextlib.suppress(TocsinError):
            await self._ownership.release(self._ownership.held(), leave=True)
        self.state = ConsumerState.STOPPED

    def stop(self) -> None:
        """Ask the loop to take no more, finish what is in flight, give its partitions up and return."""
        self._stopping.set()

    @property
    def in_flight(self) -> int:
        """Units being worked on."""
        return len(self._in_flight)

    async def _turn(self) -> None:
        await self._give_up_surplus()
        held = [partition for partition in self._ownership.held() if partition not in self._surplus]
        self._claimed &= set(held)
        if not held:
            await self._pause(min(0.1, self._policy.heartbeat_s))
            return
        for partition in held:
            if partition not in self._claimed:
                await self._claim(partition)
        await self._slots.acquire()
        self._slots.release()
        early_s = self._read_at + self._policy.read_every_s - self._clock.monotonic()
        if early_s > 0:
            await self._pause(early_s)
        self._read_at = self._clock.monotonic()
        entries = await self._queue.read(
            self._ownership.name,
            held,
            count=self._policy.read_entries,
            block_ms=self._policy.block_ms,
        )
        self.state = ConsumerState.CONSUMING
        await self._dispatch(entries)

    async def _claim(self, partition: int) -> None:
        """What the last owner (or we, before a restart) left unsettled comes first."""
        busy = {(e.partition, e.entry) for work in self._in_flight.values() for e in work}
        self._claimed.add(partition)
        try:
            entries = await self._queue.claim(self._ownership.name, partition, min_idle_ms=0)
        except TocsinError:
            self._claimed.discard(partition)
            raise
        await self._dispatch([e for e in entries if (e.partition, e.entry) not in busy])

    async def _dispatch(self, entries: Sequence[Entry]) -> None:
        for unit in _units(entries, self._policy.unit_entries, self._policy.unit_bytes):
            await self._slots.acquire()
            task = asyncio.create_task(self._work(unit))
            self._in_flight[task] = unit
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._in_flight.pop(task, None)
        self._slots.release()
        if not task.cancelled() and task.exception() is not None:
            log.error(
                "%s: a unit of work ended with an error", self._ownership.name, exc_info=task.exception()
            )

    async def _work(self, unit: tuple[Entry, ...]) -> None:
        """Handle, then settle until the server confirms. What is no longer ours is left to its new owner."""
        while unit := self._still_ours(unit):
            try:
                stage = await self._handler.handle(unit)
                if await self._settled(unit, stage):
                    return
                unit = tuple(await self._queue.unsettled(unit))
            except Exception:
                log.exception("%s: handling %d blocks failed; trying again", self._ownership.name, len(unit))
                await self._pause(self._policy.requeue_s)
                if self._stopping.is_set():
                    return  # still pending: the next owner claims them

    async def _settled(self, unit: tuple[Entry, ...], stage: Stage) -> bool:
        """Settle until it is confirmed, or we stop. False: the state moved, so the work has to be done anew."""
        attempt = 0
        while True:
            try:
                await self._queue.settle(unit, stage, again=attempt > 0)
            except StateMovedError as error:
                log.warning("%s: %s; working it out again", self._ownership.name, error)
                return False
            except Exception as error:
                self.failures += 1
                if self._stopping.is_set():
                    return True  # still pending: the next owner claims them
                if isinstance(error, TocsinError):
                    log.warning("%s: settling failed: %s; trying again", self._ownership.name, error)
                else:
                    log.exception(
                        "%s: settling %d blocks failed; trying again", self._ownership.name, len(unit)
                    )
                backoff = self._policy.heal_backoff_s
                await self._pause(backoff[min(attempt, len(backoff) - 1)])
                attempt += 1
            else:
                self.handled_blocks += len(unit)
                return True

    def _still_ours(self, unit: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """What is left of a unit. A partition that lost some is claimed afresh should it come back at once."""
        held = set(self._ownership.held())
        self._claimed.difference_update(entry.partition for entry in unit if entry.partition not in held)
        kept = tuple(entry for entry in unit if entry.partition in held)
        if (task := asyncio.current_task()) in self._in_flight:
            self._in_flight[task] = kept
        return kept

    async def _beat(self) -> None:
        self._surplus = set(await self._ownership.beat())

    async def _give_up_surplus(self) -> None:
        """Between reads, so that nothing read from a partition can arrive after it was given up."""
        busy = {entry.partition for unit in self._in_flight.values() for entry in unit}
        idle = [partition for partition in self._surplus if partition not in busy]
        if idle:
            await self._ownership.release(idle)
            self._surplus.difference_update(idle)

    async def _promote(self) -> None:
        for partition in self._ownership.held():
            await self._queue.promote(partition, self._clock.now(), limit=self._policy.promote_limit)

    async def _forever(self, step: Callable[[], Awaitable[None]], every_s: float) -> None:
        while not self._drained.is_set():
            try:
                await step()
            except TocsinError as error:
                self.failures += 1
                log.debug("%s: %s", self._ownership.name, error)
            except Exception:  # the heartbeat must outlive a fault of ours
                self.failures += 1
                log.exception("%s: a background step failed", self._ownership.name)
            await asyncio.sleep(every_s)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


def _units(entries: Sequence[Entry], most: int, most_bytes: int) -> Iterator[tuple[Entry, ...]]:
    unit: list[Entry] = []
    size = 0
    for entry in entries:
        if unit and (len(unit) == most or size + len(entry.block) > most_bytes):
            yield tuple(unit)
            unit, size = [], 0
        unit.append(entry)
        size += len(entry.block)
    if unit:
        yield tuple(unit)
