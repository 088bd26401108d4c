"""The `as_of` that stands for "now": the clock, the end of the data (`features.newest`), or a fixed moment."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import datetime

import msgspec

from features.definitions import DAY_S
from features.newest import NewestEvents
from tocsin.clock import Clock, to_epoch
from tocsin.errors import StorageUnavailableError

LATEST_TTL_S = 5.0


def fixed_as_of(setting: str) -> float | None:
    """The moment a setting names, epoch seconds; None for `now` and `latest`, which move."""
    return None if setting in {"now", "latest"} else to_epoch(msgspec.convert(setting, datetime))


def latest_as_of(newest: float, now: float = math.inf) -> float:
    """The moment of `latest`, epoch seconds: the midnight UTC after the newest event, or an earlier `now`."""
    return min((newest // DAY_S + 1) * DAY_S, now)


class AsOfView(msgspec.Struct, frozen=True, kw_only=True):
    """Which moment is "now", and why; for people. Moments in epoch seconds."""

    moment: float
    setting: str  # now, latest or a time
    newest_event: float | None  # of all advertisers; None: there is none
    ahead: int = 0  # advertisers with events that do not move `latest`


def as_of_view(setting: str, data: NewestEvents | None, now: float) -> AsOfView:
    """Which moment is "now" by this setting, for this data, at this time (epoch seconds)."""
    moment = fixed_as_of(setting)
    if moment is None:
        moment = latest_as_of(data.moment, now) if setting == "latest" and data else now
    return AsOfView(
        moment=moment,
        setting=setting,
        newest_event=data.newest if data else None,
        ahead=data.ahead if data else 0,
    )


class AsOf:
    """The moment that features are computed for unless another is asked for.

    Args:
        as_of: The setting: `now`, `latest` or a time.
        latest: Reads the time of the newest event that counts, epoch seconds; None: there is none.
        clock: Time.
    """

    def __init__(self, as_of: str, latest: Callable[[], Awaitable[float | None]], clock: Clock) -> None:
        self._fixed = fixed_as_of(as_of)
        self._is_latest = as_of == "latest"
        self._latest = latest
        self._clock = clock
        self._newest: float | None = None
        self._read_at = -math.inf
        self._asked = self._answered = 0  # questions about the newest event

    async def now(self) -> float:
        """The moment, epoch seconds. `latest` is read again after 5 s (see `latest_as_of`).

        Raises:
            StorageUnavailableError: it is `latest`, and was never read.
        """
        if self._fixed is not None:
            return self._fixed
        if not self._is_latest:
            return self._clock.now()
        if self._clock.monotonic() - self._read_at > LATEST_TTL_S:
            self._asked += 1
            number = self._asked
            try:
                newest = await self._latest()
                if number > self._answered:  # else a later question was answered first
                    self._newest, self._answered = newest, number
                    self._read_at = self._clock.monotonic()
            except StorageUnavailableError:
                if self._newest is None:
                    raise
                self._read_at = self._clock.monotonic()  # a question waits once, not at each step
        now = self._clock.now()
        return now if self._newest is None else latest_as_of(self._newest, now)
