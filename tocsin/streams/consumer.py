"""The consumer loop: one for every lane and every kind of work.

    joining ──leases──► consuming ──storage fails──► healing ──answers──► consuming
                            │ stop()
                            ▼
                        draining ──in flight done──► stopped

Work is acknowledged after it is done, in the same transaction as its results, so a consumer that dies leaves
its blocks pending; the next owner of its partitions claims them first. The process outlives every storage failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

import msgspec

from tocsin.background import repeat
from tocsin.clock import Clock
from tocsin.errors import StateMovedError, TocsinError
from tocsin.streams.ports import Handler, Ownership, Queue
from tocsin.streams.records import Entry, Writes
from tocsin.streams.work_unit import WorkUnit, in_units
from tocsin.telemetry.reports import Fault

log = logging.getLogger(__name__)


class ConsumerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a lane is consumed."""

    unit_entries: int  # blocks handled together: 1 for p0, more for the others
    read_entries: int  # blocks taken from a partition in one read
    concurrency: int  # units in flight at once
    unit_bytes: int = 2**63 - 1  # a unit ends before the block that takes it beyond this; it has one at least
    block_ms: int = 1000  # how long an idle read waits
    read_every_s: float = 0.0  # reads are at least so far apart: blocks gather while little waits
    heartbeat_s: float = 1.0
    stall_s: float = 60.0  # without any progress for so long it does not call itself alive any more
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
        self._moved_at = clock.monotonic()  # the loop went round, or a unit ended
        self.stalled = False  # the loop makes no progress, and is not reported alive
        self._claimed: set[int] = set()  # and not lost since
        self._surplus: set[int] = set()  # owned, but due to another member: drained, then given up
        self._in_flight: dict[asyncio.Task[None], WorkUnit] = {}
        self._slots = asyncio.Semaphore(policy.concurrency)

    async def run(self) -> None:
        """Consume until `stop`; returns when everything in flight is settled."""
        background = [
            asyncio.create_task(self._in_background(self._beat, self._policy.heartbeat_s)),
            asyncio.create_task(self._in_background(self._promote, self._policy.promote_every_s)),
        ]
        attempt = 0
        while not self._stopping.is_set():
            self._moved_at = self._clock.monotonic()
            try:
                await self._turn()
                attempt = 0
            except TocsinError as error:
                self.state = ConsumerState.HEALING
                self.failures += 1
                # The server may have carried out a read whose answer was lost: what it returned is pending, so claim
                # again. Otherwise it would wait for the partition's next owner.
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
        for part in in_units(entries, self._policy.unit_entries, self._policy.unit_bytes):
            await self._slots.acquire()
            self._note_lost()
            ours = tuple(entry for entry in part if entry.partition in self._claimed)
            if not ours:  # lost while this waited for a slot: claimed again should the partition come back
                self._slots.release()
                continue
            unit = WorkUnit(ours, self._note_lost, self._wait_with)
            task = asyncio.create_task(self._work(unit))
            self._in_flight[task] = unit
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._in_flight.pop(task, None)
        self._moved_at = self._clock.monotonic()
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
                if not unit.entries or await self._settled(unit, stage):
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

    async def _settled(self, unit: WorkUnit, writes: Writes) -> bool:
        """Settle until it is confirmed, or we stop. False: the work has to be done again.

        So it is where the state moved, and where some of the blocks went to another member, which settles those.
        """
        attempt = 0
        while True:
            try:
                lapsed = await self._reacquire(unit)
                if lapsed is None:
                    return False
                await self._queue.settle(unit.entries, writes, again=attempt > 0 or lapsed)
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
                        "%s: settling %d blocks failed; trying again",
                        self._ownership.name,
                        len(unit.entries),
                    )
                backoff = self._policy.heal_backoff_s
                await self._pause(backoff[min(attempt, len(backoff) - 1)])
                attempt += 1
            else:
                self.handled_blocks += len(unit.entries)
                return True

    async def _reacquire(self, unit: WorkUnit) -> bool | None:
        """Whether a lease lapsed since the blocks were read, and was taken again. None: another member has some.

        A process that was stopped and woken up finds here that its blocks were settled, or will be, by somebody else.
        """
        held = set(self._ownership.held())
        lapsed = {entry.partition for entry in unit.entries} - held
        if not lapsed:
            return False
        self._note_lost()  # before they are ours again: what else they hold has to be claimed anew
        lost = lapsed - set(await self._ownership.acquire(sorted(lapsed)))
        if not lost:
            return True
        log.warning(
            "%s: blocks of %d lost partitions are left to their owners", self._ownership.name, len(lost)
        )
        unit.begun = False
        unit.leave(lost)
        return None

    async def _wait_with(self, unit: WorkUnit, tries: int) -> None:
        """The pause of a unit that could not begin. At the stop it is given up, and what waits behind it as well."""
        self.failures += 1
        self._moved_at = self._clock.monotonic()
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
        """Leave blocks of these partitions to their next owner: of each all that wait, or their order is lost.

        Should a partition come back at once, it is claimed again.
        """
        self._claimed -= partitions
        for unit in self._in_flight.values():
            unit.leave(partitions)

    async def _beat(self) -> None:
        """Report alive while the loop makes progress: one that hangs must be seen, and must lose its partitions."""
        self._note_lost()
        still_s = self._clock.monotonic() - self._moved_at
        if still_s > self._policy.stall_s and not self._stopping.is_set():
            if not self.stalled:
                log.error(
                    "%s: no progress for %.0f s; no longer reported alive", self._ownership.name, still_s
                )
            self.stalled = True
            return
        self.stalled = False
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

    async def _in_background(self, step: Callable[[], Awaitable[None]], every_s: float) -> None:
        await repeat(
            f"{self._ownership.name}: a background step",
            step,
            every_s=every_s,
            until=self._drained,
            failed=self._count,
            level=logging.DEBUG,
        )

    def _count(self, _error: Exception) -> None:
        self.failures += 1

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
