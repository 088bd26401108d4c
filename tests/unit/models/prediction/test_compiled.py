from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from models.dataset.matrix import Floats
from models.prediction.compiled import compile_score

COLUMNS = 6


def data(rows: int, seed: int = 3) -> tuple[Floats, Floats]:
    chance = np.random.default_rng(seed)
    raw = chance.normal(0.0, 2.0, (rows, COLUMNS))
    churned = (raw[:, 0] + chance.normal(0.0, 1.0, rows) > 0.5).astype(np.float64)
    raw[chance.random(raw.shape) < 0.15] = np.nan
    return raw, churned


def trees(leaves: int = 4) -> Any:
    return HistGradientBoostingClassifier(
        max_leaf_nodes=leaves, max_iter=40, early_stopping=False, random_state=1
    )


PREPARED = [
    ("impute", SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)),
    ("standardize", StandardScaler()),
]
BLEND = VotingClassifier([("a", LogisticRegression()), ("b", trees())], voting="soft", weights=[1.0, 3.0])


@pytest.mark.parametrize(
    "steps",
    [
        [*PREPARED, ("classify", LogisticRegression())],
        [("classify", trees())],
        [*PREPARED, ("classify", BLEND)],
    ],
    ids=["logistic", "boosting", "blend"],
)
@pytest.mark.parametrize("rows", [1, 7, 2_000])
def test_it_gives_the_numbers_scikit_learn_gives(steps: list[tuple[str, Any]], rows: int) -> None:
    fitted = Pipeline(steps).fit(*data(800))
    score = compile_score(fitted, COLUMNS)
    assert "_plain" not in score.__qualname__
    asked, _ = data(rows, seed=9)
    np.testing.assert_allclose(score(asked), fitted.predict_proba(asked)[:, 1], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "steps",
    [
        [("impute", SimpleImputer(strategy="median")), ("classify", GaussianNB())],
        [("classify", trees(leaves=31))],
        [*PREPARED, ("classify", VotingClassifier([("a", trees(31))], voting="soft"))],
    ],
    ids=["unknown", "deep trees", "deep trees within"],
)
def test_what_it_does_not_know_is_left_to_scikit_learn(steps: list[tuple[str, Any]]) -> None:
    fitted = Pipeline(steps).fit(*data(800))
    score = compile_score(fitted, COLUMNS)
    assert "_plain" in score.__qualname__
    asked, _ = data(5, seed=9)
    np.testing.assert_array_equal(score(asked), fitted.predict_proba(asked)[:, 1])


def test_what_does_not_agree_is_left_to_scikit_learn() -> None:
    class Turned(LogisticRegression):  # type: ignore[misc]
        def predict_proba(self, rows: Floats) -> Floats:
            found: Floats = super().predict_proba(rows)[:, ::-1]
            return found

    Turned.__name__ = "LogisticRegression"
    raw, churned = data(300)
    fitted = Turned().fit(np.nan_to_num(raw), churned)
    score = compile_score(Pipeline([("impute", SimpleImputer().fit(raw)), ("classify", fitted)]), COLUMNS)
    assert "_plain" in score.__qualname__
