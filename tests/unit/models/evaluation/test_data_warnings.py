"""What an evaluation says about its data: each sentence when it applies, and not otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import pytest

from features.offline.point_in_time import event_frame
from models.dataset.labels import DAY_S, WEEK_S, LabelPolicy
from models.evaluation.data_warnings import cautions, holes, returned
from tocsin.wire.activity import Activity

POLICY = LabelPolicy()
START = pd.Timestamp("2024-01-01", tz="UTC").timestamp()
WEEKLY = [START + week * WEEK_S for week in range(40)]
CUTOFFS = WEEKLY[8:28]


@dataclass
class _Ranks:
    auc: float


@dataclass
class _Found:
    """As much of an evaluation as is looked at."""

    model: _Ranks
    baseline: _Ranks
    logistic: _Ranks


def _log(times: dict[str, list[float]], currency: str = "") -> pd.DataFrame:
    return event_frame(
        Activity(name, at, 1.0, "spend", f"{at}", currency=currency)
        for name, moments in times.items()
        for at in moments
    )


def _said(events: pd.DataFrame, recency: float = 0.7, logistic: float = 0.7) -> list[str]:
    found = _Found(_Ranks(0.8), _Ranks(recency), _Ranks(logistic))
    return cautions(events, CUTOFFS, POLICY, found)  # type: ignore[arg-type]


def test_of_ordinary_data_nothing_is_said() -> None:
    assert _said(_log({"a": WEEKLY, "b": WEEKLY[:12]})) == []


def test_a_stretch_without_anything_is_named() -> None:
    stray = pd.Timestamp("2031-01-01", tz="UTC").timestamp()
    (told,) = holes(_log({"a": [*WEEKLY, stray]}), POLICY)
    assert told.startswith("nothing at all happens from 2024-09-30 to 2031-01-01")
    assert holes(_log({"a": [0.0, POLICY.horizon_s]}), POLICY) == []  # a pause as long as the window is none


def test_those_who_come_back_after_their_label_window_are_counted() -> None:
    pauses = [
        START + day * DAY_S for day in range(0, 280, 40)
    ]  # seen every 40 days: always gone, always back
    log = _log({"a": WEEKLY, "slow": pauses})
    assert returned(log, CUTOFFS, POLICY) == 1.0
    (told,) = _said(log)
    assert told.startswith("100% of those counted as churned came back later, so 28 days are shorter")
    gone = _log({"a": WEEKLY, "b": WEEKLY[:12]})
    assert returned(gone, CUTOFFS, POLICY) == 0.0
    assert returned(_log({"a": WEEKLY}), CUTOFFS, POLICY) is None


def test_several_currencies_and_better_baselines_are_named() -> None:
    log = pd.concat([_log({"a": WEEKLY}, "EUR"), _log({"b": WEEKLY}, "USD")])
    currencies, recency, logistic = _said(log, 0.9, 0.85)
    assert "EUR, USD" in currencies
    assert recency.startswith("recency alone ranks better here: AUC 0.900 against 0.800")
    assert logistic.startswith("a plain logistic regression ranks better here: AUC 0.850")


@pytest.mark.parametrize("close", [0.8, 0.8004])
def test_a_tie_is_no_loss(close: float) -> None:
    assert _said(_log({"a": WEEKLY, "b": WEEKLY[:12]}), logistic=close) == []


def test_a_record_dated_far_ahead_is_told_and_left_out_of_the_end() -> None:
    events = _log({f"a{at}": WEEKLY for at in range(9)} | {"stray": [START + 2_000 * DAY_S]})
    told, hole = _said(events)
    assert told.startswith("1 of 10 advertisers have events up to 2029-06-23, over 7 days after all others")
    assert hole.startswith("nothing at all happens from 2024-09-30")
