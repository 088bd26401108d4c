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
    """What a device's service said of it at `read_at` (epoch seconds), and at no other time."""

    device_id: str
    state: str
    read_at: float


class DeviceAnswer(msgspec.Struct, frozen=True):
    """The service's answer: `{"state": "operational"}`; other fields are passed over."""

    state: Annotated[str, Meta(min_length=1, max_length=64)]


class DeviceStatus(Protocol):
    """Tells the state of a device now."""

    async def fetch(self, device_id: str) -> LiveReading:
        """One reading."""
        ...


class DeviceStatusClient:
    """Asks the device service: `GET TOCSIN_DEVICE_STATUS_URL?device_id=…`.

    Two questions are two requests, also at the same moment: a reading is for whoever asked for it.

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
