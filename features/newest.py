"""Where the data ends: the newest event, without a few that are dated far ahead of all others.

    advertisers by their newest event:   ……………●●●●●●●●●│           ●
                                          reached ─┘   └─ bound    └─ left out

`latest` and the end of the data for labels follow the data as a whole. One record dated today, in data of years ago,
would else make everybody inactive for years. The moment that more than 1% of the advertisers (and at least two) have
reached is what the data shows of itself; events up to 7 days later count, later ones do not move the end. With fewer
than 5 advertisers there is no whole to follow, and the newest event counts.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from features.definitions import DAY_S

STRAY_SHARE: Final = 0.01  # of the advertisers, or one, that may lie ahead of all others
STRAY_GAP_S: Final = 7 * DAY_S
MIN_ADVERTISERS: Final = 5


class NewestEvents(Struct, frozen=True, kw_only=True):
    """Where the data ends; all moments in epoch seconds."""

    moment: float  # of the newest event that counts
    bound: float  # events after it do not count; infinite with fewer than 5 advertisers
    newest: float  # of all events
    ahead: int = 0  # advertisers with events after `bound`


def newest_events(newest: npt.NDArray[np.float64]) -> NewestEvents | None:
    """Where the data ends, from the time of each advertiser's newest event, shape `(advertisers,)`; None for none."""
    if not len(newest):
        return None
    ordered = np.sort(newest)
    last = float(ordered[-1])
    if len(ordered) < MIN_ADVERTISERS:
        return NewestEvents(moment=last, bound=float("inf"), newest=last)
    bound = float(ordered[-1 - strays(len(ordered))]) + STRAY_GAP_S
    counted = int(np.searchsorted(ordered, bound, side="right"))
    return NewestEvents(
        moment=float(ordered[counted - 1]), bound=bound, newest=last, ahead=len(ordered) - counted
    )


def strays(advertisers: int) -> int:
    """How many advertisers may lie ahead of the data."""
    return max(1, int(advertisers * STRAY_SHARE))
