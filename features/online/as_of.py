"""The "now" of features: the clock, the end of the data, or a moment somebody set."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from features.online.store import fixed_moment, moment_after
from tocsin.clock import Clock
from tocsin.errors import StorageUnavailableError

LATEST_TTL_S = 5.0


class AsOf:
    """Answers what "now" is.

    Args:
        as_of: The setting: `now`, `latest` or a time.
        latest: Asks for the time of the newest event.
        clock: Time.
    """

    def __init__(self, as_of: str, latest: Callable[[], Awaitable[float | None]], clock: Clock) -> None:
        self._fixed = fixed_moment(as_of)
        self._is_latest = as_of == "latest"
        self._latest = latest
        self._clock = clock
        self._newest: float | None = None
        self._asked_at = -math.inf

    async def now(self) -> float:
        """The moment to answer for, epoch seconds. `latest` is the midnight after the newest event, up to 5 s old,
        or the clock's time where that is earlier: of a midnight to come nothing is known yet.

        Raises:
            StorageUnavailableError: it is `latest`, and was never known.
        """
        if self._fixed is not None:
            return self._fixed
        if not self._is_latest:
            return self._clock.now()
        if self._clock.monotonic() - self._asked_at > LATEST_TTL_S:
            try:
                self._newest = await self._latest()
                self._asked_at = self._clock.monotonic()
            except StorageUnavailableError:
                if self._newest is None:
                    raise
        now = self._clock.now()
        return now if self._newest is None else moment_after(self._newest, now)
