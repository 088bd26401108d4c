"""What replicas observe of two models on the same requests, as counts: they add up, in any order, from any replica.

| count                     | counts                                                                    |
|---------------------------|---------------------------------------------------------------------------|
| `diff:{k}`                | rows where judged minus reference lies in the k-th step of 0.004          |
| `judged:{k}`, `reference:{k}` | rows whose probability lies in the k-th twentieth                     |
| `empty:{name}`            | rows in which an input is 0 or not known; `rows` how many there were      |
| `stale`, `fresh`          | rows whose features were older than they should be, or not                |
| `error:{who}`, `slow:{who}` | calls by who failed, or took too long: `judged`, `reference`, `both`, `none` |
| `late`, `in_time`         | answers the judged one owed to a request, by whether its deadline passed  |
| `ms_judged:{k}`, `ms_reference:{k}` | calls that took up to 2^(k/2) ms                                 |
| `label:{k}`               | matured labels: the judged one's squared error minus the reference's, in such steps |
| `dropped`                 | rows not looked at, because the queue was full                            |

So a few hundred numbers hold any amount of traffic.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

DIFF_STEPS = 250  # a step is 0.004 wide: wider ones cost power where advertisers are few
SCORE_STEPS = 20
MS_STEPS = 40  # up to 2^20 ms


class Observations:
    """Counts since it was made."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def pair(self, judged: float, reference: float, *, stale: bool) -> None:
        """Two probabilities for the same row."""
        counts = self._counts
        counts[f"diff:{_step(judged - reference)}"] += 1
        counts[f"judged:{score_step(judged)}"] += 1
        counts[f"reference:{score_step(reference)}"] += 1
        counts["stale" if stale else "fresh"] += 1

    def inputs(self, names: Sequence[str], empty: Sequence[float], rows: int) -> None:
        """How many rows there were, and in how many each input was empty."""
        self._counts["rows"] += rows
        for name, count in zip(names, empty, strict=True):
            if count:
                self._counts[f"empty:{name}"] += int(count)

    def call(self, judged_ms: float | None, reference_ms: float | None, *, slow_ms: float) -> None:
        """Both models called with the same rows. None: it failed."""
        self._counts[f"error:{_who(judged_ms is None, reference_ms is None)}"] += 1
        if judged_ms is None or reference_ms is None:
            return
        self._counts[f"slow:{_who(judged_ms > slow_ms, reference_ms > slow_ms)}"] += 1
        self._counts[f"ms_judged:{_ms_step(judged_ms)}"] += 1
        self._counts[f"ms_reference:{_ms_step(reference_ms)}"] += 1

    def answered(self, *, failed: bool = False, late: bool = False) -> None:
        """The judged one was to answer a request, alone. Every one counts, or the share of faults would be wrong."""
        self._counts["late" if late else "in_time"] += 1
        if not late:
            self._counts["error:judged" if failed else "error:none"] += 1

    def label(self, judged: float, reference: float, *, churned: bool) -> None:
        """What became of an advertiser both models had answered for."""
        gained = (judged - churned) ** 2 - (reference - churned) ** 2
        self._counts[f"label:{_step(gained)}"] += 1

    def drop(self, rows: int) -> None:
        """Rows not looked at."""
        self._counts["dropped"] += rows

    def counts(self) -> dict[str, int]:
        """A copy."""
        return dict(self._counts)


def steps(counts: Mapping[str, int], name: str) -> Iterator[tuple[int, int]]:
    """Step and count of one histogram."""
    for field, count in counts.items():
        kind, _, step = field.partition(":")
        if kind == name:
            yield int(step), count


def by_who(counts: Mapping[str, int], name: str) -> Mapping[str, int]:
    """Calls by whom something happened to: `judged` or `reference` alone, `both`, `none`."""
    return {who: counts.get(f"{name}:{who}", 0) for who in ("judged", "reference", "both", "none")}


def score_step(probability: float) -> int:
    """The twentieth a probability lies in."""
    return min(SCORE_STEPS - 1, max(0, int(probability * SCORE_STEPS)))


def edges(step: int) -> tuple[float, float]:
    """The lower and the upper edge of a step of differences."""
    return step / DIFF_STEPS, (step + 1) / DIFF_STEPS


def ms_edge(step: int) -> float:
    """The upper edge of a step of times, ms."""
    return float(2 ** (step / 2))


def _who(judged: bool, reference: bool) -> str:
    if judged and reference:
        return "both"
    return "judged" if judged else "reference" if reference else "none"


def _step(difference: float) -> int:
    return max(-DIFF_STEPS, min(DIFF_STEPS - 1, math.floor(difference * DIFF_STEPS)))


def _ms_step(took_ms: float) -> int:
    return min(MS_STEPS, max(0, math.ceil(2 * math.log2(max(took_ms, 1.0)))))
