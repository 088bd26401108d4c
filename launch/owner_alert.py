"""Alerts of the platform about itself: notifications like any sender's, on the lane their severity gives them."""

from __future__ import annotations

from models.rollout.guard_loop import Alarm
from routing.intake.intake import Intake
from routing.intake.priority import Classifier
from tocsin.clock import Clock
from tocsin.settings import Settings
from tocsin.storage.servers import Servers
from tocsin.streams.lanes import Lane
from tocsin.wire.lanes import NOTIFICATION_LANES
from tocsin.wire.notifications import PLATFORM_SOURCE, NotificationRequest


class OwnerAlert:
    """Tells the models' owner what the guard has to say, once.

    Args:
        settings: Whom to alert.
        servers: Of the lanes.
        clock: Time.
    """

    def __init__(self, settings: Settings, servers: Servers, clock: Clock) -> None:
        self._owner = settings.model_owner
        self._clock = clock
        self._lanes = {name: Lane.of(servers.of(name), settings, name) for name in NOTIFICATION_LANES}
        self._intake = Intake(Classifier(), {name: settings.partitions(name) for name in NOTIFICATION_LANES})

    async def __call__(self, alarm: Alarm) -> None:
        """Send it; a repeat is the same notification.

        Raises:
            TocsinError: it was not accepted.
        """
        request = NotificationRequest(
            type="model_alert",
            alert_type=alarm.kind,
            severity="Moderate",  # p1
            recipient=self._owner,
            title=alarm.title,
            body=alarm.body[:4000],
            source=PLATFORM_SOURCE,
            dedup_key=alarm.key,
        )
        (accepted,) = self._intake.admit([(0, request)], now=self._clock.now())
        await self._lanes[accepted.lane].append([accepted.record])
