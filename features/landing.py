"""Landing: the changed events that the shards log on Redis become files of the archive, and leave Redis.

    shard ──XADD──► features log of a partition ──read──► archive.append ──► XDEL what was written

The file comes first: stopped in between, the same entries are landed again, under the same name where no new ones
joined them. Either way a row that is in the archive twice counts once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from redis import asyncio as aioredis
from redis import exceptions as redis_errors

from tocsin.clock import Clock
from tocsin.errors import TocsinError
from tocsin.keys import FeatureKeys
from tocsin.schemas import WIRE_VERSION, Activity
from tocsin.storage.connect import translate

if TYPE_CHECKING:
    from features.archive import Archive

log = logging.getLogger(__name__)

LAND_EVERY_S: Final = 30.0
READ_ENTRIES: Final = 16
FILE_EVENTS: Final = 100_000  # from here a file is full
COMPACT_EVERY_S: Final = 3_600.0
COMPACT_FILES: Final = 24  # of a month; fewer are left alone
_block: Final = msgspec.msgpack.Decoder(list[Activity])


class Lander:
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
        self.failures = 0
        self._client = client
        self._keys = keys
        self._open = archive
        self._archive: Archive | None = None
        self._held = held
        self._clock = clock
        self._compacted_at = clock.monotonic()

    async def run(self) -> None:
        """Until cancelled; what could not be landed is tried again."""
        while True:
            try:
                await self.land()
                await self._compact()
            except TocsinError as error:
                self.failures += 1
                log.warning("the event log is not landed: %s; trying again", error)
            except Exception:
                self.failures += 1
                log.exception("landing the event log failed; trying again")
            await asyncio.sleep(LAND_EVERY_S)

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
        ids: list[str] = []
        events: list[Activity] = []
        after = "-"
        while len(events) < FILE_EVENTS:
            entries = await read_log(self._client, self._keys, partition, after=after, count=READ_ENTRIES)
            for entry, body in entries:
                found = activities_in(body)
                self.unreadable += found is None
                ids.append(entry)
                events += found or ()
            if len(entries) < READ_ENTRIES:
                break
            after = f"({ids[-1]}"
        if not ids:
            return False
        # Off the loop: heartbeats go on while the file is made.
        await asyncio.to_thread(self._append, events, f"log-{partition}-{ids[0]}-{ids[-1]}")
        self.landed += len(events)
        try:
            for start in range(0, len(ids), 1_000):
                await self._client.xdel(self._keys.log(partition), *ids[start : start + 1_000])
        except (redis_errors.RedisError, OSError) as error:
            raise translate(error) from error
        return len(events) >= FILE_EVENTS

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
    from features.archive import Archive  # noqa: PLC0415 - as above

    return Archive(uri)


async def read_log(
    client: aioredis.Redis, keys: FeatureKeys, partition: int, *, after: str = "-", count: int
) -> list[tuple[str, bytes]]:
    """Entries of a partition's log, the oldest first: their ids and blocks; empty for one of another version.

    Raises:
        StorageUnavailableError: the server does not answer.
    """
    try:
        found: Any = await client.xrange(keys.log(partition), min=after, count=count)
    except (redis_errors.RedisError, OSError) as error:
        raise translate(error) from error
    ours = str(WIRE_VERSION).encode()
    return [(entry.decode(), values[b"b"] if values.get(b"v") == ours else b"") for entry, values in found]


def activities_in(body: bytes) -> list[Activity] | None:
    """The events of a block; None, and a line in the log, where it cannot be read."""
    try:
        return _block.decode(body)
    except msgspec.MsgspecError as error:
        log.error("a block of the event log cannot be read: %s", error)  # noqa: TRY400 (where does not matter)
        return None
