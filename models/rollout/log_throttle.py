"""Failures of a model in the log: with its traceback, but once a minute for each. One that fails at every request would
fill the disk.
"""

from __future__ import annotations

import logging
import math

from tocsin.clock import Clock

log = logging.getLogger(__name__)

AGAIN_S = 60.0


class LogThrottle:
    """Tells of failures, seldom.

    Args:
        clock: Time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: dict[str, float] = {}

    def failed(self, model: str, error: Exception) -> None:
        """A model raised."""
        now = self._clock.monotonic()
        if now - self._told.get(model, -math.inf) >= AGAIN_S:
            self._told[model] = now
            log.error(
                "churn model %s failed; logged again in %g s at the earliest", model, AGAIN_S, exc_info=error
            )
