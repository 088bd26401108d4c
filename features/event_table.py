"""Events as columns: the Arrow schema of the archived event log, and the conversion of activities to it and back.

| column          | type    | holds |
|-----------------|---------|-------|
| `advertiser_id` | string  | the advertiser |
| `event_time`    | float64 | when it happened, epoch seconds |
| `arrival`       | float64 | when this version of it was accepted, epoch seconds |
| `amount`        | float64 | spend as it came; micros are derived from it as the tiles do |
| `currency`      | string  | "": the store's |
| `kind`          | string  | `spend` or `campaign` |
| `campaign_id`   | string  | "": none |
| `event_id`      | string  | unique within the advertiser |
| `backdated`     | bool    | an import of the past: its first version counts as known at its event time |

Amounts are kept as they came and not as micros: a replayed event must be the same event to the last bit, or it
would count as restated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from msgspec import NODEFAULT, structs

from features.columns import EARLIEST, SchemaMismatchError, ids, moments, table_of
from features.epochs import SECONDS_BELOW
from tocsin.wire.activity import Activity

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = pa.schema(
    [
        pa.field("advertiser_id", pa.string(), nullable=False),
        pa.field("event_time", pa.float64(), nullable=False),
        pa.field("arrival", pa.float64(), nullable=False),
        pa.field("amount", pa.float64(), nullable=False),
        pa.field("currency", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("campaign_id", pa.string(), nullable=False),
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("backdated", pa.bool_(), nullable=False),
    ]
)
DEFAULTS: Mapping[str, Any] = {
    field.name: field.default for field in structs.fields(Activity) if field.default is not NODEFAULT
}
DICTIONARY_COLUMNS = ("advertiser_id", "currency", "kind", "campaign_id")  # few values, many rows
ORDER = (("advertiser_id", "ascending"), ("event_time", "ascending"), ("arrival", "ascending"))


def event_table(activities: Iterable[Activity]) -> pa.Table:
    """Activities as a table of `SCHEMA`, one row each, in their order."""
    rows = list(activities)
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    return pa.table(columns, schema=SCHEMA)


def activities_of(table: pa.Table) -> list[Activity]:
    """The rows of a table of `SCHEMA` as activities, in its order."""
    columns = {name: table[name].to_pylist() for name in SCHEMA.names}
    return [Activity(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def event_frame(activities: Iterable[Activity]) -> pd.DataFrame:
    """Activities as a frame, one row each, in their order: the columns of `SCHEMA`."""
    frame: pd.DataFrame = event_table(activities).to_pandas()
    return frame


def as_events(events: pa.Table | pd.DataFrame) -> pa.Table:
    """A table or a frame of events as a table of `SCHEMA`; further columns are left out.

    Columns that an `Activity` has defaults for (`DEFAULTS`) may be missing.

    Raises SchemaMismatchError: it names the first column that is missing or cannot be of its type.
    """
    table = table_of(events, SCHEMA.names, "events")
    columns = []
    for field in SCHEMA:
        if field.name in table.column_names:
            columns.append(_cast(table[field.name], field))
        elif field.name in DEFAULTS:
            default = pa.repeat(pa.scalar(DEFAULTS[field.name], field.type), len(table))
            columns.append(pa.chunked_array([default]))
        else:
            raise SchemaMismatchError(
                f"events lack the column {field.name}; they have {', '.join(map(str, _names(events)))}"
            )
    return pa.table(
        columns, schema=pa.schema([pa.field(f.name, c.type) for f, c in zip(SCHEMA, columns, strict=True)])
    )


def _names(rows: pa.Table | pd.DataFrame) -> list[Any]:
    return list(rows.column_names if isinstance(rows, pa.Table) else rows.columns)


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    found = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if column.null_count:
        raise SchemaMismatchError(f"events have {column.null_count} nulls in {field.name}; none are allowed")
    if field.name == "advertiser_id":
        return column if column.type == field.type else pa.chunked_array([ids(column, field.name)])
    if field.name in {"event_time", "arrival"}:
        return _moments(column, field.name)
    if found == field.type:
        return column
    try:
        return column.cast(field.type)
    except pa.ArrowException as error:
        raise SchemaMismatchError(f"{field.name} is {found}, expected {field.type}: {error}") from error


def _moments(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Times as they are where they are seconds already, which costs a look at the largest."""
    if column.type == pa.float64() and len(column):
        ends = pc.min_max(column)  # leaves NaN out
        seconds = ends["min"].as_py() >= EARLIEST and ends["max"].as_py() < SECONDS_BELOW
        if seconds and not pc.any(pc.is_nan(column)).as_py():
            return column
    return pa.chunked_array([pa.array(moments(column, name, bounded=name == "event_time"))])


def check_schema(found: pa.Schema, where: str) -> None:
    """Refuse a file whose columns are not those of `SCHEMA` (their order, and dictionaries, do not matter).

    Raises SchemaMismatchError: it names the file, the column, what it is and what was expected.
    """
    for field in SCHEMA:
        index = found.get_field_index(field.name)
        if index < 0:
            raise SchemaMismatchError(f"{where} lacks the column {field.name}", hint=_HINT)
        kind: Any = found.field(index).type
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        if plain != field.type:
            raise SchemaMismatchError(f"{where}: {field.name} is {plain}, expected {field.type}", hint=_HINT)
    if extra := set(found.names) - set(SCHEMA.names):
        raise SchemaMismatchError(f"{where} has unknown columns: {', '.join(sorted(extra))}", hint=_HINT)


_HINT = "it was written by another version: move it out of the archive, or convert it"
