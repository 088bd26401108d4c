"""What processes count for themselves, reported to Redis, so that one question to any replica finds all of it.

A process reports what its counters grew by, every few seconds and when it ends. One that is killed takes its last
seconds along; after an answer that was lost, a number may be reported twice. That is good enough for what these are:
faults that were survived, and refusals.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final, Protocol, runtime_checkable

from redis import asyncio as aioredis
from redis import exceptions as redis_errors

from tocsin.background import repeat
from tocsin.storage.script import Script

log = logging.getLogger(__name__)

REPORT_EVERY_S = 5.0
REPORT_TIMEOUT_S = 1.0
REFUSED = "refused:"  # before the reason of an admission's refusal


class Fault(StrEnum):
    """What was survived: a metric label, so the list is short and closed."""

    STORAGE = "storage"  # a consumer's read, settle or heartbeat failed, and was tried again
    HANDLER = "handler"  # blocks whose handling raised: they are tried again
    SETTLED_AT_LIMIT = "settled_at_limit"  # the server was too full for an ordinary transaction
    LOOKUP_FAILED = "lookup_failed"  # p0 batches that went out without their recipients' preferences
    UNREADABLE_RECIPIENT = "unreadable_recipient"  # stored, but not to be read: taken as not there
    KNOWN_CONTACTS = "known_contacts"  # last known contacts were not read or kept in time
    ADMISSION_BLIND = "admission_blind"  # admission could not read storage: everything was let in
    FRESHENING = "freshening"  # a shard could not write watermarks or renew vectors, and tried again
    LANDING = "landing"  # the event log could not be landed in the archive, and was tried again
    COMPACTION = "compaction"  # the archive could not be compacted, and was tried again
    UNREADABLE_LOG = "unreadable_log"  # blocks of the event log that could not be read: not in the archive


@runtime_checkable
class CountsFaults(Protocol):
    """Whoever counts its own faults, since it was made."""

    def faults(self) -> Mapping[Fault, int]:
        """How often each happened."""
        ...


def faults_of(*parts: object) -> Counter[Fault]:
    """The faults of several parts together; one that counts none adds none."""
    total: Counter[Fault] = Counter()
    for part in parts:
        if isinstance(part, CountsFaults):
            total.update(part.faults())
    return total


Counters = Callable[[], Mapping[str, int] | Mapping[Fault, int]]


_REPORT: Final = Script(
    """#!lua flags=allow-oom
for a = pairs_at, #ARGV, 2 do redis.call('HINCRBY', reports, ARGV[a], ARGV[a + 1]) end
return 1
""",
    keys="reports",
    args="pairs*",
)


class Reports:
    """Tells what the counters of one process grew by.

    Args:
        client: The lane's server.
        key: The hash they are added up in.
        counters: Since the process began; names from a short, closed list.
    """

    def __init__(self, client: aioredis.Redis, key: str, counters: Counters) -> None:
        self.failures = 0
        self._client = client
        self._key = key
        self._counters = counters
        self._reported: Counter[str] = Counter()

    async def report(self) -> None:
        """Add what is new to the hash. Never raises for a server that is away: it is added next time."""
        grown = Counter[str](self._counters()) - self._reported
        if not grown:
            return
        pairs = [part for field, number in sorted(grown.items()) for part in (field, number)]
        try:
            async with asyncio.timeout(REPORT_TIMEOUT_S):
                await _REPORT.run(self._client, reports=self._key, pairs=pairs)
        except (redis_errors.RedisError, OSError, TimeoutError) as error:
            self.failures += 1
            log.debug("faults could not be reported: %s", error)
        else:
            self._reported += grown

    async def run(self, every_s: float = REPORT_EVERY_S) -> None:
        """Report every `every_s` until cancelled, and once more then."""
        try:
            await repeat("reporting faults", self.report, every_s=every_s, wait_first=True)
        finally:
            await self.report()
