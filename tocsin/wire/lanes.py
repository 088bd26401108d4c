"""The lanes by name, and what a write into one promises."""

from __future__ import annotations

from enum import StrEnum

WIRE_VERSION = 1


class LaneName(StrEnum):
    """The durable queues. `p0` is most urgent."""

    P0 = "p0"
    P1 = "p1"
    P2 = "p2"
    ACTIVITY = "activity"


NOTIFICATION_LANES = (LaneName.P0, LaneName.P1, LaneName.P2)


class Durability(StrEnum):
    """What a receipt's server had done with the write when it answered."""

    FSYNCED = "fsynced"  # on disk
    EVERYSEC = "everysec"  # on disk within about a second
    MEMORY = "memory"  # no append-only file, or nobody knows when it is synced
