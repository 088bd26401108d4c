"""A mergeable latency histogram with a bounded relative error.

Buckets grow by 10%, from 0.1 ms to beyond ten minutes: about 165 of them. A quantile read from it is within 5%
of the true one. Histograms of several consumers merge by adding counts, which is what a Redis hash of counters
does by itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

FLOOR_MS = 0.1
GROWTH = 1.1
_LOG_GROWTH = math.log(GROWTH)
MAX_BUCKET = 170


def bucket_of(latency_ms: float) -> int:
    """The bucket a latency (ms) falls into, 0 to `MAX_BUCKET`."""
    if latency_ms <= FLOOR_MS:
        return 0
    return min(MAX_BUCKET, 1 + int(math.log(latency_ms / FLOOR_MS) / _LOG_GROWTH))


def midpoint_ms(bucket: int) -> float:
    """The latency (ms) that stands for a bucket: its geometric middle."""
    if bucket == 0:
        return FLOOR_MS
    return float(FLOOR_MS * GROWTH ** (bucket - 0.5))


def tally(latencies_ms: Mapping[float, int]) -> Counter[int]:
    """Counts by bucket, from how often each latency (ms) was seen."""
    counts: Counter[int] = Counter()
    for latency_ms, number in latencies_ms.items():
        counts[bucket_of(latency_ms)] += number
    return counts


def quantile_ms(counts: Mapping[int, int], q: float) -> float | None:
    """The `q`-quantile (0 to 1) in ms, or None when nothing was counted."""
    total = sum(counts.values())
    if total <= 0:
        return None
    rank = max(1, math.ceil(q * total))
    seen = 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= rank:
            return round(midpoint_ms(bucket), 3)
    return None


# Four buckets make one step of the exported histogram: 43 steps, each bound within 0.05% of the true one.
STEP = 4
STEPS = tuple(range(0, MAX_BUCKET, STEP))
BOUNDS = tuple(f"{FLOOR_MS * GROWTH**bucket / 1000:.4g}" for bucket in STEPS)  # upper bounds, in seconds


def cumulate(counts: Mapping[int, int]) -> list[int]:
    """How many were at most as long as each of `BOUNDS`."""
    return [sum(number for bucket, number in counts.items() if bucket <= step) for step in STEPS]


def total_ms(counts: Mapping[int, int]) -> float:
    """The sum of all latencies (ms), each taken for its bucket's middle."""
    return sum(midpoint_ms(bucket) * number for bucket, number in counts.items())
