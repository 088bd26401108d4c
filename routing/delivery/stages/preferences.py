"""Preferences: a recipient's channels, and the types and sources it muted."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from routing.deliveries import Delivery, OutcomeReason
from routing.recipients.store import Profiles
from tocsin.errors import StorageUnavailableError
from tocsin.telemetry.reports import Fault, faults_of
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import Notification, NotificationState
from tocsin.wire.recipients import Recipient

log = logging.getLogger(__name__)

P0_DEADLINE_S = 1.0


class Preferences:
    """Looks up the recipients of a batch, once, and applies their channels and mutes.

    A change holds from the next batch on, retries included. When the store does not answer, a p0 is delivered as
    if nobody had preferences: it must not wait, and its sender chose its channels. P1 and p2 raise instead, so that
    the batch is tried again later: a notification at night, or of a muted type, cannot be taken back, and a short
    wait does no harm there. Nothing of the batch has been delivered by then.

    Args:
        profiles: The store.
        lane: Whose notifications these are.
        p0_deadline_s: How long a p0 waits for the store.
    """

    def __init__(self, profiles: Profiles, lane: LaneName, *, p0_deadline_s: float = P0_DEADLINE_S) -> None:
        self.lookups_failed = 0  # batches of p0 that went out without preferences
        self._profiles = profiles
        self._lane = lane
        self._p0_deadline_s = p0_deadline_s

    def faults(self) -> Mapping[Fault, int]:
        """Its own and its store's."""
        return faults_of(self._profiles) + Counter({Fault.LOOKUP_FAILED: self.lookups_failed})

    async def __call__(self, batch: Sequence[Delivery], now: float) -> int:
        """Attach recipients; decide `suppressed` for what is muted. Returns how many are.

        Raises:
            StorageUnavailableError: the store does not answer, and this is not p0.
        """
        ids = list({delivery.envelope.notification.recipient for delivery in batch})
        found = await self._look_up(ids)
        if found is None:
            for delivery in batch:
                delivery.lookup_failed = True
            return 0
        if not any(found):  # nearly always
            return 0
        recipients = {one.id: one for one in found if one is not None}
        muted = 0
        for delivery in batch:
            sent = delivery.envelope.notification
            recipient = recipients.get(sent.recipient)
            if recipient is None:
                continue
            delivery.recipient = recipient
            delivery.wanted = as_wanted(sent, recipient, self._lane)
            if self._lane is not LaneName.P0 and is_muted(sent, recipient):
                delivery.decide(NotificationState.SUPPRESSED, OutcomeReason.MUTED, now)
                muted += 1
        return muted

    async def _look_up(self, ids: Sequence[str]) -> Sequence[Recipient | None] | None:
        if self._lane is not LaneName.P0:
            return await self._profiles.get_many(ids)
        try:
            async with asyncio.timeout(self._p0_deadline_s):
                return await self._profiles.get_many(ids)
        except (StorageUnavailableError, TimeoutError) as error:
            self.lookups_failed += 1
            log.warning(
                "recipients cannot be looked up (%s); the notifications' own channels are used", error
            )
            return None


def as_wanted(sent: Notification, recipient: Recipient, lane: LaneName) -> Notification | None:
    """A notification with the recipient's channels and webhook; None where that changes nothing.

    The channels are the recipient's choice before the sender's; a webhook that the sender names goes before the
    recipient's own, as it is about this one notification.
    """
    channels = recipient.channels.of(lane) or sent.channels
    webhook_url = sent.webhook_url or recipient.webhook_url or ""
    if channels == sent.channels and webhook_url == sent.webhook_url:
        return None
    return msgspec.structs.replace(sent, channels=tuple(dict.fromkeys(channels)), webhook_url=webhook_url)


def is_muted(sent: Notification, recipient: Recipient) -> bool:
    """Whether the recipient does not want this type, alert type or source, case aside."""
    if not (recipient.muted_types or recipient.muted_sources):
        return False
    types = {sent.type.casefold(), sent.alert_type.casefold()}
    return any(one.casefold() in types for one in recipient.muted_types) or any(
        one.casefold() == sent.source.casefold() for one in recipient.muted_sources
    )
