"""Parquet files as rows, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from features.importing.rows import Row
from tocsin.errors import UnreadableFileError

SUFFIXES = (".parquet", ".pq", ".parq")
READ_ROWS = 2_000


def look(path: Path) -> tuple[str, ...]:
    """The columns of a Parquet file. Raises UnreadableFileError where it is none."""
    import pyarrow as pa  # noqa: PLC0415 - heavy: only those who read files pay for it
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    try:
        return tuple(pq.read_schema(path).names)
    except pa.ArrowException as error:
        raise UnreadableFileError(
            f"{path} is not a Parquet file: {error}", hint="name it .csv if it is one, else export it again"
        ) from error


def count(path: Path) -> int:
    """How many rows it has."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    return int(pq.read_metadata(path).num_rows)


def read(path: Path, columns: Sequence[str], wanted: Sequence[str]) -> Iterator[Row]:
    """The rows of a Parquet file, with those of the `wanted` columns that it has. Raises UnreadableFileError."""
    import pyarrow as pa  # noqa: PLC0415 - as above
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    names = [name for name in wanted if name in columns]
    line = 0
    try:
        # Spark's and Impala's int96 reaches beyond the years nanoseconds can count: year 9999 would come as 1816.
        with pq.ParquetFile(path, coerce_int96_timestamp_unit="us") as file:
            for batch in file.iter_batches(batch_size=READ_ROWS, columns=names):
                if not names:
                    yield from (Row(at, {}) for at in range(line + 1, line + batch.num_rows + 1))
                    line += batch.num_rows
                    continue
                cells = [_values(batch.column(name)) for name in names]
                for values in zip(*cells, strict=True):
                    line += 1
                    yield Row(line, dict(zip(names, values, strict=True)))
    except pa.ArrowException as error:
        raise UnreadableFileError(
            f"{path} cannot be read after row {line}: {error}", hint="export it again"
        ) from error


def _values(column: Any) -> list[Any]:
    """A column as Python values; values Python cannot represent as bytes, or as texts that say what they are."""
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
        return [_value(cell) for cell in column]


def _value(cell: Any) -> Any:
    try:
        return cell.as_py()
    except (ValueError, OverflowError):
        return f"{cell.value} {cell.type.unit} since 1970"
