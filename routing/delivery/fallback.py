"""What is tried for a p0 that got through on none of its channels, in the same breath.

    no channel got through ──► the recipient's other channels, one by one ──► its fallback contacts, all at once

The recipient's own channels are tried again later all the same, unless another channel of theirs got through.
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
    """Turns to other channels and other people.

    Args:
        channels: By name.
        profiles: Where the contacts' wishes are kept.
        lookup_deadline_s: How long to wait for them; without an answer they are told as the notification says.
    """

    def __init__(
        self,
        channels: Mapping[str, Channel],
        profiles: Profiles,
        *,
        lookup_deadline_s: float = LOOKUP_DEADLINE_S,
    ) -> None:
        self.told = 0  # notifications of which somebody heard only this way
        self.lookups_failed = 0
        self._channels = channels
        self._profiles = profiles
        self._lookup_deadline_s = lookup_deadline_s

    async def reach(self, delivery: Delivery) -> tuple[Attempt, ...]:
        """Try them; the attempts that were made, those for contacts under the contact's id."""
        if delivery.recipient is None:
            return ()
        attempts = await self._other_channels(delivery, delivery.recipient)
        if not any(one.ok for one in attempts):
            attempts += await self._contacts(delivery, delivery.recipient)
        self.told += any(one.ok for one in attempts)
        return attempts

    async def _other_channels(self, delivery: Delivery, recipient: Recipient) -> tuple[Attempt, ...]:
        made: tuple[Attempt, ...] = ()
        for name in recipient.targets:
            channel = self._channels.get(name)
            if channel is None or name in delivery.notification.channels:
                continue
            ((attempts, _),) = await channel.deliver([delivery])
            made += attempts
            if attempts and attempts[-1].ok:
                break
        return made

    async def _contacts(self, delivery: Delivery, recipient: Recipient) -> tuple[Attempt, ...]:
        contacts = recipient.fallback_contacts
        if not contacts:
            return ()
        known = await self._look_up(contacts)
        made = await asyncio.gather(
            *(self._contact(delivery, contact, known.get(contact)) for contact in contacts)
        )
        return tuple(attempt for attempts in made for attempt in attempts)

    async def _contact(self, delivery: Delivery, contact: str, known: Recipient | None) -> list[Attempt]:
        """All channels of one contact at once."""
        theirs = Delivery(delivery.id, delivery.envelope)
        theirs.recipient = known
        theirs.unread = known is None
        theirs.wanted = for_contact(delivery.envelope.notification, contact, known)
        asked = [self._channels[name] for name in theirs.wanted.channels if name in self._channels]
        tries = await asyncio.gather(*(channel.deliver([theirs]) for channel in asked))
        return [
            msgspec.structs.replace(attempt, recipient=contact)
            for ((attempts, _),) in tries
            for attempt in attempts
        ]

    async def _look_up(self, contacts: Sequence[str]) -> dict[str, Recipient]:
        try:
            async with asyncio.timeout(self._lookup_deadline_s):
                found = await self._profiles.get_many(contacts)
        except (StorageUnavailableError, TimeoutError) as error:
            self.lookups_failed += 1
            log.warning("fallback contacts cannot be looked up (%s); told as the notification says", error)
            return {}
        return {one.id: one for one in found if one is not None}


def for_contact(sent: Notification, contact: str, known: Recipient | None) -> Notification:
    """A notification as a contact is told of it: on its own channels, and never at the first recipient's webhook."""
    chosen = (known.channels.of(LaneName.P0) or tuple(known.targets)) if known else ()
    return msgspec.structs.replace(
        sent,
        recipient=contact,
        title=f"[for {sent.recipient}] {sent.title}",
        channels=tuple(dict.fromkeys(chosen or sent.channels)),
        webhook_url=(known.webhook_url or "") if known else "",
    )


def got_through(delivery: Delivery, made: Sequence[Attempt]) -> bool:
    """Whether anybody heard of it: by one of `made` that reaches somebody, or where only local channels were wanted."""
    wanted = delivery.notification.channels
    if LOCAL.issuperset(wanted):
        return any(one.ok for one in made)
    return any(one.ok and one.channel not in LOCAL for one in made)
