"""A fitted scikit-learn pipeline as a handful of array operations: the same numbers, without the cost of asking.

scikit-learn checks its input and walks its steps in Python at every call: one to two milliseconds for a row that takes
microseconds to compute. What a server needs of the candidates is little, so it is taken out once, at loading:

    impute ──► standardize ──► logistic: one product
                          └──► boosting: all splits of all trees at once ──bits──► the leaf of each tree ──► sum

A tree of k splits has at most 2^k outcomes of them; a table of so many values gives the leaf of each. Anything this
does not know, and anything that does not agree with scikit-learn on rows made up for the purpose, is left to
scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from models.dataset.matrix import Floats

Score = Callable[[Floats], Floats]
MAX_SPLITS = 8  # of one tree
TOLERANCE = 1e-9
_PROBES = 256
_AT_ONCE = 512  # rows; more leave the processor's cache and take longer each


def compile_score(estimator: Any, columns: int) -> Score:
    """The probability of churn for rows of shape `(n, columns)`, shape `(n,)`; equal to `predict_proba(rows)[:, 1]`."""
    plain = _plain(estimator)
    try:
        fast = _compiled(estimator)
        probes = _probes(columns)
        if not np.allclose(fast(probes), plain(probes), rtol=0.0, atol=TOLERANCE):
            return plain
    except (_UnknownError, AttributeError, TypeError, ValueError, IndexError, KeyError):
        return plain
    return fast


class _UnknownError(Exception):
    """A part this cannot take apart."""


def _plain(estimator: Any) -> Score:
    def score(rows: Floats) -> Floats:
        found: Floats = estimator.predict_proba(rows)[:, 1]
        return found

    return score


def _probes(columns: int) -> Floats:
    """Rows of every size and sign, with gaps; the same each time."""
    chance = np.random.default_rng(0)
    rows = chance.normal(0.0, 1.0, (_PROBES, columns)) * chance.choice([0.1, 1.0, 5.0, 15.0], (_PROBES, 1))
    probes: Floats = np.where(chance.random(rows.shape) < 0.1, np.nan, rows)
    return probes


def _compiled(estimator: Any) -> Score:
    kind = type(estimator).__name__
    if kind == "Pipeline":
        steps = [_step(step) for _, step in estimator.steps[:-1]]
        last = _compiled(estimator.steps[-1][1])

        def pipeline(rows: Floats) -> Floats:
            for step in steps:
                rows = step(rows)
            return last(rows)

        return pipeline
    parts: dict[str, Callable[[Any], Score]] = {
        "LogisticRegression": _logistic,
        "HistGradientBoostingClassifier": _boosting,
        "VotingClassifier": _voting,
    }
    if kind not in parts:
        raise _UnknownError(kind)
    return parts[kind](estimator)


def _step(step: Any) -> Score:
    kind = type(step).__name__
    if kind == "SimpleImputer":
        return _imputer(step)
    if kind == "StandardScaler":
        mean, scale = step.mean_, step.scale_
        return lambda rows: (rows - mean) / scale
    raise _UnknownError(kind)


def _imputer(step: Any) -> Score:
    filling = np.asarray(step.statistics_, dtype=np.float64)
    if np.isnan(filling).any() or not np.isnan(step.missing_values):
        raise _UnknownError("SimpleImputer")  # it would drop columns
    flagged = step.indicator_.features_ if step.add_indicator else None

    def impute(rows: Floats) -> Floats:
        missing = np.isnan(rows)
        filled = np.where(missing, filling, rows)
        return filled if flagged is None else np.concatenate([filled, missing[:, flagged]], axis=1)

    return impute


def _logistic(step: Any) -> Score:
    weights, level = step.coef_[0], float(step.intercept_[0])
    return lambda rows: _sigmoid(rows @ weights + level)


def _voting(step: Any) -> Score:
    if step.voting != "soft":
        raise _UnknownError("VotingClassifier")
    votes = [_compiled(one) for one in step.estimators_]
    shares = np.full(len(votes), 1.0) if step.weights is None else np.asarray(step.weights, dtype=np.float64)
    shares = shares / shares.sum()

    def score(rows: Floats) -> Floats:
        total: Floats = sum(
            (share * vote(rows) for share, vote in zip(shares, votes, strict=True)), np.zeros(len(rows))
        )
        return total

    return score


def _boosting(step: Any) -> Score:
    trees = [predictors[0].nodes for predictors in step._predictors]  # noqa: SLF001 (checked against the public way when loaded)
    prepared = step._preprocessor is not None  # noqa: SLF001
    if prepared or step.is_categorical_ is not None or len(step.classes_) != 2:
        raise _UnknownError("HistGradientBoostingClassifier")
    level = float(step._baseline_prediction[0, 0])  # noqa: SLF001
    splits = max(int((nodes["is_leaf"] == 0).sum()) for nodes in trees)
    if splits > MAX_SPLITS:
        raise _UnknownError("deep trees")
    feature = np.zeros((len(trees), splits), dtype=np.intp)
    threshold = np.full((len(trees), splits), np.inf)
    missing_left = np.zeros((len(trees), splits), dtype=np.bool_)
    leaves = np.zeros((len(trees), 2**splits))
    for number, nodes in enumerate(trees):
        inner = np.flatnonzero(nodes["is_leaf"] == 0)
        feature[number, : len(inner)] = nodes["feature_idx"][inner]
        threshold[number, : len(inner)] = nodes["num_threshold"][inner]
        missing_left[number, : len(inner)] = nodes["missing_go_to_left"][inner] == 1
        leaves[number] = _leaf_values(nodes, inner, splits)
    return _forest(feature.ravel(), threshold.ravel(), missing_left.ravel(), leaves, level)


def _leaf_values(nodes: npt.NDArray[Any], inner: npt.NDArray[Any], splits: int) -> Floats:
    """The value of the leaf for each pattern of "goes left", the first split being the highest bit."""
    place = {int(node): bit for bit, node in enumerate(inner)}
    values = np.empty(2**splits)
    for pattern in range(2**splits):
        node = 0
        while not nodes["is_leaf"][node]:
            left = pattern >> (splits - 1 - place[node]) & 1
            node = int(nodes["left" if left else "right"][node])
        values[pattern] = nodes["value"][node]
    return values


def _forest(
    feature: npt.NDArray[np.intp],
    threshold: Floats,
    missing_left: npt.NDArray[np.bool_],
    leaves: Floats,
    level: float,
) -> Score:
    trees, patterns = leaves.shape
    splits = len(feature) // trees
    bits = (1 << np.arange(splits - 1, -1, -1)).astype(np.float32)
    base, flat = np.arange(trees, dtype=np.intp) * patterns, leaves.ravel()

    def some(rows: Floats) -> Floats:
        values = rows[:, feature]
        left = values <= threshold
        if missing_left.any():
            left |= np.isnan(values) & missing_left
        pattern = left.reshape(-1, splits).astype(np.float32) @ bits
        found = flat[pattern.astype(np.intp).reshape(-1, trees) + base]
        return _sigmoid(found.sum(axis=1) + level)

    def score(rows: Floats) -> Floats:
        if len(rows) <= _AT_ONCE:
            return some(rows)
        return np.concatenate(
            [some(rows[start : start + _AT_ONCE]) for start in range(0, len(rows), _AT_ONCE)]
        )

    return score


def _sigmoid(values: Floats) -> Floats:
    found: Floats = 1.0 / (1.0 + np.exp(-values))
    return found
