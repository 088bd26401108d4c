from __future__ import annotations

import pytest

from models.dataset.inputs import INPUTS
from models.prediction.drivers import PHRASES, counted, driver_text, number, trend


def test_every_feature_has_a_phrase() -> None:
    assert set(PHRASES) == set(INPUTS)


@pytest.mark.parametrize(
    ("name", "value", "typical", "text"),
    [
        ("days_since_last_campaign", 26.0, 7.0, "no campaign for 26 days; typical is 7 days"),
        ("days_since_last_campaign", 1.0, 0.0, "no campaign for 1 day; typical is 0 days"),
        ("spend_28d", 12345.6, 900.0, "spent 12,346 in 28 days; typical is 900"),
        ("spend_trend_28d", -0.5, 0.0, "spend down 67% on the 28 days before; typical is unchanged"),
        ("spend_trend_84d", -1.0, 1.0, "spend stopped on the 84 days before; typical is new"),
        ("mean_gap_weeks", None, 1.0, "mean gap weeks is not known yet; typical is 1 week"),
        ("gap_ratio", 2.5, None, "the current gap is 2.5 times its usual one"),
        ("something_new", 3.0, 1.0, "something new is 3; typical is 1"),
    ],
)
def test_a_driver_reads_as_a_sentence(
    name: str, value: float | None, typical: float | None, text: str
) -> None:
    assert driver_text(name, value, typical) == text


def test_numbers_are_short() -> None:
    assert [number(value) for value in (0.0, 0.04, 1.0, 1.25, 9.96, 10.4, 1e6)] == [
        "0",
        "0",
        "1",
        "1.2",
        "10",
        "10",
        "1,000,000",
    ]
    assert counted(1.0, "week") == "1 week"
    assert trend(0.2) == "up 50%"
