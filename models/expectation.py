"""How much two models are known to differ, and what inputs usually look like: what a rollout is then held against.

A new model differs from the old one, or there would be no point. How far is known beforehand: both are asked about
the new one's reference rows, a sample of its test rows that is stored with it. What goes beyond that, on the requests
that come, is no difference of opinion but a fault.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from models.matrix import Floats

MOST_ROWS = 512
DIFFERS = 0.2  # of probability: two answers that far apart disagree


class Expected(Struct, frozen=True, kw_only=True):
    """On the reference rows. `empty` is the share in which an input is 0 or not known, by name."""

    rows: int = 0  # 0: nothing is known
    squared: float = 0.0  # mean squared difference of the probabilities
    differing: float = 0.0  # share of rows that differ by 0.2 or more
    shift: float = 0.0  # mean difference, judged minus reference
    empty: dict[str, float] = {}


def expect(judged: Floats, reference: Floats, raw: Floats, names: Sequence[str]) -> Expected:
    """From the probabilities of two models, shape `(n,)`, for the same rows, shape `(n, inputs)`."""
    if not len(raw):
        return Expected()
    difference = judged - reference
    return Expected(
        rows=len(raw),
        squared=float((difference**2).mean()),
        differing=float((np.abs(difference) >= DIFFERS).mean()),
        shift=float(difference.mean()),
        empty=dict(zip(names, is_empty(raw).mean(axis=0).tolist(), strict=True)),
    )


def is_empty(raw: Floats) -> Floats:
    """1 where an input is 0 or not known, else 0; same shape."""
    found: Floats = ((raw == 0) | np.isnan(raw)).astype(np.float64)
    return found


def sample(raw: Floats) -> Floats:
    """Up to 512 rows, evenly from all."""
    if len(raw) <= MOST_ROWS:
        return raw
    return raw[np.linspace(0, len(raw) - 1, MOST_ROWS).astype(np.intp)]
