"""A loaded churn model: probabilities, what drives them, and answers as they go over the wire."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec
import numpy as np

from models.dataset.matrix import Floats, Vector, calibrate, scale, to_raw
from models.evaluation.certification import Decision, decide
from models.prediction.attribution import attribute
from models.prediction.compiled import compile_score
from models.prediction.drivers import driver_text
from models.training.card import ModelCard
from tocsin.wire.churn import ChurnAnswer, Driver

Risk = Literal["low", "medium", "high"]
TOP_DRIVERS = 3
_SLIGHT = 0.001  # an effect below a tenth of a percent is no driver


@dataclass(frozen=True, slots=True)
class Explained:
    """A prediction and how it comes about: `base`, the drivers' effects and `others` add up to `probability`."""

    probability: float
    base: float | None  # of the typical advertiser; None: not explained
    drivers: list[Driver]
    others: float


@dataclass(frozen=True, slots=True)
class RiskPolicy:
    """From which probability the risk is medium, and from which it is high."""

    medium: float = 0.3
    high: float = 0.6

    def band(self, probability: float) -> Risk:
        """The risk in a word."""
        if probability >= self.high:
            return "high"
        return "medium" if probability >= self.medium else "low"


class ChurnModel:
    """One version of the model, ready to answer. Holds no state between calls.

    Args:
        estimator: Fitted, with `predict_proba`; columns as in the card, on the scale of `models.dataset.matrix.scale`.
        card: How it was made.
        version: Its name in the registry.
        policy: Risk bands.
    """

    def __init__(
        self, estimator: Any, card: ModelCard, version: str, policy: RiskPolicy | None = None
    ) -> None:
        self.card = card
        self.version = version
        self.policy = policy or RiskPolicy()
        self._names = tuple(card.feature_names)
        self._typical = to_raw([card.typical], self._names)[0]
        self._estimator = estimator
        self._score = compile_score(estimator, len(self._names))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The features it needs, in the order of its columns."""
        return self._names

    def predict(self, vectors: Sequence[Vector]) -> list[float]:
        """Calibrated probability of churn for each vector, in order; one call of the estimator.

        A feature that is None or absent counts as not defined.
        """
        if not vectors:
            return []
        return [float(p) for p in self._predict(to_raw(vectors, self._names))]

    def probabilities(self, raw: Floats) -> Floats:
        """Calibrated probabilities, shape `(n,)`, of rows of shape `(n, inputs)`; NaN: not defined."""
        return self._predict(raw)

    def explain(self, vectors: Sequence[Vector], top: int = TOP_DRIVERS) -> list[list[Driver]]:
        """The features that move each prediction most, strongest first.

        A driver's effect is its share of the difference to the typical advertiser's probability, see
        `models.prediction.attribution`; positive effects raise the risk.
        """
        if not vectors:
            return []
        return [explained.drivers for explained in self._explained(to_raw(vectors, self._names), top)]

    def answers(
        self,
        advertiser_ids: Sequence[str],
        vectors: Sequence[Vector],
        as_of: datetime,
        *,
        explain: bool = True,
    ) -> list[ChurnAnswer]:
        """An answer for each advertiser, in order; one call of the estimator for all, drivers included."""
        return self.answer_rows(advertiser_ids, to_raw(vectors, self._names), as_of, explain=explain)

    def answer_rows(
        self,
        advertiser_ids: Sequence[str],
        raw: Floats,
        as_of: datetime,
        *,
        explain: bool = True,
        ages_s: Sequence[float | None] = (),
    ) -> list[ChurnAnswer]:
        """The same for rows of shape `(n, inputs)`; NaN: not defined. `ages_s`: how old what is known of each is."""
        if not len(raw):
            explained: list[Explained] = []
        elif explain:
            explained = self._explained(raw, TOP_DRIVERS)
        else:
            explained = [Explained(float(probability), None, [], 0.0) for probability in self._predict(raw)]
        decisions = decide(np.array([one.probability for one in explained]), self.card.certificates)
        return [
            self._answer(advertiser_id, one, decision, as_of, age_s)
            for advertiser_id, one, decision, age_s in zip(
                advertiser_ids, explained, decisions, ages_s or [None] * len(explained), strict=True
            )
        ]

    def answer(
        self, advertiser_id: str, vector: Vector, as_of: datetime, *, explain: bool = True
    ) -> ChurnAnswer:
        """The answer for one advertiser."""
        return self.answers([advertiser_id], [vector], as_of, explain=explain)[0]

    def base_rate_answer(self, advertiser_id: str, as_of: datetime, reason: str) -> ChurnAnswer:
        """A degraded answer where the features are missing: the usual share of churn in training."""
        return base_rate_answer(advertiser_id, self.card.base_rate, as_of, reason, self.version, self.policy)

    def _answer(
        self,
        advertiser_id: str,
        explained: Explained,
        decision: Decision,
        as_of: datetime,
        features_age_s: float | None,
    ) -> ChurnAnswer:
        certificates = self.card.certificates
        given = next((side for side in certificates if side.decision == decision), None)
        return ChurnAnswer(
            advertiser_id=advertiser_id,
            probability=explained.probability,
            risk=self.policy.band(explained.probability),
            drivers=explained.drivers,
            as_of=as_of,
            method="model",
            model_version=self.version,
            decision=decision,
            threshold=given.threshold if given else None,
            certified_precision=given.precision_low if given else None,
            coverage=sum(side.coverage for side in certificates),
            calibrated_at=self.card.calibrated_at,
            features_age_s=features_age_s,
            base_probability=explained.base,
            other_effect=explained.others,
        )

    def _predict(self, raw: Floats) -> Floats:
        """Raises ArithmeticError where one is no number: better no answer than that."""
        found = calibrate(
            self._score(scale(raw)), self.card.calibration.slope, self.card.calibration.intercept
        )
        if not np.isfinite(found).all():
            raise ArithmeticError(f"churn model {self.version} predicts what is no number")
        return found

    def _explained(self, raw: Floats, top: int) -> list[Explained]:
        """Predictions with their strongest drivers, in order; one call of the estimator.

        Raises:
            ArithmeticError: the effects do not add up to a prediction.
        """
        probabilities, base, effects = attribute(self._predict, raw, self._typical)
        strongest = np.argsort(-np.abs(effects), axis=1, kind="stable")[:, :top]
        found = []
        for row, columns in enumerate(strongest):
            shown = [int(column) for column in columns if abs(effects[row, column]) >= _SLIGHT]
            found.append(
                Explained(
                    probability=float(probabilities[row]),
                    base=base,
                    drivers=[
                        self._driver(column, float(raw[row, column]), float(effects[row, column]))
                        for column in shown
                    ],
                    others=float(effects[row].sum() - effects[row, shown].sum()),
                )
            )
        return found

    def _driver(self, column: int, value: float, effect: float) -> Driver:
        name = self._names[column]
        known = None if np.isnan(value) else value
        typical = self.card.typical.get(name)
        return Driver(
            feature=name, value=known, typical=typical, effect=effect, text=driver_text(name, known, typical)
        )


# A logistic regression on days since the last campaign alone, over the weekly cutoffs of the public Google political
# ads spend, 28 days ahead. A rule of thumb for where there is no model: it ranks well and its level is of that data.
RECENCY_LEVEL, RECENCY_SLOPE = -1.85, 0.27


def recency_answers(
    advertiser_ids: Sequence[str],
    days_since: Sequence[float | None],
    as_of: datetime,
    reason: str,
    policy: RiskPolicy | None = None,
) -> list[ChurnAnswer]:
    """What stands in for a model that is missing: the longer nothing happened, the likelier it is over.

    Args:
        advertiser_ids: Whom it is about.
        days_since: Days without activity; None counts as none.
        as_of: The moment asked about.
        reason: Why there is nothing better.
        policy: Risk bands.
    """
    found = []
    for advertiser_id, days in zip(advertiser_ids, days_since, strict=True):
        probability = 1.0 / (1.0 + math.exp(-(RECENCY_LEVEL + RECENCY_SLOPE * (days or 0.0))))
        answer = base_rate_answer(advertiser_id, probability, as_of, reason, "", policy)
        found.append(msgspec.structs.replace(answer, method="recency"))
    return found


def base_rate_answer(
    advertiser_id: str,
    base_rate: float,
    as_of: datetime,
    reason: str,
    model_version: str = "",
    policy: RiskPolicy | None = None,
) -> ChurnAnswer:
    """The last rung of the ladder: the same probability for everybody, marked degraded.

    Args:
        advertiser_id: Whom it is about.
        base_rate: Share that churned in training, 0 to 1.
        as_of: The moment asked about.
        reason: Why nothing better could be said.
        model_version: The model the rate comes from, if any.
        policy: Risk bands.
    """
    return ChurnAnswer(
        advertiser_id=advertiser_id,
        probability=base_rate,
        risk=(policy or RiskPolicy()).band(base_rate),
        drivers=[],
        as_of=as_of,
        method="base_rate",
        model_version=model_version,
        degraded=True,
        degraded_reason=reason,
    )
