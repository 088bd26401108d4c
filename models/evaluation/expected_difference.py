"""How much two models are known to differ, and what inputs usually look like: what a rollout is then held against.

A new model differs from the old one, or there would be no point. How far is known beforehand: both are asked about
the new one's reference rows, a sample of its test rows that is stored with it. What goes beyond that, on the requests
that come, is no difference of opinion but a fault.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from models.dataset.matrix import Floats

MAX_ROWS = 512
TENTHS = 10  # bins of probabilities
# A row shifts the mean by no more, here as in the guard: a bet may be larger on values of a narrower range.
SHIFT_WITHIN = 0.25
DIFFERS = 0.2  # of probability: two answers that far apart disagree


class ExpectedDifference(Struct, frozen=True, kw_only=True):
    """On the reference rows. `empty` is the share in which an input is 0 or not known, by name."""

    rows: int = 0  # 0: nothing is known
    squared: float = 0.0  # mean squared difference of the probabilities
    differing: float = 0.0  # share of rows that differ by 0.2 or more
    shift: float = 0.0  # mean difference, judged minus reference, each within 0.25
    drift: float = 0.0  # how far one's probabilities are spread otherwise than the other's
    empty: dict[str, float] = {}


def expect(judged: Floats, reference: Floats, raw: Floats, names: Sequence[str]) -> ExpectedDifference:
    """From the probabilities of two models, shape `(n,)`, for the same rows, shape `(n, inputs)`."""
    if not len(raw):
        return ExpectedDifference()
    difference = judged - reference
    return ExpectedDifference(
        rows=len(raw),
        squared=float((difference**2).mean()),
        differing=float((np.abs(difference) >= DIFFERS).mean()),
        shift=float(np.clip(difference, -SHIFT_WITHIN, SHIFT_WITHIN).mean()),
        drift=stability_index(_tenths(judged), _tenths(reference)),
        empty=dict(zip(names, is_empty(raw).mean(axis=0).tolist(), strict=True)),
    )


def stability_index(counts: Sequence[float], others: Sequence[float]) -> float:
    """The population stability index of two histograms, half a row added to each bin so that an empty one is finite."""
    shares, theirs = (
        [(count + 0.5) / (sum(each) + len(each) / 2) for count in each] for each in (counts, others)
    )
    return math.fsum((one - other) * math.log(one / other) for one, other in zip(shares, theirs, strict=True))


def _tenths(probabilities: Floats) -> list[float]:
    found: list[float] = np.histogram(probabilities, bins=TENTHS, range=(0.0, 1.0))[0].tolist()
    return found


def is_empty(raw: Floats) -> Floats:
    """1 where an input is 0 or not known, else 0; same shape."""
    found: Floats = ((raw == 0) | np.isnan(raw)).astype(np.float64)
    return found


def sample(raw: Floats) -> Floats:
    """Up to 512 rows, evenly from all."""
    if len(raw) <= MAX_ROWS:
        return raw
    return raw[np.linspace(0, len(raw) - 1, MAX_ROWS).astype(np.intp)]
