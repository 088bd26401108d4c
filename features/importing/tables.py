"""Parquet and text files, and folders of them, as rows with line numbers, in bounded memory.

The first read of a file checks it; a fault of the whole file is an UnreadableFileError with a hint. A fault of one row
is returned with that row.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from features.importing import parquet_files, text_files
from features.importing.options import LOOK, ReadOptions
from features.importing.rows import Row
from features.importing.text_files import TextFormat
from tocsin.errors import UnreadableFileError

PARQUET_SUFFIXES = parquet_files.SUFFIXES
MAX_PARTS = 10_000  # files of a folder
_COUNT_BYTES = 512 * 1024 * 1024  # beyond this, counting lines is no longer cheap
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_OTHERS = {
    ".xlsx": "save the sheet as CSV UTF-8",
    ".xls": "save the sheet as CSV UTF-8",
    ".ods": "save the sheet as CSV UTF-8",
    ".json": "send JSON to POST /v1/activity, or convert it to CSV or Parquet",
    ".jsonl": "send NDJSON to POST /v1/activity, or convert it to CSV or Parquet",
    ".ndjson": "send NDJSON to POST /v1/activity, or convert it to CSV or Parquet",
}


class TableFile(NamedTuple):
    """One file of a table: its columns, how it is written (None: Parquet), and what its folders say of all its rows."""

    path: Path
    columns: tuple[str, ...]
    text: TextFormat | None
    fixed: Mapping[str, str | None]


class Table(NamedTuple):
    """A readable table with at least a header: a file, or a folder of files with the same columns."""

    path: Path
    columns: tuple[str, ...]
    parts: tuple[TableFile, ...]

    @property
    def delimiter(self) -> str:
        """Of a text table; empty for Parquet."""
        written = self.parts[0].text
        return written.delimiter if written else ""

    @property
    def folder(self) -> bool:
        """Whether it is a folder."""
        return self.parts[0].path != self.path


def open_table(path: str | os.PathLike[str], options: ReadOptions = LOOK) -> Table:
    """Look at a file or a folder: its format and columns. Raises UnreadableFileError where it is no table with rows."""
    where = Path(path)
    with readable(where):
        if where.is_dir():
            return _open_folder(where, options)
        if where.stat().st_size == 0:
            raise UnreadableFileError(f"{where} is empty", hint="export it again")
        part = _open_file(where, {}, options)
    return Table(where, part.columns, (part,))


def read_rows(table: Table, wanted: Sequence[str]) -> Iterator[Row]:
    """The rows of a table, with the `wanted` columns only. Raises UnreadableFileError where it has no rows."""
    for part in table.parts:
        _refuse_faults(part, wanted)
    empty = True
    for part in table.parts:
        fixed = {name: part.fixed[name] for name in wanted if name in part.fixed}
        name = str(part.path.relative_to(table.path)) if table.folder else ""
        with readable(part.path):
            for row in _rows_of(part, wanted):
                empty = False
                if name:
                    row = row._replace(values={**row.values, **fixed}, file=name)  # noqa: PLW2901 - the same row
                yield row
    if empty:
        raise UnreadableFileError(f"{table.path} has a header but no rows", hint="export it again")


def count_rows(path: str | os.PathLike[str], options: ReadOptions = LOOK) -> int | None:
    """How many rows a table has, for a progress bar; None where that is not cheap to know.

    Exact for Parquet; for text the lines after the header, which quoted line breaks and blank lines blur. Raises
    UnreadableFileError as `open_table` does.
    """
    table = open_table(path, options)
    with readable(table.path):
        sizes = [part.path.stat().st_size for part in table.parts if part.text]
        if sum(sizes) > _COUNT_BYTES:
            return None
        total = 0
        for part in table.parts:
            rows = (
                text_files.count_lines(part.path, part.text) if part.text else parquet_files.count(part.path)
            )
            if rows is None:
                return None
            total += rows
    return total


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn errors of the system and the readers into UnreadableFileError."""
    try:
        yield
    except FileNotFoundError:
        raise UnreadableFileError(f"{path} does not exist", hint="check the path") from None
    except PermissionError:
        raise UnreadableFileError(f"{path} may not be read", hint="check its permissions") from None
    except text_files.DAMAGED as error:
        raise UnreadableFileError(
            f"{path} cannot be read: {str(error) or type(error).__name__}",
            hint="it may be cut off, damaged, or of another --encoding",
        ) from error
    except OSError as error:
        raise UnreadableFileError(f"{path} cannot be read: {error}", hint="it may be truncated") from error


def _rows_of(part: TableFile, wanted: Sequence[str]) -> Iterator[Row]:
    if part.text is None:
        return parquet_files.read(part.path, part.columns, wanted)
    return text_files.read(part.path, part.text, part.columns, wanted)


def _open_file(path: Path, fixed: Mapping[str, str | None], options: ReadOptions) -> TableFile:
    suffix = _suffix(path)
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    if is_parquet or suffix in PARQUET_SUFFIXES:
        return TableFile(path, parquet_files.look(path), None, fixed)
    if suffix in text_files.SUFFIXES or (not suffix and path.suffix.lower() in text_files.COMPRESSED):
        written, columns = text_files.look(path, suffix, options)
        return TableFile(path, columns, written, fixed)
    known = ", ".join(PARQUET_SUFFIXES + text_files.SUFFIXES)
    raise UnreadableFileError(
        f"{path} has the unknown extension {suffix!r}" if suffix else f"{path} has no extension",
        hint=_OTHERS.get(
            suffix, f"convert it to Parquet or CSV and name it so: {known}; .gz or .zst may follow"
        ),
    )


def _suffix(path: Path) -> str:
    """The extension of the table itself: `.csv` of `spend.csv.gz`."""
    packed = path.suffix.lower() in text_files.COMPRESSED
    return (Path(path.stem) if packed else path).suffix.lower()


def _open_folder(where: Path, options: ReadOptions) -> Table:
    for mark, name in (
        ("_delta_log", "Delta Lake"),
        (".hoodie", "Hudi"),
        ("metadata/version-hint.text", "Iceberg"),
    ):
        if (where / mark).exists():
            raise UnreadableFileError(
                f"{where} is a {name} table, whose folder also holds files that no longer count",
                hint="export it as plain Parquet",
            )
    found = _files(where)
    tables = [path for path in found if _suffix(path) in PARQUET_SUFFIXES]
    texts = [path for path in found if _suffix(path) in text_files.SUFFIXES]
    if tables and texts:
        raise UnreadableFileError(
            f"{where} is a directory with both Parquet and text files",
            hint="name one file, or a folder of one kind",
        )
    chosen = [
        path for path in tables or texts if path.stat().st_size
    ]  # Spark leaves empty ones where a part has no rows
    if not chosen:
        raise UnreadableFileError(
            f"{where} is a directory without Parquet or CSV files", hint="name a file, or a folder of parts"
        )
    parts = []
    for path in chosen:
        fixed = _fixed(path.relative_to(where).parts[:-1])
        parts.append(_open_file(path, fixed, options))
    columns = tuple(dict.fromkeys([*parts[0].columns, *(name for part in parts for name in part.fixed)]))
    return Table(where, columns, tuple(parts))


def _files(where: Path) -> list[Path]:
    """The files below a folder in the order of their names, without what tools hide (`_SUCCESS`, `.crc`)."""
    found: list[Path] = []
    for folder, inner, names in os.walk(where):
        inner[:] = sorted(name for name in inner if name[0] not in "_." or "=" in name)
        found += [Path(folder) / name for name in names if name[0] not in "_."]
        if len(found) > MAX_PARTS:
            raise UnreadableFileError(
                f"{where} holds more than {MAX_PARTS:,} files",
                hint="name a folder with fewer, or join its parts",
            )
    return sorted(found)


def _fixed(folders: Sequence[str]) -> dict[str, str | None]:
    """What folders named `column=value` say of the rows in them."""
    pairs = (name.partition("=") for name in folders if "=" in name)
    return {unquote(name): None if value == _NO_VALUE else unquote(value) for name, _, value in pairs}


def _refuse_faults(part: TableFile, wanted: Sequence[str]) -> None:
    for name in wanted:
        if part.columns.count(name) > 1:
            raise UnreadableFileError(
                f"{part.path} has more than one column {name!r}", hint="rename or drop the other"
            )
        if name not in part.columns and name not in part.fixed:
            raise UnreadableFileError(
                f"{part.path} lacks {name}, which other files of its folder have; its columns are "
                f"{', '.join(map(as_text, part.columns))}",
                hint="export the folder again, or import its files one by one",
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
