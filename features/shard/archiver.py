"""Landing: the changed events that the shards log on Redis become files of the archive, and leave Redis.

    shard ──XADD──► features log of a partition ──read──► archive.append ──► forget what was written

The file comes first: stopped in between, the same entries are landed again, under the same name where no new ones
joined them. Either way a row that is in the archive twice counts once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from redis import asyncio as aioredis

from features.shard.event_log import activities_in, forget, read_log
from tocsin.background import repeat
from tocsin.clock import Clock
from tocsin.errors import TocsinError
from tocsin.keys import FeatureKeys
from tocsin.telemetry.reports import Fault
from tocsin.wire.activity import Activity

if TYPE_CHECKING:
    from features.offline.archive import Archive

log = logging.getLogger(__name__)

LAND_EVERY_S: Final = 30.0
READ_ENTRIES: Final = 16
FORGET_ENTRIES: Final = 1_000  # in one step
FILE_EVENTS: Final = 100_000  # from here a file is full
COMPACT_EVERY_S: Final = 3_600.0
COMPACT_FILES: Final = 24  # of a month; fewer are left alone


class Archiver:
    """Lands the logs of the partitions a shard holds.

    Args:
        client: The lane's server.
        keys: Of the feature store.
        archive: Opens the archive; called once, when there is something to land.
        held: The partitions that are ours now. Whoever holds the first compacts the archive as well.
        clock: Time.
    """

    def __init__(
        self,
        client: aioredis.Redis,
        keys: FeatureKeys,
        *,
        archive: Callable[[], Archive],
        held: Callable[[], Sequence[int]],
        clock: Clock,
    ) -> None:
        self.landed = 0  # events
        self.unreadable = 0  # entries
        self.failures = {Fault.LANDING: 0, Fault.COMPACTION: 0}
        self._client = client
        self._keys = keys
        self._open = archive
        self._archive: Archive | None = None
        self._held = held
        self._clock = clock
        self._compacted_at = clock.monotonic()

    def faults(self) -> Mapping[Fault, int]:
        """How often something was not done and tried again, and which entries could not be read."""
        return {**self.failures, Fault.UNREADABLE_LOG: self.unreadable}

    async def run(self) -> None:
        """Until cancelled; what could not be landed is tried again."""
        await repeat("the archiver", self._turn, every_s=LAND_EVERY_S)

    async def _turn(self) -> None:
        await self._try(Fault.LANDING, self.land)
        await self._try(Fault.COMPACTION, self._compact)

    async def _try(self, what: Fault, step: Callable[[], Awaitable[object]]) -> None:
        try:
            await step()
        except TocsinError as error:
            self.failures[what] += 1
            log.warning("%s of the event log failed: %s; trying again", what, error)
        except Exception:
            self.failures[what] += 1
            log.exception("%s of the event log failed; trying again", what)

    async def land(self) -> int:
        """Land all that is logged now. Returns how many events.

        Raises:
            StorageUnavailableError: the server does not answer.
            TocsinError: the archive cannot be written.
        """
        before = self.landed
        for partition in list(self._held()):
            while await self._land_file(partition):
                pass
        return self.landed - before

    async def _land_file(self, partition: int) -> bool:
        """Land one file. Returns whether there may be more to land."""
        sizes: dict[str, int] = {}  # events by entry
        events: list[Activity] = []
        after = "-"
        while len(events) < FILE_EVENTS:
            entries = await read_log(self._client, self._keys, partition, after=after, count=READ_ENTRIES)
            for entry, body in entries:
                found = activities_in(body)
                self.unreadable += found is None
                sizes[entry] = len(found or ())
                events += found or ()
            if len(entries) < READ_ENTRIES:
                break
            after = f"({entries[-1][0]}"
        if not sizes:
            return False
        # Off the loop: heartbeats go on while the file is made.
        await asyncio.to_thread(self._append, events, f"log-{partition}-{next(iter(sizes))}-{entry}")
        await self._forget(partition, list(sizes.items()))
        self.landed += len(events)
        return len(events) >= FILE_EVENTS

    async def _forget(self, partition: int, entries: Sequence[tuple[str, int]]) -> None:
        for start in range(0, len(entries), FORGET_ENTRIES):
            await forget(self._client, self._keys, partition, entries[start : start + FORGET_ENTRIES])

    def _append(self, events: Sequence[Activity], name: str) -> None:
        self._archive = self._archive or self._open()
        if events:
            from features.event_table import event_table  # noqa: PLC0415 - pyarrow: only when there is work for it

            self._archive.append(event_table(events), name)

    async def _compact(self) -> None:
        due = self._clock.monotonic() - self._compacted_at >= COMPACT_EVERY_S
        if due and self._archive is not None and 0 in self._held():
            self._compacted_at = self._clock.monotonic()
            await asyncio.to_thread(self._archive.compact, self._clock.now(), min_files=COMPACT_FILES)


def open_archive(uri: str) -> Archive:
    """The archive at a folder or URI; pyarrow is imported only now.

    Raises:
        ConfigurationError: the URI names no file system.
    """
    from features.offline.archive import Archive  # noqa: PLC0415 - as above

    return Archive(uri)
