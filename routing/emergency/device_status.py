"""The state of a device during an emergency: read when it is needed, and never from a cache."""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from routing.emergency.lookups import Lookup
from tocsin.caching import NeverCached
from tocsin.clock import Clock

DEVICE_DEADLINE_S = 0.3


class LiveReading(msgspec.Struct, NeverCached, frozen=True, kw_only=True):
    """A device's state as its service reported it at `read_at` (epoch seconds); it holds for no other time."""

    device_id: str
    state: str
    read_at: float


class DeviceAnswer(msgspec.Struct, frozen=True):
    """The service's answer: `{"state": "operational"}`; other fields are ignored."""

    state: Annotated[str, Meta(min_length=1, max_length=64)]


class DeviceStatus(Protocol):
    """Reads the state of a device."""

    async def fetch(self, device_id: str) -> LiveReading:
        """One reading."""
        ...


class DeviceStatusClient:
    """Asks the device service: `GET TOCSIN_DEVICE_STATUS_URL?device_id=…`.

    Two calls are two requests, also at the same moment: a reading is never shared.

    Args:
        lookup: Reaches the service, with a deadline of `DEVICE_DEADLINE_S`.
        clock: Time.
    """

    def __init__(self, lookup: Lookup, clock: Clock) -> None:
        self._lookup = lookup
        self._clock = clock

    async def fetch(self, device_id: str) -> LiveReading:
        """A reading taken after this call began.

        Raises:
            LookupFailedError: there is none within the deadline.
        """
        answer = await self._lookup.ask("GET", DeviceAnswer, params={"device_id": device_id})
        return LiveReading(device_id=device_id, state=answer.state, read_at=self._clock.now())
