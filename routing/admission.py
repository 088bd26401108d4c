"""Admission: who is let in while the platform is short of something, decided before the queue.

    facts of the lane ──► its limits ──► the source's share ──► admit
                              └──────────────┴──refuse──► 429: lane, reason, Retry-After

Urgency decides who goes without: p2 has the tightest limits, p1 wider ones, p0 none. What p2 and p1 may not use of
the server's memory is p0's reserve; p0 is refused only when the server itself refuses. Over half its limit a lane is
shared out: no source takes more than its part of the room that is left, so that one that floods leaves room for the
others.

Facts are a sample, at most `STALE_S` old, plus what this replica let in since. The limits are therefore exact but for
what other replicas let in since their and our last sample: at most (replicas - 1) x what one replica can take in that
time, and whatever is on its way to the server. The reserve must be larger than that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from tocsin.schemas import LaneName
from tocsin.settings import Settings

SAMPLE_S = 0.25  # facts older than this are asked for again, beside the requests
STALE_S = 0.5  # facts older than this are waited for
MOST_SOURCES = 1024  # told apart in one window; the others count as one
SHARED_FROM = 0.5  # of a lane's limit

MEMORY_RETRY_S = 10.0  # memory comes back as outcomes expire and lanes drain, which no rate tells
SHARE_RETRY_S = 1.0
LEAST_RETRY_S = 1.0
MOST_RETRY_S = 60.0
ROOM_AGAIN = 0.95  # of the limit: how far a full lane should have drained when a caller comes back


class AdmissionReason(StrEnum):
    """Why records were refused: a metric label, so the list is short and closed."""

    NONE = ""
    MEMORY = "memory"  # the server's memory is nearly used up
    RECORDS = "records"  # too many wait in the lane
    AGE = "age"  # the oldest has waited too long: the lane does not keep up
    SHARE = "share"  # this source had its part of a lane that is more than half full


class LaneLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a lane may hold and use; infinite is no limit."""

    records: float = math.inf
    age_s: float = math.inf
    memory_ratio: float = math.inf  # of the server's maxmemory, by everything in it


class LaneFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How a lane is: a sample, plus what was let in since."""

    records: int = 0  # waiting, being worked on or to be tried again
    blocks: int = 0
    oldest_age_s: float = 0.0
    memory_ratio: float = 0.0  # 0: the server has no limit
    drained_per_s: float = 0.0


class Decision(msgspec.Struct, frozen=True):
    """Whether records are let in; if not, why, and when to ask again."""

    admit: bool
    reason: AdmissionReason = AdmissionReason.NONE
    retry_after_s: float = 0.0


ADMITTED = Decision(admit=True)


def _refuse(reason: AdmissionReason, retry_after_s: float) -> Decision:
    return Decision(admit=False, reason=reason, retry_after_s=retry_after_s)


class AdmissionPolicy(msgspec.Struct, frozen=True):
    """The limits of each lane; a lane that is not named has none."""

    lanes: Mapping[LaneName, LaneLimits]

    @classmethod
    def of(cls, settings: Settings) -> AdmissionPolicy:
        """As configured. Activity gives way like p2: it is history, and its sender has it still."""
        return cls(
            {
                LaneName.P1: LaneLimits(
                    records=settings.p1_max_records,
                    age_s=settings.p1_max_age_s,
                    memory_ratio=settings.p1_memory_ratio,
                ),
                LaneName.P2: LaneLimits(
                    records=settings.p2_max_records,
                    age_s=settings.p2_max_age_s,
                    memory_ratio=settings.p2_memory_ratio,
                ),
                LaneName.ACTIVITY: LaneLimits(memory_ratio=settings.p2_memory_ratio),
            }
        )

    def limits(self, lane: LaneName) -> LaneLimits:
        """A lane's limits."""
        return self.lanes.get(lane, LaneLimits())

    def admit(self, lane: LaneName, facts: LaneFacts) -> Decision:
        """Whether a lane takes records at all; its sources' shares come after."""
        limits = self.limits(lane)
        if facts.memory_ratio >= limits.memory_ratio:
            return _refuse(AdmissionReason.MEMORY, MEMORY_RETRY_S)
        if facts.records >= limits.records:
            over = facts.records - limits.records * ROOM_AGAIN
            wait_s = over / facts.drained_per_s if facts.drained_per_s > 0 else MOST_RETRY_S
            return _refuse(AdmissionReason.RECORDS, _bounded(wait_s))
        if facts.oldest_age_s >= limits.age_s:
            # Somebody must catch up by this much, or come to life again: there is no rate to go by.
            return _refuse(AdmissionReason.AGE, _bounded(facts.oldest_age_s - limits.age_s))
        return ADMITTED

    def is_shared(self, lane: LaneName, facts: LaneFacts) -> bool:
        """Whether the lane is so full that its sources have shares."""
        return facts.records >= self.limits(lane).records * SHARED_FROM


def _bounded(wait_s: float) -> float:
    return min(max(wait_s, LEAST_RETRY_S), MOST_RETRY_S)


class Shares:
    """What each source was let in within the window of one sample, for one lane.

    The room left at the window's start is divided by the sources seen in this window and the last, and one more: a
    source nobody has heard of yet finds room, too.
    """

    def __init__(self) -> None:
        self._room = 0.0
        self._taken: Counter[str] = Counter()
        self._before: frozenset[str] = frozenset()

    def renew(self, room: float) -> None:
        """A new sample: a new window, with this room in records."""
        self._room = max(room, 0.0)
        self._before = frozenset(self._taken)
        self._taken = Counter()

    def admit(self, source: str, records: int) -> Decision:
        """Let in all of a source's records or none."""
        name = self._name(source)
        active = len(self._before | self._taken.keys() | {name})
        share = self._room / (active + 1)
        if self._taken[name] + records > share:
            return _refuse(AdmissionReason.SHARE, SHARE_RETRY_S)
        return ADMITTED

    def take(self, source: str, records: int) -> None:
        """Count what was let in."""
        self._taken[self._name(source)] += records

    def _name(self, source: str) -> str:
        known = source in self._taken or len(self._taken) < MOST_SOURCES
        return source if known else ""
