"""Expire: what comes too late."""

from __future__ import annotations

from collections.abc import Sequence

from routing.pipeline import Delivery, OutcomeReason
from tocsin.schemas import LaneName, NotificationState


class Expire:
    """Drops a P2 whose time has passed. P0 and P1 are told even late."""

    def __init__(self, lane: LaneName) -> None:
        self._applies = lane is LaneName.P2

    async def __call__(self, batch: Sequence[Delivery], now: float) -> None:
        """Decide `expired` for what is stale."""
        if not self._applies:
            return
        for delivery in batch:
            expires_at = delivery.envelope.notification.expires_at
            if expires_at and expires_at <= now:
                delivery.decide(NotificationState.EXPIRED, OutcomeReason.STALE, now)
