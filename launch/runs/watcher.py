"""Looks after what a platform started: a part that died is brought back, or the platform goes down and says why.

alive ──died──► restore ──worked──► alive
│  └──failed──► tried again after a pause ──too often──► PartLostError
└──cannot be done in this process──► RestartNeededError: `up` starts over
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from tocsin.errors import TocsinError

CHECK_EVERY_S = 1.0
RESTORATIONS = 5
WITHIN_S = 600.0
PAUSES_S = (0.0, 2.0, 5.0, 10.0, 20.0)


class WatchedPart(Protocol):
    """Something that can die by itself."""

    @property
    def name(self) -> str:
        """As people know it; begins the line about it."""

    def alive(self) -> bool:
        """Whether it runs. Quick, and never raises."""

    def restore(self) -> None:
        """Bring it back; returns when it runs.

        Raises:
            TocsinError: it did not come back; tried again later.
            RestartNeededError: only a new start of the whole can bring it back.
        """


class RestartNeededError(TocsinError):
    """A part died that this process cannot bring back: the platform has to start again."""

    code = "restart-needed"

    def __init__(self, part: str, message: str) -> None:
        super().__init__(message)
        self.part = part


class PartLostError(TocsinError):
    """A part keeps dying, or does not come back; the platform went down."""

    code = "part-lost"


class Watcher:
    """Looks after parts, one look at a time.

    Args:
        report: Called with a part's name and a line when it died and when it is back.
        clock: Seconds on a steady clock.
    """

    def __init__(
        self, report: Callable[[str, str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._report = report
        self._clock = clock
        self._parts: list[WatchedPart] = []
        self._tries: dict[str, deque[float]] = {}

    def add(self, part: WatchedPart) -> None:
        """Look after one more; those added first are looked at first."""
        self._parts.append(part)
        self._tries[part.name] = deque(maxlen=RESTORATIONS)

    def check(self) -> None:
        """Look at each part once, and bring back what died.

        Raises:
            PartLostError: one was brought back, or tried, five times within ten minutes.
            RestartNeededError: as a part raises it.
        """
        for part in self._parts:
            if not part.alive():
                self._restore(part)

    def _restore(self, part: WatchedPart) -> None:
        now = self._clock()
        tries = self._tries[part.name]
        recent = sum(now - at < WITHIN_S for at in tries)
        if recent and now - tries[-1] < PAUSES_S[min(recent, len(PAUSES_S) - 1)]:
            return
        if recent >= RESTORATIONS:
            raise PartLostError(
                f"{part.name} died {recent} times within {WITHIN_S / 60:g} minutes and was not brought back again",
                hint="the run's logs in `logs/latest` of the data folder say why; then `tocsin up`",
            )
        tries.append(now)
        self._report(part.name, "died; bringing it back")
        try:
            part.restore()
        except RestartNeededError:
            raise
        except TocsinError as error:
            self._report(part.name, f"did not come back: {error.message}")
        else:
            self._report(part.name, "is back")
