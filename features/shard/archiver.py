"""The archiver: moves the event log of the shards from Redis into files of the archive.

    shard ──XADD──► log of a partition ──read──► archive.append ──► delete what was written

The file comes first: stopped in between, the same entries are archived again, under the same name where no new ones
were logged. Either way a row that is in the archive twice counts once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from redis import asyncio as aioredis

from features.shard.event_log import activities_in, delete_archived, read_log
from tocsin.background import repeat
from tocsin.clock import Clock
from tocsin.errors import TocsinError
from tocsin.keys import FeatureKeys
from tocsin.telemetry.reports import Fault
from tocsin.wire.activity import Activity

if TYPE_CHECKING:
    from features.offline.archive import Archive

log = logging.getLogger(__name__)

ARCHIVE_EVERY_S: Final = 30.0
MAX_READ_ENTRIES: Final = 16
MAX_DELETED_ENTRIES: Final = 1_000  # in one script call
MAX_FILE_EVENTS: Final = 100_000  # a file with this many is full
COMPACT_EVERY_S: Final = 3_600.0
MIN_COMPACTED_FILES: Final = 24  # of a month; fewer are not compacted


class Archiver:
    """Archives the logs of the partitions a shard holds.

    Args:
        client: The lane's server.
        keys: Of the feature store.
        archive: Opens the archive; called once, when there is something to write.
        held: The partitions the shard holds now. The shard that holds partition 0 compacts the archive as well.
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
        self.archived = 0  # events
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
        """How many steps failed and were repeated, and how many entries could not be read."""
        return {**self.failures, Fault.UNREADABLE_LOG: self.unreadable}

    async def run(self) -> None:
        """Archive and compact in turn until cancelled; a step that fails is counted and repeated."""
        await repeat("the archiver", self._step, every_s=ARCHIVE_EVERY_S)

    async def _step(self) -> None:
        await self._try(Fault.LANDING, self.archive)
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

    async def archive(self) -> int:
        """Archive all that is logged now. Returns how many events.

        Raises:
            StorageUnavailableError: the server does not answer.
            TocsinError: the archive cannot be written.
        """
        before = self.archived
        for partition in list(self._held()):
            while await self._archive_file(partition):
                pass
        return self.archived - before

    async def _archive_file(self, partition: int) -> bool:
        """Archive one file. Returns whether the log may hold more."""
        sizes: dict[str, int] = {}  # events by entry
        events: list[Activity] = []
        after = "-"
        while len(events) < MAX_FILE_EVENTS:
            entries = await read_log(self._client, self._keys, partition, after=after, count=MAX_READ_ENTRIES)
            for entry, body in entries:
                found = activities_in(body)
                self.unreadable += found is None
                sizes[entry] = len(found or ())
                events += found or ()
            if len(entries) < MAX_READ_ENTRIES:
                break
            after = f"({entries[-1][0]}"
        if not sizes:
            return False
        # In a thread: heartbeats continue while the file is written.
        await asyncio.to_thread(self._append, events, f"log-{partition}-{next(iter(sizes))}-{entry}")
        await self._delete(partition, list(sizes.items()))
        self.archived += len(events)
        return len(events) >= MAX_FILE_EVENTS

    async def _delete(self, partition: int, entries: Sequence[tuple[str, int]]) -> None:
        for start in range(0, len(entries), MAX_DELETED_ENTRIES):
            await delete_archived(
                self._client, self._keys, partition, entries[start : start + MAX_DELETED_ENTRIES]
            )

    def _append(self, events: Sequence[Activity], name: str) -> None:
        self._archive = self._archive or self._open()
        if events:
            from features.event_table import event_table  # noqa: PLC0415 - pyarrow: only when there is work for it

            self._archive.append(event_table(events), name)

    async def _compact(self) -> None:
        due = self._clock.monotonic() - self._compacted_at >= COMPACT_EVERY_S
        if due and self._archive is not None and 0 in self._held():
            self._compacted_at = self._clock.monotonic()
            await asyncio.to_thread(self._archive.compact, self._clock.now(), min_files=MIN_COMPACTED_FILES)


def open_archive(uri: str) -> Archive:
    """The archive at a folder or URI; pyarrow is imported only now.

    Raises:
        ConfigurationError: the URI names no file system.
    """
    from features.offline.archive import Archive  # noqa: PLC0415 - as above

    return Archive(uri)
