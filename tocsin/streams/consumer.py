"""The consumer loop: one for every lane and every kind of work.

    joining ──leases──► consuming ──storage fails──► healing ──answers──► consuming
                            │ stop()
                            ▼
                        draining ──in flight done──► stopped

Work is acknowledged after it is done, in the same transaction as its results, so a consumer that dies leaves
its blocks pending; whoever gets its partitions claims them first. The process outlives every storage failure.

    a unit:  waiting ──begin──► begun ──settled──► gone
                │ its partition is lost, or it is given up at the stop
                └──► left to the partition's next owner, with all that waits behind it in that partition
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Container, Iterator, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from tocsin.clock import Clock
from tocsin.errors import StateMovedError, TocsinError
from tocsin.streams.lanes import Entry, Placement, Record, Writes
from tocsin.telemetry.reports import Fault

log = logging.getLogger(__name__)


class Queue(Protocol):
    """What a consumer needs of a lane; the contract that every implementation keeps."""

    name: str
    partitions: int

    async def append(
        self, records: Sequence[Record], *, idempotency_key: str = "", fingerprint: str = ""
    ) -> list[Placement]:
        """Store records durably, all or none."""
        ...

    async def read(
        self, consumer: str, partitions: Sequence[int], *, count: int, block_ms: int
    ) -> list[Entry]:
        """Take new blocks."""
        ...

    async def claim(self, consumer: str, partition: int, *, min_idle_ms: int) -> list[Entry]:
        """Take over blocks another consumer left."""
        ...

    async def settle(self, entries: Sequence[Entry], stage: Writes, *, again: bool = False) -> None:
        """Acknowledge and trim, with what `stage` writes; with `again`, unless that was done already."""
        ...

    async def unsettled(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those that nobody settled yet."""
        ...

    async def promote(self, partition: int, now: float, *, limit: int) -> int:
        """Bring retries that are due back."""
        ...


class Ownership(Protocol):
    """Which partitions are ours: `tocsin.streams.leases.Leases`, or a fixed set in tests."""

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


class Hold(Protocol):
    """What a handler may ask about its blocks while it works on them."""

    def begin(self) -> Sequence[Entry]:
        """The blocks that are still ours; from here on they are brought to an end, whoever owns their partitions."""
        ...

    async def again(self) -> Sequence[Entry]:
        """Wait a little before another try; then the blocks that are still ours. None: give up."""
        ...


class Handler(Protocol):
    """The work: look at blocks, act, and return what to write together with their acknowledgement.

    Before it does what cannot be taken back it calls `Hold.begin`, and works on what that returns and no more. It
    must not raise for a bad record (dead-letter it instead); when it does raise, the blocks stay pending and are
    tried again after `ConsumerPolicy.requeue_s`, while later ones go ahead. Where these must wait, it tries again
    by itself, with `Hold.again`.
    """

    async def handle(self, entries: Sequence[Entry], hold: Hold) -> Writes:
        """Do the work of these blocks; returns the writes to make with their acknowledgement."""
        ...


class Kept:
    """The hold on blocks that nobody else can claim: all are ours, and there is no other try.

    Args:
        entries: The blocks.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries

    def begin(self) -> Sequence[Entry]:
        """All of them."""
        return self._entries

    async def again(self) -> Sequence[Entry]:
        """None."""
        return ()


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


class WorkUnit:
    """Blocks that are handled together; the consumer's `Hold`.

    Args:
        entries: The blocks.
        check: Takes what was lost out of every unit that has not begun.
        pause: Waits after a number of tries, then does the same.
    """

    def __init__(
        self,
        entries: tuple[Entry, ...],
        check: Callable[[], None],
        pause: Callable[[WorkUnit, int], Awaitable[None]],
    ) -> None:
        self.entries = entries  # those that were not lost
        self.begun = False
        self._check = check
        self._pause = pause
        self._tries = 0

    def begin(self) -> Sequence[Entry]:
        """The blocks that are still ours."""
        if not self.begun:
            self._check()
            self.begun = True
        return self.entries

    async def again(self) -> Sequence[Entry]:
        """Wait, then the blocks that are still ours."""
        self._tries += 1
        await self._pause(self, self._tries)
        return self.entries

    def leave(self, partitions: Container[int]) -> None:
        """Take out what is of these partitions, unless work on it has begun."""
        if not self.begun:
            self.entries = tuple(entry for entry in self.entries if entry.partition not in partitions)


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
        self.handler_failures = 0  # times that handling raised
        self.handled_blocks = 0
        self._queue = queue
        self._ownership = ownership
        self._handler = handler
        self._policy = policy
        self._clock = clock
        self._stopping = asyncio.Event()
        self._drained = asyncio.Event()  # heartbeats go on until then
        self._read_at = float("-inf")  # on the stopwatch
        self._claimed: set[int] = set()  # and not lost since
        self._surplus: set[int] = set()  # owned, but due to another member: drained, then given up
        self._in_flight: dict[asyncio.Task[None], WorkUnit] = {}
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

    def faults(self) -> dict[Fault, int]:
        """What was survived since the start."""
        return {Fault.STORAGE: self.failures, Fault.HANDLER: self.handler_failures}

    @property
    def in_flight(self) -> int:
        """Units being worked on."""
        return len(self._in_flight)

    async def _turn(self) -> None:
        await self._give_up_surplus()
        self._note_lost()
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
        self._note_lost()
        ours = [partition for partition in held if partition in self._claimed]
        if not ours:
            return
        entries = await self._queue.read(
            self._ownership.name,
            ours,
            count=self._policy.read_entries,
            block_ms=self._policy.block_ms,
        )
        self.state = ConsumerState.CONSUMING
        await self._dispatch(entries)

    async def _claim(self, partition: int) -> None:
        """What the last owner (or we, before a restart) left unsettled comes first."""
        busy = {(e.partition, e.entry) for unit in self._in_flight.values() for e in unit.entries}
        self._claimed.add(partition)
        try:
            entries = await self._queue.claim(self._ownership.name, partition, min_idle_ms=0)
        except TocsinError:
            self._claimed.discard(partition)
            raise
        await self._dispatch([e for e in entries if (e.partition, e.entry) not in busy])

    async def _dispatch(self, entries: Sequence[Entry]) -> None:
        for part in _units(entries, self._policy.unit_entries, self._policy.unit_bytes):
            await self._slots.acquire()
            self._note_lost()
            ours = tuple(entry for entry in part if entry.partition in self._claimed)
            if not ours:  # lost while this waited for a slot: claimed afresh should the partition come back
                self._slots.release()
                continue
            unit = WorkUnit(ours, self._note_lost, self._wait_with)
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

    async def _work(self, unit: WorkUnit) -> None:
        """Handle, then settle until the server confirms. What is no longer ours is left to its new owner."""
        while True:
            self._note_lost()
            if not unit.entries:
                return
            try:
                stage = await self._handler.handle(unit.entries, unit)
                if not unit.entries or await self._settled(unit.entries, stage):
                    return
                unit.begun = False
                unit.entries = tuple(await self._queue.unsettled(unit.entries))
            except Exception:
                self.handler_failures += 1
                unit.begun = False
                if not unit.entries:
                    return
                log.exception(
                    "%s: handling %d blocks failed; trying again", self._ownership.name, len(unit.entries)
                )
                await self._pause(self._policy.requeue_s)
                if self._stopping.is_set():
                    return  # still pending: the next owner claims them

    async def _settled(self, unit: Sequence[Entry], stage: Writes) -> bool:
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

    async def _wait_with(self, unit: WorkUnit, tries: int) -> None:
        """The pause of a unit that could not begin. At the stop it is given up, and what waits behind it as well."""
        self.failures += 1
        backoff = self._policy.heal_backoff_s
        await self._pause(backoff[min(tries, len(backoff)) - 1])
        self._note_lost()
        if self._stopping.is_set():
            self._leave({entry.partition for entry in unit.entries})

    def _note_lost(self) -> None:
        """Leave what is not ours any more. Before every heartbeat too: that may bring a lost partition back."""
        held = set(self._ownership.held())
        known = {entry.partition for unit in self._in_flight.values() for entry in unit.entries}
        self._leave((known | self._claimed) - held)

    def _leave(self, partitions: set[int]) -> None:
        """Leave blocks of these partitions to whoever owns them next: of each all that wait, or their order is lost.

        Should a partition come back at once, it is claimed afresh.
        """
        self._claimed -= partitions
        for unit in self._in_flight.values():
            unit.leave(partitions)

    async def _beat(self) -> None:
        self._note_lost()
        self._surplus = set(await self._ownership.beat())

    async def _give_up_surplus(self) -> None:
        """Between reads, so that nothing read from a partition can arrive after it was given up."""
        busy = {entry.partition for unit in self._in_flight.values() for entry in unit.entries}
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
