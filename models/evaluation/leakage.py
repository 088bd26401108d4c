"""The leakage gate: four questions a model must answer before it may serve. Each has a named finding.

| finding | question | blocks when |
|---|---|---|
| `future-shuffle` | do features at a moment change when only the future is shuffled? | any value differs |
| `label-permutation` | is something found where there is nothing to find? | AUC on permuted labels is not 0.5 |
| `ceiling` | is the result too good for this question? | the AUC on rolling cutoffs is 0.95 or more |
| `train-serve-skew` | does the store serve what was trained on? | any value differs |

The first three are asked in every training and stand in the card; the fourth needs a store and is asked at promotion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from msgspec import Struct

from models.dataset.matrix import Floats
from models.evaluation.measures import auc

CEILING = 0.95
PERMUTATIONS = 3
SHUFFLED_CUTOFFS = 3
_TOLERANCE = 1e-9  # relative: features are the same arithmetic on the same events


class Finding(Struct, frozen=True, kw_only=True):
    """One check of the gate. `measured` and `limit` are in the check's own unit, as `text` says."""

    name: str
    passed: bool
    measured: float
    limit: float
    text: str


FeaturesAt = Callable[[pd.DataFrame, pd.DataFrame], Floats]
FitAndScore = Callable[[Floats], Floats]


def future_shuffle(
    events: pd.DataFrame, cutoffs: Sequence[float], features_at: FeaturesAt, seed: int
) -> Finding:
    """Shuffle when and for how much things happen after a cutoff; features must not move.

    Args:
        events: columns of `features.event_table.SCHEMA`.
        cutoffs: seconds since the epoch; the first, the middle and the last are tried.
        features_at: features of shape `(rows, features)` for events and entities (`advertiser_id`, `as_of`).
        seed: of the shuffle.
    """
    rng = np.random.default_rng(seed)
    picked = sorted({cutoffs[at] for at in np.linspace(0, len(cutoffs) - 1, SHUFFLED_CUTOFFS).astype(int)})
    rows = moved = 0
    for cutoff in picked:
        past = events[events["event_time"] < cutoff]
        entities = pd.DataFrame({"advertiser_id": past["advertiser_id"].unique(), "as_of": float(cutoff)})
        before = features_at(events, entities)
        after = features_at(_shuffled(events, cutoff, rng), entities)
        rows += len(entities)
        moved += int(_differing(before, after).any(axis=1).sum())
    return Finding(
        name="future-shuffle",
        passed=moved == 0,
        measured=float(moved),
        limit=0.0,
        text=f"{moved} of {rows} feature rows at {len(picked)} cutoffs changed when only later events were shuffled",
    )


def label_permutation(
    churned: Floats,
    as_of: Floats,
    judged: npt.NDArray[np.bool_],
    fit_and_score: FitAndScore,
    seed: int,
) -> Finding:
    """Permute the labels within each week, learn again, and judge on permuted labels: the AUC must be 0.5.

    Args:
        churned: 0 or 1, shape `(rows,)`, of all rows.
        as_of: their weeks, shape `(rows,)`.
        judged: which rows are judged, shape `(rows,)`.
        fit_and_score: given the labels of all rows, learns as the training does; returns scores of the rows `judged`.
        seed: of the permutations.
    """
    rng = np.random.default_rng(seed)
    found, variance = [], 0.0
    for _ in range(PERMUTATIONS):
        permuted = churned.copy()
        for week in np.unique(as_of):
            inside = np.flatnonzero(as_of == week)
            permuted[inside] = permuted[rng.permutation(inside)]
        area, spread = _within_weeks(permuted[judged], fit_and_score(permuted), as_of[judged])
        found.append(area)
        variance += spread
    mean = float(np.mean(found))
    limit = 0.01 + 4.0 * float(np.sqrt(variance)) / PERMUTATIONS
    return Finding(
        name="label-permutation",
        passed=abs(mean - 0.5) <= limit,
        measured=mean,
        limit=limit,
        text=f"mean AUC {mean:.3f} over {PERMUTATIONS} permutations of the labels; 0.5 within {limit:.3f} is chance",
    )


def ceiling(
    found: float,
    limit: float = CEILING,
    *,
    judged_on: str = "later weeks",
    doubt: str = "whether an advertiser comes back within weeks is not that predictable",
) -> Finding:
    """An AUC this high has another explanation than a good model; `doubt` says why, on rows of `judged_on`."""
    passed = bool(found < limit)
    explained = (
        ""
        if passed
        else (
            f": {doubt}, so a feature knows the answer. "
            "Look for one that is computed after the cutoff or follows from the label"
        )
    )
    return Finding(
        name="ceiling",
        passed=passed,
        measured=found,
        limit=limit,
        text=f"AUC {found:.3f} on {judged_on}, {'below' if passed else 'not below'} {limit}{explained}",
    )


def train_serve_skew(compared: int, mismatches: Mapping[str, int], names: Sequence[str]) -> Finding:
    """What a replay of served vectors found (`features.jobs.skew.verify`), as far as the model's features go.

    Args:
        compared: served vectors that were replayed.
        mismatches: how many of them differ, by feature.
        names: the model's features.
    """
    ours = {name: mismatches[name] for name in names if mismatches.get(name)}
    where = ", ".join(f"{name} in {count}" for name, count in ours.items())
    return Finding(
        name="train-serve-skew",
        passed=not ours,
        measured=float(sum(ours.values())),
        limit=0.0,
        text=(
            f"{compared} served vectors replayed; "
            + (f"values differ: {where}" if ours else "every value is what training would have seen")
            if compared
            else "nothing was served yet that could be replayed"
        ),
    )


def blocking(findings: Iterable[Finding]) -> list[Finding]:
    """Those that forbid promotion: what promotion asks. Empty: the gate is open."""
    return [finding for finding in findings if not finding.passed]


def _within_weeks(churned: Floats, scores: Floats, as_of: Floats) -> tuple[float, float]:
    """AUC over the pairs of the same week, and its variance were there nothing to find.

    Pairs of different weeks would tell how the weeks differ, which a permutation within them leaves as it is.
    """
    won = pairs = spread = 0.0
    for week in np.unique(as_of):
        inside = as_of == week
        left = float(churned[inside].sum())
        stayed = float(inside.sum()) - left
        if left and stayed:
            won += auc(churned[inside], scores[inside]) * left * stayed
            pairs += left * stayed
            spread += left * stayed * (left + stayed + 1.0) / 12.0
    return (won / pairs, spread / pairs**2) if pairs else (0.5, 0.0)


def _shuffled(events: pd.DataFrame, cutoff: float, rng: np.random.Generator) -> pd.DataFrame:
    """Each column of the later events permuted on its own, event ids aside: those say which event is meant."""
    later = np.flatnonzero(events["event_time"].to_numpy() >= cutoff)
    shuffled = events.copy()
    for name in ("event_time", "amount"):
        values = events[name].to_numpy().copy()
        values[later] = values[rng.permutation(later)]
        shuffled[name] = values
    return shuffled


def _differing(first: Floats, second: Floats, tolerance: float = _TOLERANCE) -> npt.NDArray[np.bool_]:
    differing: npt.NDArray[np.bool_] = ~np.isclose(
        first, second, rtol=tolerance, atol=tolerance, equal_nan=True
    )
    return differing
