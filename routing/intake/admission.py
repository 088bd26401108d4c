"""Admission: which records are admitted while the platform is short of something, decided before the queue.

    facts of the lane ──► its limits ──► the source's share ──► admit
                              └──────────────┴──refuse──► 429: lane, reason, Retry-After

Urgency decides who goes without: p2 has the tightest limits, p1 wider ones, p0 none. What p2 and p1 may not use of
the server's memory is p0's reserve; p0 is refused only when the server itself refuses.

A lane is a queue: a new record waits behind everything that is in it. Its sources therefore share two things. Once what
waits is more than `shared_from_s` seconds of work, a source that holds more than twice the average of it is refused: a
flood makes the others wait for about that long, and no longer. Sources that hold the same are never refused for that,
nor is a source that is alone. And over half its limit, no source holds more than its part of the lane, so that the
others find room.

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

from tocsin.settings import Settings
from tocsin.wire.lanes import LaneName

SAMPLE_S = 0.25  # facts older than this are read again, in the background
STALE_S = 0.5  # facts older than this are waited for
MAX_SOURCES = 256  # counted apart; the others count as one
SHARED_FROM = 0.5  # of a lane's limit
SHARED_PART = 0.9  # of a lane's limit: the rest is for a source not seen yet
LATE_RECORDS = 100  # fewer than this delay no record much, however slow the lane is

MEMORY_RETRY_S = 10.0  # memory is freed as outcomes expire and lanes drain, which no rate predicts
SHARE_RETRY_S = 1.0
MIN_RETRY_S = 1.0
MAX_RETRY_S = 60.0
DRAINED_TO = 0.95  # of the limit: how far a full lane should have drained when a caller comes back


class AdmissionReason(StrEnum):
    """Why records were refused: a metric label, so the list is short and closed."""

    NONE = ""
    MEMORY = "memory"  # the server's memory is nearly used up
    RECORDS = "records"  # too many wait in the lane
    AGE = "age"  # the oldest has waited too long: the lane does not keep up
    SHARE = "share"  # this source holds more than its part of a lane that is behind, or half full


class LaneLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a lane may hold and use; infinite is no limit."""

    records: float = math.inf
    age_s: float = math.inf
    memory_ratio: float = math.inf  # of the server's maxmemory, by everything in it
    shared_from_s: float = math.inf  # seconds of work waiting


class LaneFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How a lane is: a sample, plus what was let in since."""

    records: int = 0  # waiting, being worked on or to be tried again
    waiting: int = 0  # the same without those to be tried again: what a new record waits behind
    blocks: int = 0
    oldest_age_s: float = 0.0
    memory_ratio: float = 0.0  # 0: the server has no limit
    drained_per_s: float = 0.0  # recently
    capacity_per_s: float = 0.0  # how fast it drains when there is enough to do; 0: never seen


class AdmissionDecision(msgspec.Struct, frozen=True):
    """Whether records are let in; if not, why, and when to ask again."""

    admit: bool
    reason: AdmissionReason = AdmissionReason.NONE
    retry_after_s: float = 0.0


ADMITTED = AdmissionDecision(admit=True)


def _refuse(reason: AdmissionReason, retry_after_s: float) -> AdmissionDecision:
    return AdmissionDecision(admit=False, reason=reason, retry_after_s=retry_after_s)


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
                    shared_from_s=settings.p1_shared_from_s,
                ),
                LaneName.P2: LaneLimits(
                    records=settings.p2_max_records,
                    age_s=settings.p2_max_age_s,
                    memory_ratio=settings.p2_memory_ratio,
                    shared_from_s=settings.p2_shared_from_s,
                ),
                LaneName.ACTIVITY: LaneLimits(memory_ratio=settings.p2_memory_ratio),
            }
        )

    def limits(self, lane: LaneName) -> LaneLimits:
        """A lane's limits."""
        return self.lanes.get(lane, LaneLimits())

    def admit(self, lane: LaneName, facts: LaneFacts) -> AdmissionDecision:
        """Whether a lane takes records at all; its sources' shares come after."""
        limits = self.limits(lane)
        if facts.memory_ratio >= limits.memory_ratio:
            return _refuse(AdmissionReason.MEMORY, MEMORY_RETRY_S)
        if facts.records >= limits.records:
            over = facts.records - limits.records * DRAINED_TO
            wait_s = over / facts.drained_per_s if facts.drained_per_s > 0 else MAX_RETRY_S
            return _refuse(AdmissionReason.RECORDS, _bounded(wait_s))
        if facts.oldest_age_s >= limits.age_s:
            # The lane must catch up by this much, or a consumer recover: there is no rate to estimate from.
            return _refuse(AdmissionReason.AGE, _bounded(facts.oldest_age_s - limits.age_s))
        return ADMITTED

    def admit_source(
        self, lane: LaneName, facts: LaneFacts, holdings: Holdings, source: str, records: int
    ) -> AdmissionDecision:
        """Whether one source's records are let in to a lane that takes records: all of them or none."""
        limits, held, active = self.limits(lane), holdings.held(source), holdings.active(source)
        half_full = facts.records >= limits.records * SHARED_FROM
        if half_full and held + records > limits.records * SHARED_PART / active:
            return _refuse(AdmissionReason.SHARE, SHARE_RETRY_S)
        # A source that holds little is let in however much it brings, or large requests never were.
        if active > 1 and self.is_late(lane, facts) and held > 2 * facts.waiting / (active + 1):
            return _refuse(AdmissionReason.SHARE, SHARE_RETRY_S)
        return ADMITTED

    def is_late(self, lane: LaneName, facts: LaneFacts) -> bool:
        """Whether what is let in now would wait for longer than a flood may make it wait."""
        if facts.waiting < LATE_RECORDS:
            return False
        return facts.waiting > self.limits(lane).shared_from_s * facts.capacity_per_s


def _bounded(wait_s: float) -> float:
    return min(max(wait_s, MIN_RETRY_S), MAX_RETRY_S)


class Holdings:
    """What each source holds of what waits in one lane: as the replicas reported, plus what this one let in since.

    Sources are remembered for a while after they held something: the limits on floods protect them.
    """

    def __init__(self) -> None:
        self._reported: Mapping[str, float] = {}
        self._since: Counter[str] = Counter()

    def take(self, source: str, records: int) -> None:
        """Count what was let in."""
        known = source in self._reported or source in self._since or len(self._since) < MAX_SOURCES
        self._since[source if known else ""] += records

    def unreported(self) -> Counter[str]:
        """What was not reported to the other replicas yet."""
        return Counter(self._since)

    def refresh(self, held: Mapping[str, float], reported: Counter[str]) -> None:
        """Take over what all replicas let in and still waits, after `reported` was added to it."""
        self._reported = held
        self._since -= reported

    def held(self, source: str) -> float:
        """Records of a source that wait."""
        return self._reported.get(source, 0.0) + self._since[source]

    def active(self, source: str) -> int:
        """How many sources there are, this one included."""
        return len(self._reported.keys() | self._since.keys() | {source})
