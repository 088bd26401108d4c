from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest

from models.card import TrainedModel
from models.churn import ChurnModel, RiskPolicy, base_rate_answer
from models.matrix import Floats, Vector

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
    return _typical(model, days_since_last_campaign=21.0, spend_7d=0.0, active_weeks_4w=1.0)


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


def test_an_effect_is_the_difference_the_feature_makes(model: ChurnModel) -> None:
    vector = _idle(model)
    (drivers,) = model.explain([vector])
    assert drivers
    for driver in drivers:
        without = {**vector, driver.feature: driver.typical}
        expected = model.predict([vector])[0] - model.predict([without])[0]
        assert driver.effect == pytest.approx(expected)
    sizes = [abs(driver.effect) for driver in drivers]
    assert sizes == sorted(sizes, reverse=True)
    assert len(drivers) <= 3


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


def test_an_answer_says_how_sure_it_is(model: ChurnModel) -> None:
    answer = model.answer("a", _idle(model), AS_OF)
    assert answer.confidence == max(answer.probability, 1 - answer.probability)
    assert (answer.method, answer.model_version, answer.degraded) == ("model", "v1", False)
    assert answer.risk == RiskPolicy().band(answer.probability)
    assert model.answer("a", _idle(model), AS_OF, explain=False).drivers == []


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
