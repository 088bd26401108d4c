"""Point-in-time features: the values the store would have answered at past moments, for training.

    entities (advertiser, as of) ──┐
    events, in batches of advertisers ─► versions ─► timelines ─► features, a row for each entity row

Bitemporal: a row sees, of each event id, the last version that had arrived by `as_of`, and of those the events
before it; so neither the future nor a later restatement can leak. (`backdated` imports of the past count as
known at their own event time, until they are restated.) The numbers are those of `features.vectors` to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import vectors
from features.columns import SchemaMismatchError, ids, moments, table_of
from features.definitions import FEATURE_NAMES, FEATURES, Feature
from features.event_table import as_events, event_frame, event_table
from features.offline import columnar
from features.offline.archive import BATCH_ROWS, Archive
from features.offline.timelines import Floats, Ints, Questions, Timelines, portions
from features.offline.versions import versions_of
from features.tiles import fold
from tocsin.errors import NotFoundError
from tocsin.wire.activity import Activity

if TYPE_CHECKING:
    import pandas as pd


__all__ = ["event_frame", "event_table", "point_in_time"]

Rows = TypeVar("Rows", pa.Table, "pd.DataFrame")


def point_in_time(
    events: Archive | pa.Table | pd.DataFrame,
    entities: Rows,
    *,
    features: Sequence[str] = FEATURE_NAMES,
    batch_rows: int = BATCH_ROWS,
) -> Rows:
    """The features of each row of `entities` as they were known at its moment.

    Args:
        events: the archive, or a table or frame with the columns of `features.event_table.SCHEMA`.
        entities: columns `advertiser_id` (text, whole numbers, or floats that are) and `as_of` (a timestamp, UTC where
            it has no zone; a day; epoch seconds, ms, us or ns, told apart by their size; or RFC 3339 texts), and
            `known_at` where what was known at another moment than `as_of` is asked for; further columns are kept.
            Repeats and any order are fine.
        features: names of features.
        batch_rows: events held at once: this bounds memory, about 300 bytes each. One advertiser is never split.

    Returns:
        A table or a frame, as `entities` is: its rows in their order, with the features as float64 after its
        columns; NaN where not defined, and in the whole row of an advertiser without activity by then.

    Raises:
        SchemaMismatchError: a column is missing, of another type, or holds a row without an id or a moment (the message
            names column and row, counted from 0); or a column has the name of a feature asked for.
        NotFoundError: there is no feature of a name.
    """
    wanted = [_feature(name) for name in features]
    given: Any = entities
    is_table = isinstance(given, pa.Table)
    _refuse_names_in_use(list(given.column_names if is_table else given.columns), features)
    asked = _Asked(given)
    found = np.full((len(given), len(wanted)), np.nan)
    for batch in _batches(events, asked, batch_rows):
        versions, names = versions_of(batch)
        for lines in versions.timelines(asked.of(names, np.unique(versions.advertiser))):
            found[lines.row] = _answers(lines, wanted)
    if is_table:
        answer: Any = pa.table(given.columns + list(found.T.copy()), names=[*given.column_names, *features])
    else:
        import pandas as pd  # noqa: PLC0415 - heavy: only those who use frames pay for it

        answer = pd.concat([given, pd.DataFrame(found, columns=list(features), index=given.index)], axis=1)
    return cast("Rows", answer)


def _feature(name: str) -> Feature:
    if name not in FEATURE_NAMES:
        raise NotFoundError(f"there is no feature {name!r}", hint="`tocsin features list` names them all")
    return FEATURES[FEATURE_NAMES.index(name)]


def _refuse_names_in_use(given: Sequence[object], features: Sequence[str]) -> None:
    """A label named as a feature would stand beside the feature under one name, and be learned from."""
    for name in features:
        if name in given:
            raise SchemaMismatchError(
                f"entities have a column {name}, which is the name of a feature asked for",
                hint="rename the column, or leave the feature out of features=",
            )
        if list(features).count(name) > 1:
            raise SchemaMismatchError(f"features names {name} twice", hint="name each feature once")


class _Asked:
    """The rows that are asked for, by advertiser."""

    def __init__(self, entities: pa.Table | pd.DataFrame) -> None:
        table = table_of(entities, ["advertiser_id", "as_of", "known_at"], "entities")
        for name in ("advertiser_id", "as_of"):
            if name not in table.column_names:
                given = entities.column_names if isinstance(entities, pa.Table) else entities.columns
                raise SchemaMismatchError(
                    f"entities lack the column {name}; they have {', '.join(map(str, given))}",
                    hint="name the account advertiser_id, and the moment of each row as_of",
                )
        encoded = ids(table["advertiser_id"], "advertiser_id")
        self.names = encoded.dictionary
        self._number = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        self._as_of = moments(table["as_of"], "as_of")
        known = "known_at" in table.column_names
        self._known_at = moments(table["known_at"], "known_at") if known else self._as_of

    def of(self, names: pa.Array, there: Ints) -> Questions:
        """The rows of a batch's advertisers, given all names it may use and the numbers of those it has events of."""
        present = np.zeros(len(names) + 1, dtype=np.bool_)
        present[there] = True
        numbers = pc.fill_null(pc.index_in(self.names, value_set=names.cast(pa.string())), -1)
        advertiser = numbers.to_numpy(zero_copy_only=False).astype(np.int64)[self._number]
        row = np.flatnonzero(present[advertiser])  # -1, unknown, is the last and never present
        return Questions(advertiser[row], self._as_of[row], self._known_at[row], row)


def _batches(events: Archive | pa.Table | pd.DataFrame, asked: _Asked, batch_rows: int) -> Iterator[pa.Table]:
    """Tables of whole advertisers, about `batch_rows` each."""
    if isinstance(events, Archive):
        # Of all times: an event may have been moved from before a moment to after it.
        yield from events.read(advertisers=asked.names.to_pylist(), batch_rows=batch_rows)
        return
    table = as_events(events)
    if len(table) <= batch_rows:
        yield table
        return
    number = table["advertiser_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.argsort(number, kind="stable")
    sizes = np.bincount(number)
    for first, after in portions(sizes, batch_rows):
        start, stop = int(sizes[:first].sum()), int(sizes[:after].sum())
        yield table.take(order[start:stop])


def _answers(lines: Timelines, features: Sequence[Feature]) -> Floats:
    """The features of every question of some timelines: over columns, or one by one where sums grow too large."""
    fits = columnar.fits(lines)
    if fits.all():
        return columnar.values(lines, features)
    found = np.empty((len(lines.row), len(features)))
    found[fits] = columnar.values(lines[fits], features)
    columns = [FEATURE_NAMES.index(feature.name) for feature in features]
    for at in np.flatnonzero(~fits).tolist():
        found[at] = np.array(_one_by_one(lines, int(lines.asked[at]), float(lines.as_of[at])))[columns]
    return found


def _one_by_one(lines: Timelines, timeline: int, as_of: float) -> tuple[float, ...]:
    first, after = np.searchsorted(lines.timeline, [timeline, timeline + 1])
    seen = range(int(first), int(first + np.searchsorted(lines.time[first:after], as_of)))
    activities = [
        Activity(
            advertiser_id="",
            event_time=float(lines.time[at]),
            amount=float(lines.amount[at]),
            kind="spend",
            event_id="",
            campaign_id=lines.campaigns.names[lines.campaign[at]] if lines.campaign[at] >= 0 else "",
        )
        for at in seen
    ]
    return vectors.values(fold("", activities), as_of)
