from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.telemetry.latency import FLOOR_MS, MAX_BUCKET, bucket_of, midpoint_ms, quantile_ms, tally

LATENCIES = st.lists(st.floats(FLOOR_MS, 600_000), min_size=1, max_size=200)
QUANTILES = st.floats(0, 1)


@given(LATENCIES, QUANTILES)
def test_a_quantile_is_within_five_percent_of_the_true_one(latencies: list[float], q: float) -> None:
    true = sorted(latencies)[max(1, math.ceil(q * len(latencies))) - 1]
    found = quantile_ms(tally(Counter(latencies)), q)
    assert found == pytest.approx(true, rel=0.05, abs=0.001)


@given(LATENCIES, LATENCIES, QUANTILES)
def test_merged_histograms_are_the_histogram_of_all(a: list[float], b: list[float], q: float) -> None:
    merged = tally(Counter(a)) + tally(Counter(b))
    assert merged == tally(Counter(a + b))
    assert quantile_ms(merged, q) == quantile_ms(tally(Counter(b + a)), q)


@given(LATENCIES, QUANTILES, QUANTILES)
def test_a_higher_quantile_is_no_shorter(latencies: list[float], a: float, b: float) -> None:
    low, high = (
        quantile_ms(tally(Counter(latencies)), min(a, b)),
        quantile_ms(tally(Counter(latencies)), max(a, b)),
    )
    assert low is not None
    assert high is not None
    assert low <= high


@given(st.floats(-1e9, 1e12), st.floats(-1e9, 1e12))
def test_longer_latencies_fall_into_no_lower_bucket(a: float, b: float) -> None:
    assert 0 <= bucket_of(min(a, b)) <= bucket_of(max(a, b)) <= MAX_BUCKET


def test_a_bucket_holds_its_own_midpoint() -> None:
    assert [bucket_of(midpoint_ms(bucket)) for bucket in range(MAX_BUCKET + 1)] == list(range(MAX_BUCKET + 1))


def test_the_histogram_reaches_beyond_ten_minutes() -> None:
    assert bucket_of(600_000) < MAX_BUCKET


def test_nothing_counted_has_no_quantile() -> None:
    assert quantile_ms({}, 0.5) is None
    assert quantile_ms({3: 0}, 0.5) is None


def test_counts_weigh() -> None:
    counts = {bucket_of(1.0): 99, bucket_of(1000.0): 1}
    assert quantile_ms(counts, 0.99) == pytest.approx(1.0, rel=0.05)
    assert quantile_ms(counts, 0.991) == pytest.approx(1000.0, rel=0.05)
