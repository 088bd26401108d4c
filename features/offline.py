"""Offline features: what the online vector would have said at past moments, for training.

Parity is by construction: activities are folded into the same histories by the same `tiles.fold`, and every row is
`vectors.compute`. Nothing at or after a cutoff touches its rows; an event restated later is the exception no event
log can undo: it is seen as it was last known, from its own time on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from features import tiles
from features.definitions import FEATURE_NAMES
from features.vectors import compute
from tocsin.schemas import Activity

if TYPE_CHECKING:
    import pandas as pd

EVENT_COLUMNS = ("advertiser_id", "event_time", "amount", "kind", "event_id")


def event_frame(activities: Iterable[Activity]) -> pd.DataFrame:
    """Activities as a frame, one row each, in their order: `EVENT_COLUMNS`, times in epoch seconds."""
    import pandas as pd  # noqa: PLC0415 - heavy: only those who train pay for it

    rows = [(a.advertiser_id, a.event_time, a.amount, a.kind, a.event_id) for a in activities]
    types = {"advertiser_id": "str", "event_time": "float64", "amount": "float64"}
    return pd.DataFrame(rows, columns=list(EVENT_COLUMNS)).astype({**types, "kind": "str", "event_id": "str"})


def point_in_time(events: pd.DataFrame, cutoffs: Sequence[float]) -> pd.DataFrame:
    """The features of every advertiser as of every cutoff (epoch seconds) that follows its first event.

    Args:
        events: as made by `event_frame`; a later row with the same advertiser and event id replaces the earlier.
        cutoffs: in any order; repeats count once. Only events strictly before a cutoff are seen by it.

    Returns:
        `advertiser_id`, `as_of` (epoch seconds) and `FEATURE_NAMES` as float64, NaN where not defined; by
        cutoff, then advertiser.
    """
    import pandas as pd  # noqa: PLC0415 - as above

    moments = sorted({float(cutoff) for cutoff in cutoffs})
    rows = [
        (advertiser_id, as_of, *vector.values())
        for advertiser_id, activities in _by_advertiser(events)
        for as_of, vector in _replay(activities, moments)
    ]
    frame = pd.DataFrame(rows, columns=["advertiser_id", "as_of", *FEATURE_NAMES])
    types = {"advertiser_id": "str", "as_of": "float64", **dict.fromkeys(FEATURE_NAMES, "float64")}
    return frame.astype(types).sort_values(["as_of", "advertiser_id"], ignore_index=True)


def _by_advertiser(events: pd.DataFrame) -> Iterator[tuple[str, list[Activity]]]:
    grouped: dict[str, dict[str, Activity]] = {}
    columns = [events[name].tolist() for name in EVENT_COLUMNS]
    for values in zip(*columns, strict=True):
        activity = Activity(*values)
        grouped.setdefault(activity.advertiser_id, {})[activity.event_id] = activity
    for advertiser_id, found in grouped.items():
        yield advertiser_id, sorted(found.values(), key=lambda activity: activity.event_time)


def _replay(
    activities: list[Activity], moments: Sequence[float]
) -> Iterator[tuple[float, dict[str, float | None]]]:
    history: tiles.History | None = None
    at = 0
    for as_of in moments:
        start = at
        while at < len(activities) and activities[at].event_time < as_of:
            at += 1
        new = tiles.fold(activities[0].advertiser_id, activities[start:at])
        if new is not None:
            history = new if history is None else tiles.merge(history, new)
        if history is not None:
            yield as_of, compute(history, as_of)
