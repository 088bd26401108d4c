"""How a prediction came about: the difference to the typical advertiser, shared out among the features.

    probability(typical) ── one feature after the other takes its own value ──► probability(this advertiser)

Each feature's effect is what its step changes, averaged over two walks: the features in their order, and backwards.
Steps telescope, so the effects add up to the difference exactly, whatever the estimator; two opposite orders share
what features do together evenly between the earlier and the later one. It is a Shapley value from one pair of
antithetic orders instead of all of them: `2 * (features - 1) + 2` predictions a row.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from models.dataset.matrix import Floats

TOLERANCE = 1e-9


def attribute(
    predict: Callable[[Floats], Floats], raw: Floats, typical: Floats
) -> tuple[Floats, float, Floats]:
    """Share out `predict(row) - predict(typical)`.

    Args:
        predict: Probabilities of shape `(n,)` for rows of shape `(n, features)`; called once.
        raw: Rows of shape `(rows, features)`.
        typical: The row to compare with, shape `(features,)`.

    Returns:
        The probabilities, shape `(rows,)`; that of the typical row; the effects, shape `(rows, features)`.

    Raises:
        ArithmeticError: the effects do not add up, which means that a prediction is not a number.
    """
    rows, features = raw.shape
    each = np.arange(features)
    # Step k of a walk has its first k features from the row, forwards or from behind, and the rest typical.
    own = each[None, :] < np.arange(1, features)[:, None]  # (features - 1, features)
    masks = np.concatenate([own, own[:, ::-1]]) if features > 1 else np.zeros((0, features), dtype=np.bool_)
    steps = np.where(masks[None, :, :], raw[:, None, :], typical[None, None, :])
    asked = np.concatenate([typical[None, :], raw, steps.reshape(-1, features)])
    answered = predict(asked)
    start, ends = float(answered[0]), answered[1 : rows + 1]
    between = answered[rows + 1 :].reshape(rows, 2, max(features - 1, 0))
    first, last = np.full((rows, 1), start), ends[:, None]
    forwards = np.diff(np.concatenate([first, between[:, 0], last], axis=1), axis=1)
    backwards = np.diff(np.concatenate([first, between[:, 1], last], axis=1), axis=1)[:, ::-1]
    effects = (forwards + backwards) / 2.0
    if not np.all(np.abs(start + effects.sum(axis=1) - ends) <= TOLERANCE):
        raise ArithmeticError("the effects of a prediction do not add up to it")
    return ends, start, effects
