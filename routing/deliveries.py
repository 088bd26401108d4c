"""A notification on its way, and what is decided of it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from routing.channels import Failure, FailureReason
from tocsin.streams.records import Entry, Position
from tocsin.wire.notifications import Attempt, Envelope, Notification, NotificationState
from tocsin.wire.recipients import Recipient


class OutcomeReason(StrEnum):
    """Why a delivery is in its state: a metric label, so the list is short and closed."""

    NONE = ""
    STALE = "stale"  # expired before it was delivered
    RETRY_SCHEDULED = "retry_scheduled"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    REFUSED = "refused"  # every open channel said no for good
    BREAKER_OPEN = "breaker_open"  # no provider could be asked: put off, or given up after too long
    IN_FLIGHT = (
        "in_flight"  # its provider has not answered yet; the retry is a placeholder, should this process die
    )
    FALLBACK = "fallback"  # delivered on another channel, or to a fallback contact
    MUTED = "muted"  # its recipient does not want this type or source
    QUIET_HOURS = "quiet_hours"  # put off until they end
    THROTTLED = "throttled"  # its recipient has had its limit of the last hour


class Delivery:
    """One notification on its way through the stages.

    Made for every record of every block, so it is kept small: the id is composed only when it is read.

    Args:
        id: Where the record has one already (a retry, a replay).
        envelope: The record.
        entry: The block it came in; with `index` it is the id of a first pass.
        index: Its place in the block.
    """

    # On the class, so that a record that takes the usual way sets only what differs.
    state: NotificationState = NotificationState.ACCEPTED  # undecided
    reason: OutcomeReason = OutcomeReason.NONE
    error: str = ""
    attempts: tuple[Attempt, ...] = ()
    decided_at: float = 0.0
    retry_at: float = 0.0
    deferred_s: float = 0.0  # how long it is put off on purpose, now or next
    recipient: Recipient | None = None  # where it is known
    lookup_failed: bool = False  # the store of recipients did not answer
    wanted: Notification | None = None  # with the recipient's channels, where they differ from those sent
    parked: Mapping[str, float] = MappingProxyType(
        {}
    )  # channels with a provider not asked: seconds until it may be
    retry_after: Mapping[str, float] = MappingProxyType({})  # channels asked for a later retry: seconds
    parked_at: float = 0.0  # since when none could be asked
    pending_channels: int = 1  # channels whose attempts have not ended

    def __init__(self, id: str, envelope: Envelope, entry: Entry | None = None, index: int = 0) -> None:  # noqa: A002 (the field's own word)
        self._id = id
        self.entry = entry
        self.index = index
        self.envelope = envelope

    @property
    def id(self) -> str:
        """The notification's id."""
        if not self._id and self.entry is not None:
            self._id = self.entry.record_id(self.index)
        return self._id

    @property
    def notification(self) -> Notification:
        """What is to be delivered, and where; `envelope.notification` is as it was sent."""
        return self.wanted or self.envelope.notification

    def target(self, channel: str) -> str | Failure:
        """The recipient's address for a channel."""
        found = self.recipient.targets.get(channel) if self.recipient else None
        if found:
            return found
        if self.lookup_failed:
            return Failure(FailureReason.UNREACHABLE, "the recipient's address could not be looked up")
        return Failure(
            FailureReason.NO_TARGET, f"the recipient has no address for {channel} (targets.{channel})"
        )

    def origin(self) -> tuple[int, str, int]:
        """Partition, entry and index at which it was accepted: its outcome is stored under them."""
        if self.entry is not None and not self.envelope.id:
            return self.entry.partition, self.entry.entry, self.index
        position = Position.parse(self.id)
        return position.partition, position.entry, position.index

    def decide(self, state: NotificationState, reason: OutcomeReason, at: float) -> None:
        """Set its state. Earlier attempts are kept where this pass made none."""
        self.attempts = self.attempts or self.envelope.attempts
        self.state = state
        self.reason = reason
        self.decided_at = at
