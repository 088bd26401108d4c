"""Cutting time so that the past never sees the future.

        train cutoffs                  embargo             test cutoffs
    ├──T──T──T──T──T──T──┤░░░░ label windows ░░░░┤──T──T──T──┤

A training cutoff's label window ends at or before the first test cutoff; the weeks between belong to neither. The
inner folds cut the training cutoffs in the same way, so that no choice is made on the test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tocsin.errors import TocsinError


class TooLittleDataError(TocsinError):
    """The data cannot carry an honest training: names what was found and what is needed."""

    code = "too-little-data"


@dataclass(frozen=True, slots=True)
class Split:
    """Cutoffs to train on and later cutoffs to test on, seconds since the epoch, ascending."""

    train: tuple[float, ...]
    test: tuple[float, ...]


def temporal_split(cutoffs: Sequence[float], test_share: float, embargo_s: float) -> Split:
    """The newest `test_share` of the cutoffs are the test; train cutoffs end `embargo_s` before the first of them.

    Args:
        cutoffs: Ascending, seconds since the epoch.
        test_share: Between 0 and 1; at least one cutoff is tested on.
        embargo_s: The label horizon, so that no training label window reaches the first test cutoff.
    """
    count = min(len(cutoffs), max(1, round(len(cutoffs) * test_share)))
    test = tuple(cutoffs[len(cutoffs) - count :])
    return Split(train=tuple(t for t in cutoffs if test and t + embargo_s <= test[0]), test=test)


def rolling_folds(cutoffs: Sequence[float], folds: int, share: float, embargo_s: float) -> list[Split]:
    """Up to `folds` inner splits over the newest `share` of the cutoffs, oldest first, each embargoed.

    A fold with nothing left to train on is dropped.
    """
    size = max(1, round(len(cutoffs) * share / folds))
    splits = []
    for fold in reversed(range(folds)):
        end = len(cutoffs) - fold * size
        test = tuple(cutoffs[max(0, end - size) : max(0, end)])
        train = tuple(t for t in cutoffs if test and t + embargo_s <= test[0])
        if train:
            splits.append(Split(train=train, test=test))
    return splits
