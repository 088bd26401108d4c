"""Throttle: no more notifications an hour than a recipient allows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from routing.deliveries import Delivery, OutcomeReason
from routing.recipients.windows import WindowRequest, Windows
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import NotificationState


class Throttle:
    """Suppresses what goes over its recipient's limit in a rolling hour. P0 has no limit.

    P1 and p2 are counted apart: reminders must not use up what a leak may need. What was tried before has been
    counted, and stays admitted. When the counters cannot be reached the batch is tried again later, for the
    reason `Preferences` gives.

    Args:
        windows: The counters.
        lane: Whose notifications these are.
    """

    def __init__(self, windows: Windows, lane: LaneName) -> None:
        self._windows = windows
        self._lane = lane

    async def __call__(self, batch: Sequence[Delivery], now: float) -> int:
        """Decide `suppressed` for what goes over the limit. Returns how many do.

        Raises:
            StorageUnavailableError: the counters cannot be reached.
        """
        if self._lane is LaneName.P0:
            return 0
        limits: dict[str, int] = {}
        waiting: dict[str, list[Delivery]] = defaultdict(list)
        for delivery in batch:
            recipient = delivery.recipient
            if recipient is None or recipient.max_per_hour is None or delivery.envelope.attempts:
                continue
            limits[recipient.id] = recipient.max_per_hour
            waiting[recipient.id].append(delivery)
        if not waiting:
            return 0
        requests = [
            WindowRequest(one, limits[one], [d.id for d in deliveries]) for one, deliveries in waiting.items()
        ]
        admitted = await self._windows.admit(self._lane, requests, now)
        over = [one for deliveries in waiting.values() for one in deliveries if one.id not in admitted]
        for delivery in over:
            delivery.decide(NotificationState.SUPPRESSED, OutcomeReason.THROTTLED, now)
        return len(over)
