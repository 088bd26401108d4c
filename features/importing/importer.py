"""Importing a file: batches of activities, and the rows that were refused, each with its reason.

Importing is idempotent: every activity has an id that depends on the file's content alone, so a second import of
the same file replaces each activity by itself. Rows that are equal in a file are numbered (`id`, `id-2`, …),
so both stay. Memory is bounded except for one hash for each row without an id of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

from msgspec import Struct, field, structs

from features.importing.records import EARLIEST, Times, activity_of, weekly_activity_of
from features.importing.tables import Row, Table, as_text, count_rows, open_table, read_rows
from tocsin.errors import ConfigurationError, InvalidRecordError, UnreadableFileError
from tocsin.wire.activity import Activity

__all__ = ["ImportBatch", "Reject", "SourceFormat", "count_rows", "detect", "read_activity", "write_rejects"]

BATCH_ROWS = 2_000
FIELDS: Final = (
    "advertiser_id",
    "event_time",
    "amount",
    "kind",
    "event_id",
    "campaign_id",
    "currency",
    "arrival",
)
REQUIRED: Final = ("advertiser_id", "event_time")
GOOGLE_COLUMNS: Final = ("Advertiser_ID", "Week_Start_Date", "Spend_USD")
_RAW_CHARS = 256


class SourceFormat(StrEnum):
    """The tables that need no mapping."""

    GOOGLE_WEEKLY_SPEND = "google_weekly_spend"  # political ads transparency, advertiser-weekly-spend
    ACTIVITY = "activity"  # columns named as the fields of an activity


class Reject(Struct, frozen=True):
    """A row that was not imported: its line, the field and limit it breaks, and its cells as text."""

    line: int
    reason: str
    raw: dict[str, str]


class ImportBatch(Struct):
    """Up to 2,000 rows of a file, in its order."""

    activities: list[Activity] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)  # of the activities
    rejects: list[Reject] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many rows of the file this batch accounts for."""
        return len(self.activities) + len(self.rejects)


def detect(path: str | os.PathLike[str]) -> SourceFormat | None:
    """The format of a file, by its columns; None where it needs a mapping. Raises UnreadableFileError."""
    return _format_of(open_table(path))


def read_activity(
    path: str | os.PathLike[str],
    mapping: Mapping[str, str] | None,
    now: float,
    *,
    earliest: float = EARLIEST,
    time_format: str = "",
) -> Iterator[ImportBatch]:
    """Read a Parquet or CSV file, batch by batch. `now` and `earliest` bound its times, in epoch seconds.

    `mapping` gives the column of each field (`advertiser_id`, `event_time`, `amount`, `kind`, `event_id`,
    `campaign_id`, `currency`, `arrival`; only the first two are required); a field it leaves out is read from the
    column of its own name, if there is one.
    None: the format is detected. `time_format` says how times are written, as `features.importing.records.Times` does.

    Raises UnreadableFileError, before the first batch, where the file is not a table with rows and the columns
    needed, and while reading where it turns out to be damaged; ConfigurationError where `mapping` names a field
    there is not.
    """
    table, times = open_table(path), Times(now, earliest, time_format)
    if not mapping and _format_of(table) is SourceFormat.GOOGLE_WEEKLY_SPEND:
        return _batches(table, None, times)
    return _batches(table, _columns_of(table, mapping or {}), times)


def write_rejects(path: str | os.PathLike[str], rejects: Iterable[Reject], *, append: bool = False) -> int:
    """Write rejects as JSON lines, as they come, and return how many. Raises ConfigurationError."""
    count = 0
    try:
        with Path(path).open("a" if append else "w", encoding="utf-8") as file:
            for reject in rejects:
                file.write(json.dumps(structs.asdict(reject), ensure_ascii=False) + "\n")
                count += 1
    except OSError as error:
        raise ConfigurationError(f"rejects cannot be written: {error}", hint="name another file") from error
    return count


def _format_of(table: Table) -> SourceFormat | None:
    if set(GOOGLE_COLUMNS) <= set(table.columns):
        return SourceFormat.GOOGLE_WEEKLY_SPEND
    return SourceFormat.ACTIVITY if set(REQUIRED) <= set(table.columns) else None


def _columns_of(table: Table, mapping: Mapping[str, str]) -> dict[str, str]:
    """The column of each field the table has; raises where a field is unknown or a column is missing."""
    for name in mapping:
        if name not in FIELDS:
            raise ConfigurationError(
                f"{name!r} is not a field of an activity", hint=f"map some of {', '.join(FIELDS)}"
            )
    columns = {name: mapping.get(name, name) for name in FIELDS}
    needed = [columns[name] for name in FIELDS if name in REQUIRED or name in mapping]
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise UnreadableFileError(
            f"{table.path} lacks {', '.join(missing)}; its columns are {', '.join(table.columns)}",
            hint="say which columns to read, such as --map advertiser_id=Account --map event_time=Date",
        )
    return {name: column for name, column in columns.items() if column in table.columns}


def _batches(table: Table, columns: dict[str, str] | None, times: Times) -> Iterator[ImportBatch]:
    """Rows by `columns`, or as Google's weekly spend where that is None."""
    wanted = GOOGLE_COLUMNS if columns is None else tuple(dict.fromkeys(columns.values()))
    derived = _Occurrences() if columns is not None else None
    batch = ImportBatch()
    for row in read_rows(table, wanted):
        try:
            batch.activities.append(_activity(row, columns, derived, times))
            batch.lines.append(row.line)
        except InvalidRecordError as error:
            batch.rejects.append(Reject(row.line, error.message, _raw(row)))
        if batch.rows >= BATCH_ROWS:
            yield batch
            batch = ImportBatch()
    if batch.rows:
        yield batch


def _activity(
    row: Row, columns: dict[str, str] | None, derived: _Occurrences | None, times: Times
) -> Activity:
    if row.problem:
        raise InvalidRecordError(row.problem)
    if columns is None or derived is None:
        return weekly_activity_of(row.values, times)
    activity = activity_of(row.values, columns, times)
    given = "event_id" in columns and as_text(row.values.get(columns["event_id"])).strip()
    return activity if given else derived.numbered(activity)


def _raw(row: Row) -> dict[str, str]:
    return {name: as_text(value)[:_RAW_CHARS] for name, value in row.values.items()}


class _Occurrences:
    """Counts equal rows. Of a row seen once it keeps half a digest as an integer, which is small."""

    def __init__(self) -> None:
        self._once: set[int] = set()
        self._counts: dict[int, int] = {}

    def numbered(self, activity: Activity) -> Activity:
        """The activity, with a suffix to its derived id where an equal one came before."""
        key = int(activity.event_id[:16], 16)
        if key not in self._once:
            self._once.add(key)
            return activity
        count = self._counts[key] = self._counts.get(key, 1) + 1
        return structs.replace(activity, event_id=f"{activity.event_id}-{count}")
