"""Where the data ends: with all that is usual of it, without a few dated far ahead."""

from __future__ import annotations

import math

import numpy as np
import pytest

from features.newest import newest_events
from features.online.as_of import as_of_view

DAY_S = 86_400.0
END = 18_000 * DAY_S
TODAY = 20_500 * DAY_S


def ending(*days_before_end: float) -> np.ndarray:
    return END - DAY_S * np.array(days_before_end)


def test_nothing_has_no_end() -> None:
    assert newest_events(np.array([])) is None


@pytest.mark.parametrize("advertisers", [5, 20, 99, 1_000])
def test_one_record_dated_today_moves_nobody(advertisers: int) -> None:
    found = newest_events(np.append(ending(*np.linspace(0, 60, advertisers)), TODAY))
    assert found is not None
    assert (found.moment, found.newest, found.ahead) == (END, TODAY, 1)


def test_of_many_one_in_a_hundred_may_be_ahead_and_more_are_the_data() -> None:
    days = np.linspace(0, 60, 990)
    few = newest_events(np.append(ending(*days), [TODAY] * 9))
    many = newest_events(np.append(ending(*days), [TODAY] * 11))
    assert few is not None
    assert many is not None
    assert (few.moment, few.ahead) == (END, 9)
    assert (many.moment, many.ahead) == (TODAY, 0)


def test_an_advertiser_a_week_ahead_is_part_of_the_data() -> None:
    found = newest_events(np.append(ending(7.0, 30, 30, 30, 30, 30), END))
    assert found is not None
    assert (found.moment, found.ahead) == (END, 0)


def test_with_a_handful_of_advertisers_the_newest_event_counts() -> None:
    found = newest_events(np.append(ending(0.0, 1, 2), TODAY))
    assert found is not None
    assert (found.moment, found.bound, found.ahead) == (TODAY, math.inf, 0)


def test_now_is_said_with_its_reason() -> None:
    data = newest_events(np.append(ending(1.5, 2, 3, 4, 5), TODAY))
    latest = as_of_view("latest", data, TODAY + 60)
    assert (latest.moment, latest.newest_event, latest.ahead) == (END - DAY_S, TODAY, 1)
    assert as_of_view("now", data, TODAY + 60).moment == TODAY + 60
    assert as_of_view("latest", None, TODAY).moment == TODAY
    assert as_of_view("1970-01-02T00:00:00Z", data, TODAY).moment == DAY_S
