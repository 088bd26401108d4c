from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec
import numpy as np
import pytest

from models.dataset.matrix import Floats, Vector
from models.evaluation.certification import Certificate
from models.prediction.churn import ChurnModel, RiskPolicy, base_rate_answer
from models.training.card import TrainedModel

AS_OF = datetime(2026, 11, 24, tzinfo=UTC)


class _Counting:
    """An estimator that counts its calls; the odds rise with the first column alone."""

    def __init__(self) -> None:
        self.calls = 0

    def predict_proba(self, rows: Floats) -> Floats:
        self.calls += 1
        risk = 1.0 / (1.0 + np.exp(1.0 - np.nan_to_num(rows[:, 0], nan=0.5)))
        return np.column_stack([1.0 - risk, risk])


@pytest.fixture
def counting(trained: TrainedModel) -> tuple[_Counting, ChurnModel]:
    estimator = _Counting()
    return estimator, ChurnModel(estimator, trained.card, "v1")


def _typical(model: ChurnModel, **changed: float | None) -> dict[str, float | None]:
    return {**model.card.typical, **changed}


def _idle(model: ChurnModel) -> Vector:
    return _typical(
        model,
        days_since_last_campaign=21.0,
        gap_ratio=3.0,
        spend_7d=0.0,
        spend_28d=20.0,
        spend_trend_28d=-0.9,
        active_weeks_4w=1.0,
    )


def test_rows_do_not_influence_each_other(model: ChurnModel) -> None:
    vectors = [_typical(model), _idle(model), {}]
    together = model.predict(vectors)
    assert together == pytest.approx([model.predict([vector])[0] for vector in vectors])
    assert all(0.0 <= probability <= 1.0 for probability in together)


def test_longer_silence_is_more_risk(model: ChurnModel) -> None:
    usual, silent = model.predict([_typical(model), _idle(model)])
    assert silent > 1.5 * usual


def test_nothing_asked_nothing_answered(model: ChurnModel) -> None:
    assert model.predict([]) == []
    assert model.explain([]) == []
    assert model.answers([], [], AS_OF) == []


def test_the_typical_advertiser_has_no_drivers(model: ChurnModel) -> None:
    assert model.explain([_typical(model)]) == [[]]


def test_what_drives_an_answer_adds_up_to_it(model: ChurnModel) -> None:
    vectors = [_idle(model), {}, _typical(model, spend_28d=1e6, tenure_days=None)]
    for answer in model.answers(["a", "b", "c"], vectors, AS_OF):
        assert answer.base_probability is not None
        assert answer.base_probability == pytest.approx(model.predict([model.card.typical])[0])
        told = sum(driver.effect for driver in answer.drivers)
        assert answer.base_probability + told + answer.other_effect == pytest.approx(
            answer.probability, abs=1e-9
        )
        sizes = [abs(driver.effect) for driver in answer.drivers]
        assert sizes == sorted(sizes, reverse=True)
        assert len(sizes) <= 3
    assert model.explain([_idle(model)])[0]


def test_the_sign_of_an_effect_is_its_direction(counting: tuple[_Counting, ChurnModel]) -> None:
    estimator, model = counting
    typical = {**model.card.typical, "days_since_last_campaign": 7.0}
    model = ChurnModel(estimator, msgspec.structs.replace(model.card, typical=typical), "v1")
    (raises,), (lowers,) = model.explain(
        [_typical(model, days_since_last_campaign=26.0), _typical(model, days_since_last_campaign=1.0)]
    )
    assert raises.effect > 0 > lowers.effect
    assert raises.text == "no campaign for 26 days; typical is 7 days"
    assert lowers.text == "no campaign for 1 day; typical is 7 days"


def test_an_undefined_feature_is_explained_as_such(counting: tuple[_Counting, ChurnModel]) -> None:
    _, model = counting
    (drivers,) = model.explain([_typical(model, days_since_last_campaign=None)])
    assert drivers[0].value is None
    assert drivers[0].text.startswith("days since last campaign is not known yet; typical is ")


def test_many_answers_cost_one_call(counting: tuple[_Counting, ChurnModel]) -> None:
    estimator, model = counting
    ids = [f"a{number}" for number in range(64)]
    answers = model.answers(ids, [_idle(model)] * 64, AS_OF)
    assert estimator.calls == 1
    assert [answer.advertiser_id for answer in answers] == ids
    model.answers(ids, [_idle(model)] * 64, AS_OF, explain=False)
    assert estimator.calls == 2


def _certified(
    model: ChurnModel, decision: Literal["churn", "stays"], threshold: float | None
) -> Certificate:
    return Certificate(
        decision=decision,
        threshold=threshold,
        precision_low=None if threshold is None else 0.83,
        precision=0.9,
        coverage=0.0 if threshold is None else 0.3,
        answered=40,
        accounts=40,
        confidence=0.95,
    )


def _with(model: ChurnModel, *certificates: Certificate) -> ChurnModel:
    card = msgspec.structs.replace(model.card, certificates=list(certificates))
    return ChurnModel(model._estimator, card, "v1")


def test_an_answer_is_given_only_where_its_precision_is_certified(model: ChurnModel) -> None:
    probability = model.predict([_idle(model)])[0]
    sure = _with(model, _certified(model, "churn", probability - 1e-6), _certified(model, "stays", 1e-6))
    answer = sure.answer("a", _idle(model), AS_OF)
    assert (answer.decision, answer.threshold) == ("churn", probability - 1e-6)
    assert (answer.certified_precision, answer.coverage) == (0.83, 0.6)
    assert answer.calibrated_at == model.card.calibration_cutoffs[-1]
    assert (answer.method, answer.model_version, answer.degraded) == ("model", "v1", False)
    assert answer.risk == RiskPolicy().band(answer.probability)

    between = _with(model, _certified(model, "churn", probability + 1e-6), _certified(model, "stays", None))
    answer = between.answer("a", _idle(model), AS_OF)
    assert (answer.decision, answer.threshold, answer.certified_precision) == ("abstain", None, None)
    assert answer.coverage == 0.3


def test_without_drivers_there_is_nothing_to_add_up(model: ChurnModel) -> None:
    answer = model.answer("a", _idle(model), AS_OF, explain=False)
    assert (answer.drivers, answer.base_probability, answer.other_effect) == ([], None, 0.0)


def test_ids_and_vectors_must_match(model: ChurnModel) -> None:
    with pytest.raises(ValueError, match="shorter"):
        model.answers(["a", "b"], [{}], AS_OF)


@pytest.mark.parametrize(
    ("probability", "risk"), [(0.0, "low"), (0.29, "low"), (0.3, "medium"), (0.6, "high"), (1.0, "high")]
)
def test_risk_bands(probability: float, risk: str) -> None:
    assert RiskPolicy().band(probability) == risk


def test_the_base_rate_is_marked_degraded(model: ChurnModel) -> None:
    answer = model.base_rate_answer("a", AS_OF, "features are not available")
    assert answer == base_rate_answer(
        "a", model.card.base_rate, AS_OF, "features are not available", "v1", RiskPolicy()
    )
    assert answer.degraded
    assert answer.method == "base_rate"
    assert answer.probability == model.card.base_rate
    assert answer.degraded_reason == "features are not available"
    assert (answer.decision, answer.certified_precision) == ("abstain", None)
