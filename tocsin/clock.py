"""Time is handed in: whatever needs the time takes a `Clock`, and tests move one by hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two readings: the date and time, and a stopwatch that never goes back."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that only moves forward."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds on a clock that only moves forward."""
        return time.monotonic()


def to_datetime(epoch_s: float) -> datetime:
    """Seconds since the epoch as an aware UTC datetime, to the millisecond."""
    return datetime.fromtimestamp(round(epoch_s, 3), tz=UTC)


def to_epoch(moment: datetime) -> float:
    """An aware datetime as seconds since the epoch."""
    return moment.timestamp()
