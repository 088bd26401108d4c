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
from itertools import chain, islice
from pathlib import Path
from typing import Final

from msgspec import Struct, field, structs, to_builtins

from features.importing.identifiers import missing
from features.importing.money import DecimalMark, decimal_mark
from features.importing.options import LOOK, ReadOptions
from features.importing.records import EARLIEST, Times, activity_of, weekly_activity_of
from features.importing.rows import Row
from features.importing.tables import Table, as_text, count_rows, open_table, read_rows
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


class Reject(Struct, frozen=True, omit_defaults=True):
    """A row that was not imported: its line, the field and limit it breaks, its cells as text, and where the table is a
    folder, its file.
    """

    line: int
    reason: str
    raw: dict[str, str]
    file: str = ""

    @property
    def place(self) -> str:
        """Where it stands, in words."""
        return f"line {self.line} of {self.file}" if self.file else f"line {self.line}"


class ImportBatch(Struct):
    """Up to 2,000 rows of a file, in its order."""

    activities: list[Activity] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)  # of the activities
    files: list[str] = field(default_factory=list)  # of the activities, where the table is a folder
    rejects: list[Reject] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many rows of the file this batch accounts for."""
        return len(self.activities) + len(self.rejects)


def detect(path: str | os.PathLike[str], options: ReadOptions = LOOK) -> SourceFormat | None:
    """The format of a file, by its columns; None where it needs a mapping. Raises UnreadableFileError."""
    return _format_of(open_table(path, options))


def read_activity(
    path: str | os.PathLike[str],
    mapping: Mapping[str, str] | None,
    now: float,
    *,
    earliest: float = EARLIEST,
    options: ReadOptions = LOOK,
) -> Iterator[ImportBatch]:
    """Read a Parquet or text file, or a folder of them, batch by batch.

    `now` and `earliest` bound its times, in epoch seconds.

    `mapping` gives the column of each field (`advertiser_id`, `event_time`, `amount`, `kind`, `event_id`,
    `campaign_id`, `currency`, `arrival`; only the first two are required); a field it leaves out is read from the
    column of its own name, if there is one.
    None: the format is detected. `options` say what looking at the file does not tell.

    Raises UnreadableFileError, before the first batch, where the file is not a table with rows and the columns
    needed, and while reading where it turns out to be damaged; ConfigurationError where `mapping` names a field
    there is not.
    """
    table, times = open_table(path, options), Times(now, earliest, options.time_format)
    if not mapping and _format_of(table) is SourceFormat.GOOGLE_WEEKLY_SPEND:
        return _batches(table, None, times, options)
    return _batches(table, _columns_of(table, mapping or {}), times, options)


def write_rejects(path: str | os.PathLike[str], rejects: Iterable[Reject], *, append: bool = False) -> int:
    """Write rejects as JSON lines, as they come, and return how many. Raises ConfigurationError."""
    count = 0
    try:
        with Path(path).open("a" if append else "w", encoding="utf-8") as file:
            for reject in rejects:
                file.write(json.dumps(to_builtins(reject), ensure_ascii=False) + "\n")
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
    absent = [name for name in needed if name not in table.columns]
    if absent:
        shown = [as_text(name) for name in table.columns]
        raise UnreadableFileError(
            f"{table.path} lacks {', '.join(absent)}; its columns are {', '.join(shown)}",
            hint="say which columns to read, such as --map advertiser_id=Account --map event_time=Date"
            if shown == list(table.columns)
            else "they are not UTF-8: name the --encoding, such as latin-1 or cp1252",
        )
    return {name: column for name, column in columns.items() if column in table.columns}


class _Reading:
    """What turns the rows of one table into activities: its columns (None: Google's weekly spend), times and money."""

    def __init__(self, columns: dict[str, str] | None, times: Times, mark: DecimalMark) -> None:
        self._columns = columns
        self._times = times
        self._mark = mark
        self._derived = _Occurrences()

    def activity(self, row: Row) -> Activity:
        """The activity of a row. Raises InvalidRecordError."""
        if row.problem:
            raise InvalidRecordError(row.problem)
        if self._columns is None:
            return weekly_activity_of(row.values, self._times, self._mark)
        activity = activity_of(row.values, self._columns, self._times, self._mark)
        given = "event_id" in self._columns and not missing(row.values.get(self._columns["event_id"]))
        return activity if given else self._derived.numbered(activity)


def _batches(
    table: Table, columns: dict[str, str] | None, times: Times, options: ReadOptions
) -> Iterator[ImportBatch]:
    """Rows by `columns`, or as Google's weekly spend where that is None."""
    wanted = GOOGLE_COLUMNS if columns is None else tuple(dict.fromkeys(columns.values()))
    amounts = "Spend_USD" if columns is None else columns.get("amount", "")
    rows = read_rows(table, wanted)
    head = list(islice(rows, BATCH_ROWS)) if amounts and table.delimiter and not options.decimal else []
    mark = DecimalMark(options.decimal)
    if head:
        mark = decimal_mark((row.values.get(amounts) for row in head), delimiter=table.delimiter)
    reading, batch = _Reading(columns, times, mark), ImportBatch()
    for row in chain(head, rows):
        try:
            batch.activities.append(reading.activity(row))
            batch.lines.append(row.line)
            if row.file:
                batch.files.append(row.file)
        except InvalidRecordError as error:
            batch.rejects.append(Reject(row.line, error.message, _raw(row), row.file))
        if batch.rows >= BATCH_ROWS:
            yield batch
            batch = ImportBatch()
    if batch.rows:
        yield batch


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
