"""Cutting time so that the past never sees the future, and accounts so that none judges what it taught.

        learned from: accounts of the fitting side
    ├──T──T──T──T──T──T──T──T──T──T──T──T──T──┤
         folds: └─ choose a candidate ─┘      ├░░ label windows, embargo ░░┤──T──T──T──T──┤
                           ├──T──T──T──T──T───┤                              test, everybody
                             calibrated on: accounts of the other side

A training cutoff's label window and the embargo end at or before the first test cutoff; the weeks between belong to
neither. The inner folds cut the weeks before the calibration window in the same way, so that no choice is made on
what calibrates or on the test. The calibration window is the newest part of the training weeks; what is fitted has
seen those weeks too, but other accounts in them: an account's side depends on a hash of its id alone. (Keeping back
only the accounts that the calibration window holds would not do: those are the survivors of the weeks before, and
what is left to learn from would be biased towards churn.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tocsin.errors import TocsinError


class TooLittleDataError(TocsinError):
    """The data cannot carry an honest training: names what was found and what is needed."""

    code = "too-little-data"


@dataclass(frozen=True, slots=True)
class Split:
    """Cutoffs to train on and later cutoffs to test on, seconds since the epoch, ascending."""

    train: tuple[float, ...]
    test: tuple[float, ...]


def account_positions(advertiser_ids: Iterable[str]) -> npt.NDArray[np.float64]:
    """A place in [0, 1) for each account, by a hash of its id: the same in every run, on every machine."""
    return np.array(
        [
            int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6, person=b"churn-side").digest())
            / 2.0**48
            for name in advertiser_ids
        ],
        dtype=np.float64,
    )


def split_at(cutoffs: Sequence[float], moment: float, gap_s: float) -> Split:
    """Train where the label window and embargo end by `moment`; test on every cutoff from it on."""
    return Split(
        train=tuple(t for t in cutoffs if t + gap_s <= moment), test=tuple(t for t in cutoffs if t >= moment)
    )


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
