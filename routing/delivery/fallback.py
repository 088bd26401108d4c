"""What is tried at once for a p0 that none of its channels delivered.

    no channel delivered ──► the recipient's other channels, one by one ──► its fallback contacts, all at once

The recipient's own channels are tried again later all the same, unless another channel of theirs delivered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

import msgspec

from routing.channels import LOCAL, Channel
from routing.deliveries import Delivery
from routing.recipients.store import Profiles
from tocsin.errors import StorageUnavailableError
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import Attempt, Notification
from tocsin.wire.recipients import Recipient

log = logging.getLogger(__name__)

LOOKUP_DEADLINE_S = 1.0


class Fallback:
    """Tries other channels, then other people.

    Args:
        channels: By name.
        profiles: The contacts' preferences.
        lookup_deadline_s: How long to wait for them; without an answer the notification's own channels are used.
    """

    def __init__(
        self,
        channels: Mapping[str, Channel],
        profiles: Profiles,
        *,
        lookup_deadline_s: float = LOOKUP_DEADLINE_S,
    ) -> None:
        self.rescued = 0  # notifications that only the fallback delivered
        self.lookups_failed = 0
        self._channels = channels
        self._profiles = profiles
        self._lookup_deadline_s = lookup_deadline_s

    async def reach(self, delivery: Delivery) -> tuple[Attempt, ...]:
        """Try them; returns the attempts made, those for contacts under the contact's id."""
        if delivery.recipient is None:
            return ()
        attempts = await self._other_channels(delivery, delivery.recipient)
        if not any(one.ok for one in attempts):
            attempts += await self._contacts(delivery, delivery.recipient)
        self.rescued += any(one.ok for one in attempts)
        return attempts

    async def _other_channels(self, delivery: Delivery, recipient: Recipient) -> tuple[Attempt, ...]:
        attempts: tuple[Attempt, ...] = ()
        for name in recipient.targets:
            channel = self._channels.get(name)
            if channel is None or name in delivery.notification.channels:
                continue
            (result,) = await channel.deliver([delivery])
            attempts += result.attempts
            if result.attempts and result.attempts[-1].ok:
                break
        return attempts

    async def _contacts(self, delivery: Delivery, recipient: Recipient) -> tuple[Attempt, ...]:
        contacts = recipient.fallback_contacts
        if not contacts:
            return ()
        known = await self._look_up(contacts)
        by_contact = await asyncio.gather(
            *(self._contact(delivery, contact, known.get(contact)) for contact in contacts)
        )
        return tuple(attempt for attempts in by_contact for attempt in attempts)

    async def _contact(self, delivery: Delivery, contact: str, known: Recipient | None) -> list[Attempt]:
        """All channels of one contact at once."""
        theirs = Delivery(delivery.id, delivery.envelope)
        theirs.recipient = known
        theirs.lookup_failed = known is None
        theirs.wanted = for_contact(delivery.envelope.notification, contact, known)
        wanted = [self._channels[name] for name in theirs.wanted.channels if name in self._channels]
        results = await asyncio.gather(*(channel.deliver([theirs]) for channel in wanted))
        return [
            msgspec.structs.replace(attempt, recipient=contact)
            for (result,) in results
            for attempt in result.attempts
        ]

    async def _look_up(self, contacts: Sequence[str]) -> dict[str, Recipient]:
        try:
            async with asyncio.timeout(self._lookup_deadline_s):
                found = await self._profiles.get_many(contacts)
        except (StorageUnavailableError, TimeoutError) as error:
            self.lookups_failed += 1
            log.warning(
                "fallback contacts cannot be looked up (%s); the notification's own channels are used", error
            )
            return {}
        return {one.id: one for one in found if one is not None}


def for_contact(sent: Notification, contact: str, known: Recipient | None) -> Notification:
    """A notification for a contact: on the contact's channels, and never to the first recipient's webhook."""
    chosen = (known.channels.of(LaneName.P0) or tuple(known.targets)) if known else ()
    return msgspec.structs.replace(
        sent,
        recipient=contact,
        title=f"[for {sent.recipient}] {sent.title}",
        channels=tuple(dict.fromkeys(chosen or sent.channels)),
        webhook_url=(known.webhook_url or "") if known else "",
    )


def reached_somebody(delivery: Delivery, attempts: Sequence[Attempt]) -> bool:
    """Whether one of `attempts` reached a person; any success will do where only local channels were wanted."""
    wanted = delivery.notification.channels
    if LOCAL.issuperset(wanted):
        return any(one.ok for one in attempts)
    return any(one.ok and one.channel not in LOCAL for one in attempts)
