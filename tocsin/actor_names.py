"""The names of the platform's Ray actors, in one place: `router-p0-0`, `shard-1`, `supervisor`."""

from __future__ import annotations

from tocsin.settings import Settings
from tocsin.wire.lanes import LaneName

NAMESPACE = "tocsin"  # Ray's, of every actor of ours
SUPERVISOR = "supervisor"
P0_STANDBY = (
    "router-p0-standby"  # no actor of its own: it consumes within the supervisor, while no other does
)


def kind_of(lane: LaneName) -> str:
    """What the names of a lane's pool members begin with."""
    return "shard" if lane is LaneName.ACTIVITY else f"router-{lane}"


def member_name(lane: LaneName, number: int) -> str:
    """The name of a pool member."""
    return f"{kind_of(lane)}-{number}"


def member_names(settings: Settings) -> dict[str, LaneName]:
    """The members every pool begins with, p0 first."""
    return {
        member_name(lane, number): lane for lane in LaneName for number in range(settings.pool_size(lane))
    }
