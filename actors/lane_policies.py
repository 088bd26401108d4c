"""How each lane is consumed and leased."""

from __future__ import annotations

import msgspec

from tocsin.streams.consumer import ConsumerPolicy
from tocsin.streams.leases import LeasePolicy
from tocsin.wire.lanes import LaneName


class LanePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a lane is consumed and leased."""

    consumer: ConsumerPolicy
    lease: LeasePolicy


# A dead p0 router is noticed within two seconds; the others trade speed for fewer heartbeats.
POLICIES: dict[LaneName, LanePolicy] = {
    LaneName.P0: LanePolicy(
        consumer=ConsumerPolicy(
            unit_entries=1, read_entries=32, concurrency=64, heartbeat_s=0.4, stall_s=15.0
        ),
        lease=LeasePolicy(ttl_s=1.8, heartbeat_s=0.4),
    ),
    LaneName.P1: LanePolicy(
        consumer=ConsumerPolicy(unit_entries=1, read_entries=8, concurrency=8),
        lease=LeasePolicy(),
    ),
    LaneName.P2: LanePolicy(
        consumer=ConsumerPolicy(unit_entries=4, read_entries=8, concurrency=16, promote_every_s=1.0),
        lease=LeasePolicy(),
    ),
    LaneName.ACTIVITY: LanePolicy(
        # One unit at a time: a history has one writer. Large units, whatever the size of blocks: under load an
        # advertiser's events share its cost. Two MiB are some 25,000 events and half a second.
        consumer=ConsumerPolicy(
            unit_entries=1024,
            unit_bytes=2 * 1024 * 1024,
            read_entries=256,
            concurrency=1,
            promote_every_s=60.0,
            read_every_s=0.1,
        ),
        lease=LeasePolicy(),
    ),
}
