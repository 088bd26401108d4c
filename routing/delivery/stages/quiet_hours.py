"""Quiet hours: p1 and p2 wait until they end.

    accepted ──in quiet hours──► retrying, due when they end ──promoted──► accepted again, by every stage

No attempt is made and none is counted. A p2 that expires before they end is due when it expires, so that it is recorded
as expired then and not hours later.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, time, timedelta, tzinfo

from routing.deliveries import Delivery, OutcomeReason
from routing.recipients.rules import zone_of
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import NotificationState
from tocsin.wire.recipients import QuietSpan

log = logging.getLogger(__name__)

MINUTE_S = 60.0


class QuietHours:
    """Defers p1 and p2 while their recipient's quiet hours last. P0 is delivered at any hour.

    Args:
        lane: Whose notifications these are.
    """

    def __init__(self, lane: LaneName) -> None:
        self._lane = lane

    async def __call__(self, batch: Sequence[Delivery], now: float) -> int:
        """Decide `retrying`, due when the quiet hours end. Returns how many were deferred."""
        if self._lane is LaneName.P0:
            return 0
        deferred = 0
        for delivery in batch:
            if delivery.recipient is None or delivery.recipient.quiet_hours is None:
                continue
            ends_at = quiet_until(delivery.recipient.quiet_hours, now)
            if ends_at is None:
                continue
            expires_at = delivery.notification.expires_at
            if self._lane is LaneName.P2 and expires_at:
                ends_at = min(ends_at, expires_at)
            delivery.retry_at = ends_at
            delivery.deferred_s = ends_at - now
            delivery.decide(NotificationState.RETRYING, OutcomeReason.QUIET_HOURS, now)
            deferred += 1
        return deferred


def quiet_until(quiet: QuietSpan, now: float) -> float | None:
    """When the quiet hours that `now` falls into end; None when it falls into none. Seconds since the epoch.

    They follow the recipient's local clock. It may jump over their end (they end with the jump) or show it twice
    (they end the first time; what comes in the repeated hour waits for the second).
    """
    zone = zone_of(quiet.timezone)
    if (
        zone is None
    ):  # checked when it came in; this machine's table is older. Rather delivered at night than never
        log.error("no timezone %r on this machine: no quiet hours kept", quiet.timezone)
        return None
    start, end = time.fromisoformat(quiet.start), time.fromisoformat(quiet.end)
    if start == end:
        return None  # an empty span
    local = datetime.fromtimestamp(now, zone)
    if not _within(local, start, end):
        return None
    ends = [
        datetime.combine(local.date() + timedelta(days=days), end, zone).replace(fold=fold).timestamp()
        for days in range(3)  # today, tomorrow, and the day after if the clock jumps over tomorrow's
        for fold in (0, 1)  # the same but where the clock jumps
    ]
    ends_at = min(at for at in ends if at > now and not _within_at(at, zone, start, end))
    while ends_at - MINUTE_S > now and not _within_at(ends_at - MINUTE_S, zone, start, end):
        ends_at -= MINUTE_S  # the clock jumps over the end: back to where it lands
    return ends_at


def _within(local: datetime, start: time, end: time) -> bool:
    shown = local.time()
    return start <= shown < end if start < end else shown >= start or shown < end


def _within_at(at: float, zone: tzinfo, start: time, end: time) -> bool:
    return _within(datetime.fromtimestamp(at, zone), start, end)
