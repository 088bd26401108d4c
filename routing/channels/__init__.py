"""Where a notification goes: one port, one file a channel.

A channel makes one try for one notification and says how it went; retries, schedules and dead letters are not
its business.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from tocsin.schemas import Attempt, Notification


class FailureReason(StrEnum):
    """Why a try failed: a metric label, so the list is short and closed."""

    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"  # the target said no for good: 4xx
    TARGET_ERROR = "target_error"  # 5xx, 408, 425, 429
    FORBIDDEN_TARGET = "forbidden_target"  # an address we will not call
    NOT_CONFIGURED = "not_configured"
    INTERNAL = "internal"


PERMANENT = frozenset({FailureReason.REFUSED, FailureReason.FORBIDDEN_TARGET, FailureReason.NOT_CONFIGURED})
"""Reasons for which the same try cannot succeed later."""


class Failure(msgspec.Struct, frozen=True):
    """A failed try."""

    reason: FailureReason
    detail: str

    def attempt(self, channel: str, at: float, duration_ms: float) -> Attempt:
        """The try this ended."""
        return Attempt(at, channel, ok=False, reason=self.reason, detail=self.detail, duration_ms=duration_ms)

    @property
    def permanent(self) -> bool:
        """Whether the same try cannot succeed later."""
        return self.reason in PERMANENT


class Deliverable(Protocol):
    """What a channel is handed: `routing.pipeline.Delivery`."""

    @property
    def id(self) -> str:
        """The notification's id, the same on every try."""
        ...

    @property
    def notification(self) -> Notification:
        """What to deliver."""
        ...


class Channel(Protocol):
    """One way to reach a recipient."""

    name: str

    async def deliver(self, batch: Sequence[Deliverable]) -> Sequence[Attempt]:
        """One try for each of a batch; how each went, in order. Never raises for a failed delivery.

        A p0 comes as a batch of one.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and files."""
        ...
