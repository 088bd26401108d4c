"""Expire: a p2 that is no longer of use is not delivered."""

from __future__ import annotations

from collections.abc import Sequence

from routing.deliveries import Delivery, OutcomeReason
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import NotificationState


class Expire:
    """Drops a p2 whose `expires_at` has passed. P0 and p1 are delivered even late."""

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
