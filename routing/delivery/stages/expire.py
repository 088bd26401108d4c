"""Expire: what comes too late."""

from __future__ import annotations

from collections.abc import Sequence

from routing.deliveries import Delivery, OutcomeReason
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import NotificationState


class Expire:
    """Drops a P2 whose time has passed. P0 and P1 are told even late."""

    def __init__(self, lane: LaneName) -> None:
        self._applies = lane is LaneName.P2

    async def __call__(self, batch: Sequence[Delivery], now: float) -> int:
        """Decide `expired` for what is stale. Returns how many are."""
        if not self._applies:
            return 0
        stale = [one for one in batch if 0 < one.envelope.notification.expires_at <= now]
        for delivery in stale:
            delivery.decide(NotificationState.EXPIRED, OutcomeReason.STALE, now)
        return len(stale)
