"""Parquet and CSV files as rows with line numbers, in bounded memory.

The first read of a file checks it; a fault of the whole file is an UnreadableFileError with a hint. A fault of one row
is returned with that row.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple

from tocsin.errors import UnreadableFileError

PARQUET_SUFFIXES = (".parquet", ".pq")
CSV_SUFFIXES = (".csv", ".tsv")
READ_ROWS = 2_000
_HEAD_BYTES = 65_536
_COUNT_BYTES = 512 * 1024 * 1024  # beyond this, counting lines is no longer cheap
_DELIMITERS = ",;\t"


class Table(NamedTuple):
    """A readable file with at least a header. `delimiter` is empty for Parquet."""

    path: Path
    columns: tuple[str, ...]
    delimiter: str = ""


class Row(NamedTuple):
    """One row: its line (CSV: physical, the header is 1; Parquet: row number from 1) and its values by column.

    `problem`: the reason the row cannot be read; `values` then hold the cells that could be.
    """

    line: int
    values: dict[str, Any]
    problem: str = ""


def open_table(path: str | os.PathLike[str]) -> Table:
    """Look at a file: its format and columns. Raises UnreadableFileError where it is not a table with rows."""
    where = Path(path)
    suffix = where.suffix.lower()
    with _readable(where):
        if where.is_dir():
            raise UnreadableFileError(f"{where} is a directory", hint="name one file in it")
        if where.stat().st_size == 0:
            raise UnreadableFileError(f"{where} is empty", hint="export it again")
        if suffix in PARQUET_SUFFIXES:
            return _open_parquet(where)
        if suffix in CSV_SUFFIXES:
            return _open_csv(where)
    known = ", ".join(PARQUET_SUFFIXES + CSV_SUFFIXES)
    raise UnreadableFileError(
        f"{where} has the unknown extension {suffix!r}" if suffix else f"{where} has no extension",
        hint=f"convert it to Parquet or CSV and name it so: {known}",
    )


def read_rows(table: Table, wanted: Sequence[str]) -> Iterator[Row]:
    """The rows of a table, with the `wanted` columns only. Raises UnreadableFileError where it has no rows."""
    rows = _csv_rows(table, wanted) if table.delimiter else _parquet_rows(table, wanted)
    empty = True
    with _readable(table.path):
        for row in rows:
            empty = False
            yield row
    if empty:
        raise UnreadableFileError(f"{table.path} has a header but no rows", hint="export it again")


def count_rows(path: str | os.PathLike[str]) -> int | None:
    """How many rows a file has, for a progress bar; None where that is not cheap to know.

    Exact for Parquet; for CSV the lines after the header, which quoted line breaks and blank lines blur. Raises
    UnreadableFileError as `open_table` does.
    """
    table = open_table(path)
    with _readable(table.path):
        if not table.delimiter:
            import pyarrow.parquet as pq  # noqa: PLC0415 - heavy: only those who read files pay for it

            return int(pq.read_metadata(table.path).num_rows)
        if table.path.stat().st_size > _COUNT_BYTES:
            return None
        lines, last = 0, b"\n"
        with table.path.open("rb") as file:
            while chunk := file.read(_HEAD_BYTES):
                lines += chunk.count(b"\n")
                last = chunk[-1:]
        return lines + (last != b"\n") - 1


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn errors of the system and the Parquet reader into UnreadableFileError."""
    try:
        yield
    except FileNotFoundError:
        raise UnreadableFileError(f"{path} does not exist", hint="check the path") from None
    except PermissionError:
        raise UnreadableFileError(f"{path} may not be read", hint="check its permissions") from None
    except OSError as error:
        raise UnreadableFileError(f"{path} cannot be read: {error}", hint="it may be truncated") from error


# --------------------------------------------------------------------------- Parquet


def _open_parquet(path: Path) -> Table:
    import pyarrow as pa  # noqa: PLC0415 - as above
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    try:
        columns = tuple(pq.read_schema(path).names)
    except pa.ArrowException as error:
        raise UnreadableFileError(
            f"{path} is not a Parquet file: {error}", hint="name it .csv if it is one, else export it again"
        ) from error
    return Table(path, columns)


def _parquet_rows(table: Table, wanted: Sequence[str]) -> Iterator[Row]:
    import pyarrow as pa  # noqa: PLC0415 - as above
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    _refuse_repeats(table, wanted)
    line = 0
    try:
        with pq.ParquetFile(table.path) as file:
            for batch in file.iter_batches(batch_size=READ_ROWS, columns=list(wanted)):
                columns = [_values(batch.column(name)) for name in wanted]
                for values in zip(*columns, strict=True):
                    line += 1
                    yield Row(line, dict(zip(wanted, values, strict=True)))
    except pa.ArrowException as error:
        raise UnreadableFileError(
            f"{table.path} cannot be read after row {line}: {error}", hint="export it again"
        ) from error


def _values(column: Any) -> list[Any]:
    """A column as Python values; values Python cannot represent as seconds or bytes."""
    import pyarrow as pa  # noqa: PLC0415 - as above

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return list(
            column.cast(pa.large_binary() if pa.types.is_large_string(kind) else pa.binary()).to_pylist()
        )
    except (ValueError, OverflowError):  # a date outside the years 1 to 9999
        micros = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).to_pylist()
        return [None if value is None else value / 1e6 for value in micros]


# --------------------------------------------------------------------------- CSV


def _open_csv(path: Path) -> Table:
    with path.open("rb") as binary:
        head = binary.read(_HEAD_BYTES)
    if b"\0" in head:
        raise UnreadableFileError(f"{path} is not CSV text in UTF-8", hint="save it as CSV UTF-8")
    if len(head) == _HEAD_BYTES and b"\n" not in head:
        raise UnreadableFileError(
            f"{path} is not CSV: no line ends in the first 64 KiB", hint="export it again"
        )
    first = head.decode("utf-8-sig", "replace").lstrip("\r\n").split("\n", 1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(_DELIMITERS, key=first.count)
    with _reader(path, delimiter) as reader:
        try:
            header = next((row for row in reader if row), None)
        except csv.Error as error:
            raise UnreadableFileError(f"the header of {path} cannot be read: {error}") from error
    if header is None:
        raise UnreadableFileError(f"{path} is empty", hint="export it again")
    return Table(path, tuple(name.strip() for name in header), delimiter)


@contextmanager
def _reader(path: Path, delimiter: str) -> Iterator[Any]:
    # Surrogates carry bytes that are not UTF-8 to the row they are in, so that one bad row is one reject.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        yield csv.reader(file, delimiter=delimiter, strict=True)


def _csv_rows(table: Table, wanted: Sequence[str]) -> Iterator[Row]:
    _refuse_repeats(table, wanted)
    places = [(name, table.columns.index(name)) for name in wanted]
    width = len(table.columns)
    header_seen = False
    with _reader(table.path, table.delimiter) as reader:
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as error:
                yield Row(line, {}, f"lines {line} to {reader.line_num} are not CSV: {error}")
                continue
            if fields is None:
                return
            if not fields:
                continue
            if not header_seen:
                header_seen = True
                continue
            values = {name: fields[at] for name, at in places if at < len(fields)}
            fits = len(fields) == width
            yield Row(line, values, "" if fits else f"{len(fields)} fields, but the header has {width}")


def _refuse_repeats(table: Table, wanted: Sequence[str]) -> None:
    for name in wanted:
        if table.columns.count(name) > 1:
            raise UnreadableFileError(
                f"{table.path} has more than one column {name!r}", hint="rename or drop the other"
            )


def as_text(value: Any) -> str:
    """A cell as a person would write it, always printable as UTF-8."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value).encode("utf-8", "replace").decode()
