"""Where a notification goes: two ports, one file a channel or provider.

A `Channel` is what a notification asks for (`webhook`, `sms`); a `Provider` is one way to serve it: a target, an
account. `routing.channels.provided` makes a channel of a list of providers. A channel reports its attempts;
retries, schedules and dead letters are not its business.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

import msgspec

from tocsin.settings import ACCOUNT_CHANNELS
from tocsin.wire.notifications import Attempt, Notification


class FailureReason(StrEnum):
    """Why a try failed: a metric label, so the list is short and closed."""

    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"  # by the target, for good: 4xx
    TARGET_ERROR = "target_error"  # 5xx, or a status of `RETRYABLE_STATUSES`
    FORBIDDEN_TARGET = "forbidden_target"  # an address that must not be called
    NOT_CONFIGURED = "not_configured"
    NO_TARGET = "no_target"  # the recipient has no address for this channel
    BREAKER_OPEN = "breaker_open"  # not asked; no attempt is counted
    INTERNAL = "internal"


PERMANENT = frozenset(
    {
        FailureReason.REFUSED,
        FailureReason.FORBIDDEN_TARGET,
        FailureReason.NOT_CONFIGURED,
        FailureReason.NO_TARGET,
    }
)
"""Reasons for which the same try cannot succeed later."""

ACCOUNTS = frozenset(ACCOUNT_CHANNELS)
"""Channels that reach a recipient's address through an account of the operator's."""

LOCAL = frozenset({"log", "sink"})
"""Channels that end in this process: nobody is reached by them."""


class Failure(msgspec.Struct, frozen=True):
    """A failed try. `detail` goes into the attempt: it never shows a URL or an address."""

    reason: FailureReason
    detail: str

    def attempt(self, channel: str, at: float, duration_ms: float, *, provider: str = "") -> Attempt:
        """The attempt that failed."""
        return Attempt(
            at,
            channel,
            ok=False,
            reason=self.reason,
            detail=self.detail,
            duration_ms=duration_ms,
            provider=provider,
        )

    @property
    def permanent(self) -> bool:
        """Whether the same try cannot succeed later."""
        return self.reason in PERMANENT


class Deliverable(Protocol):
    """What a channel is handed: `routing.deliveries.Delivery`."""

    @property
    def id(self) -> str:
        """The notification's id, the same on every try."""
        ...

    @property
    def notification(self) -> Notification:
        """What to deliver."""
        ...

    def target(self, channel: str) -> str | Failure:
        """The recipient's address for a channel."""
        ...


class ChannelResult(NamedTuple):
    """What a channel did for one notification: its attempts in order; the last one decides.

    `parked_s` > 0: a provider that might still help was not asked; try again after so many seconds.
    `retry_after_s` > 0: every provider that might still help asked to be left alone for so long or longer.
    """

    attempts: tuple[Attempt, ...]
    parked_s: float = 0.0
    retry_after_s: float = 0.0


class Channel(Protocol):
    """One way to reach a recipient."""

    name: str

    def groups(self, batch: Sequence[Deliverable]) -> Sequence[Sequence[int]]:
        """The places in a batch that share a call, and so their result. Each group is delivered apart."""
        ...

    async def deliver(self, batch: Sequence[Deliverable]) -> Sequence[ChannelResult]:
        """Try one group now; the result of each, in order. Never raises for a failed delivery.

        A p0 comes as a group of one.
        """
        ...

    async def close(self) -> None:
        """Close connections and files."""
        ...


class LocalChannel:
    """A channel that has no calls to make: all of a batch at once, in this process."""

    def groups(self, batch: Sequence[Deliverable]) -> Sequence[Sequence[int]]:
        """One group."""
        return [range(len(batch))]


class Provider(Protocol):
    """One way to serve a channel."""

    name: str  # unique in its lane; a metric label and a breaker's name
    max_calls: int  # at once

    def calls(self, batch: Sequence[Deliverable]) -> Sequence[Sequence[int]]:
        """The places in a batch that go together in one call; those it cannot serve are left out."""
        ...

    def host(self, items: Sequence[Deliverable]) -> str:
        """Whose health this call depends on, where the sender named the target; else empty."""
        ...

    def retry_after(self, items: Sequence[Deliverable]) -> float:
        """For how many seconds their target has asked not to be called; 0: it may be."""
        ...

    async def call(self, items: Sequence[Deliverable]) -> Failure | None:
        """One call within its deadline; None when it was delivered."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...
