"""The archive: the event log in partitioned Parquet, in a folder or an object store.

    append(table, name) ──► month=2019-05/name.parquet ┐
    append(table, name) ──► month=2019-05/name.parquet ┴─ compact ──► month=2019-05/compacted-….parquet

Writing is idempotent: the caller derives the name from where the rows came from, and the same name is written once.
Reading is too, because the state of the store is a function of the *set* of events: a row that is there twice
counts once. So nothing has to be swapped in one step: a compaction writes its file, which names what it replaces;
from that moment readers pass the replaced files over, and a later compaction removes them.

A file is written beside its place and moved there whole, so a crash leaves a name that no reader looks at.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import Any, Final
from uuid import uuid4

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from features.event_table import DICTIONARY_COLUMNS, ORDER, SCHEMA, as_events, check_schema
from tocsin.errors import (
    ArchiveUnavailableError,
    ConfigurationError,
    InvalidRecordError,
    UnreadableFileError,
)
from tocsin.settings import without_credentials

BATCH_ROWS = 1_000_000  # events held at once while reading; about 150 MB
ROW_GROUP = 65_536
GRACE_S = 3600.0  # replaced files stay this long for readers that have listed them

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")
_PARTITION: Final = re.compile(r"month=(\d{4}-\d{2})\Z")
_REPLACES: Final = b"tocsin.replaces"
_COMPACTED: Final = "compacted-"
_UNFINISHED: Final = ".unfinished"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One file: where it is, what it holds, and which files of its month it stands for."""

    path: str
    month: str  # YYYY-MM, UTC
    rows: int
    modified_at: float  # epoch seconds
    replaces: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePosixPath(self.path).name


class Compaction(msgspec.Struct, frozen=True, kw_only=True):
    """What a compaction did."""

    months: int
    files_before: int
    files_after: int
    rows_before: int
    rows_after: int  # fewer where a row was there twice
    removed: int  # files replaced earlier


class Archive:
    """The Parquet files below one root.

    Args:
        uri: A folder, or a URI that pyarrow knows (`s3://bucket/path`, `gs://…`, `file:///…`).

    Raises:
        ConfigurationError: the URI names no file system, or no bucket.
        ArchiveUnavailableError: by each method, where the file system does not answer or refuses.
    """

    def __init__(self, uri: str) -> None:
        self.place = without_credentials(str(uri))  # for people
        try:
            if "://" in uri:
                filesystem, root = pafs.FileSystem.from_uri(uri)
            else:
                filesystem, root = pafs.LocalFileSystem(), str(uri)
        except OSError as error:  # without a region in it, Amazon is asked for the bucket's
            raise ArchiveUnavailableError(f"the archive at {self.place} does not answer: {error}") from None
        except (pa.ArrowException, ValueError) as error:
            detail = str(error).replace(uri, self.place)
            raise ConfigurationError(
                f"{self.place} is no place for an archive: {detail}",
                hint="a folder, or a URI such as s3://bucket/archive?region=eu-west-1",
            ) from None  # the cause may tell the credentials
        if not root.strip("/"):
            raise ConfigurationError(f"{self.place} is no place for an archive: it names no bucket or folder")
        self._fs: Any = filesystem
        self._root = root.rstrip("/")

    def append(self, events: pa.Table, name: str) -> int:
        """Write events, a file for each month they touch; returns how many rows were written.

        A month that has a file of this name already is left as it is.

        Raises:
            InvalidRecordError: the name is not 1 to 200 letters, digits, dots, dashes and underscores.
            SchemaMismatchError: the events are not of the schema.
        """
        if not _NAME.match(name) or name.startswith(_COMPACTED):
            raise InvalidRecordError(
                f"{name!r} cannot name a file", field="name", limit="1 to 200 of A-Za-z0-9._-"
            )
        table = as_events(events)
        written = 0
        months = _months_of(table["event_time"].to_numpy())
        for month in np.unique(months):
            path = f"{self._root}/month={month}/{name}.parquet"
            part = table.filter(pa.array(months == month)).sort_by(list(ORDER))
            with self._answering():
                if self._fs.get_file_info(path).type != pafs.FileType.NotFound:
                    continue
                self._write(path, iter([part]), replaces=())
            written += len(part)
        return written

    def parts(self, start: float | None = None, end: float | None = None) -> list[Part]:
        """The files that hold events of [start, end) (epoch seconds), without those another stands for.

        Raises:
            SchemaMismatchError: a file has other columns.
            UnreadableFileError: a file is damaged.
        """
        found = [part for part in self._listed() if _within(part.month, start, end)]
        replaced = {(part.month, name) for part in found for name in part.replaces}
        return [part for part in found if (part.month, part.name) not in replaced]

    def counts(self, parts: Sequence[Part]) -> dict[str, int]:
        """Rows by advertiser, over some files; memory grows with the advertisers alone."""
        total: Counter[str] = Counter()
        with self._answering():
            for part in parts:
                for values in self._dataset([part]).to_batches(columns=["advertiser_id"]):
                    found = pc.value_counts(values.column(0))
                    names, numbers = found.field("values").to_pylist(), found.field("counts").to_pylist()
                    total.update(dict(zip(names, numbers, strict=True)))
        return dict(total)

    def read(
        self,
        *,
        start: float | None = None,
        end: float | None = None,
        advertisers: Sequence[str] | None = None,
        batch_rows: int = BATCH_ROWS,
    ) -> Iterator[pa.Table]:
        """Events with event time in [start, end), by ranges of advertisers in the order of their ids.

        A table holds whole advertisers and about `batch_rows` rows at most (more only where one advertiser has
        more); rows come in no order.

        Args:
            start: Epoch seconds; None: from the beginning.
            end: Epoch seconds; None: to the end.
            advertisers: Only these; None: all.
            batch_rows: How many rows to hold at once.

        Raises:
            SchemaMismatchError, UnreadableFileError: as `parts`.
        """
        parts = self.parts(start, end)
        counts = self.counts(parts)
        wanted = (
            counts
            if advertisers is None
            else {name: counts[name] for name in set(advertisers) & counts.keys()}
        )
        for low, high in _ranges(wanted, batch_rows):
            keep = (ds.field("advertiser_id") >= low) & (ds.field("advertiser_id") <= high)
            if start is not None:
                keep &= ds.field("event_time") >= start
            if end is not None:
                keep &= ds.field("event_time") < end
            with self._answering():
                table = self._dataset(parts).to_table(filter=keep)
            if advertisers is not None and len(wanted) < len(counts):
                inside = [name for name in wanted if low <= name <= high]
                table = table.filter(
                    pc.is_in(table["advertiser_id"].cast(pa.string()), pa.array(inside, pa.string()))
                )
            yield table

    def compact(
        self,
        now: float,
        *,
        min_files: int = 2,
        grace_s: float = GRACE_S,
        on_month: Callable[[str], None] = lambda _month: None,
    ) -> Compaction:
        """Make one file of many, month by month, and remove what an earlier compaction replaced.

        Memory is that of `BATCH_ROWS` rows. Stopped anywhere, it loses nothing and may simply be run again.

        Args:
            now: Epoch seconds.
            min_files: Months with fewer files are left alone.
            grace_s: How old a file must be that stands for others before those are removed.
            on_month: Called with each month before its turn.
        """
        removed = self._remove_replaced(now, grace_s)
        months: dict[str, list[Part]] = {}
        for part in self.parts():
            months.setdefault(part.month, []).append(part)
        due = {month: parts for month, parts in sorted(months.items()) if len(parts) >= max(2, min_files)}
        after = 0
        for month, parts in due.items():
            on_month(month)
            after += self._compact_month(month, parts)
        return Compaction(
            months=len(due),
            files_before=sum(map(len, due.values())),
            files_after=len(due),
            rows_before=sum(part.rows for parts in due.values() for part in parts),
            rows_after=after,
            removed=removed,
        )

    def _compact_month(self, month: str, parts: Sequence[Part]) -> int:
        names = sorted(part.name for part in parts)
        digest = blake2b("\n".join(names).encode(), digest_size=12).hexdigest()
        path = f"{self._root}/month={month}/{_COMPACTED}{digest}.parquet"
        rows = 0

        def merged() -> Iterator[pa.Table]:
            nonlocal rows
            for low, high in _ranges(self.counts(parts), BATCH_ROWS):
                keep = (ds.field("advertiser_id") >= low) & (ds.field("advertiser_id") <= high)
                table = _without_repeats(self._dataset(parts).to_table(filter=keep))
                rows += len(table)
                yield table

        with self._answering():
            self._write(path, merged(), replaces=names)
        return rows

    def _remove_replaced(self, now: float, grace_s: float) -> int:
        found = self._listed()
        settled = {
            (part.month, name)
            for part in found
            if now - part.modified_at >= grace_s
            for name in part.replaces
        }
        gone = [part.path for part in found if (part.month, part.name) in settled]
        unfinished = [
            info.path
            for info in self._files()
            if info.path.endswith(_UNFINISHED) and now - _modified_at(info) >= grace_s
        ]
        with self._answering():
            for path in (*gone, *unfinished):
                self._fs.delete_file(path)
        return len(gone)

    def _listed(self) -> list[Part]:
        """Every file, whether another stands for it or not; its columns are checked."""
        parts = []
        for info in self._files():
            month = _PARTITION.match(PurePosixPath(info.path).parent.name)
            if month and info.path.endswith(".parquet") and (part := self._part(info, month[1])):
                parts.append(part)
        return sorted(parts, key=lambda part: (part.month, part.name))

    def _files(self) -> list[Any]:
        selector = pafs.FileSelector(self._root, allow_not_found=True, recursive=True)
        with self._answering():
            return [info for info in self._fs.get_file_info(selector) if info.type == pafs.FileType.File]

    def _part(self, info: Any, month: str) -> Part | None:
        """What a file holds; None where a compaction removed it since it was listed."""
        try:
            with self._answering():
                opened = self._fs.open_input_file(info.path)
        except FileNotFoundError:
            return None
        try:
            with opened as file, pq.ParquetFile(file) as parquet:
                schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            raise UnreadableFileError(
                f"{info.path} cannot be read: {error}", hint="move it out of the archive"
            ) from error
        check_schema(schema, info.path)
        replaces = (schema.metadata or {}).get(_REPLACES, b"[]")
        return Part(
            path=info.path,
            month=month,
            rows=rows,
            modified_at=_modified_at(info),
            replaces=tuple(msgspec.json.decode(replaces, type=list[str])),
        )

    def _dataset(self, parts: Sequence[Part]) -> Any:
        form = ds.ParquetFileFormat(
            read_options=ds.ParquetReadOptions(dictionary_columns=set(DICTIONARY_COLUMNS))
        )
        schema = pa.schema(
            [
                pa.field(
                    f.name, pa.dictionary(pa.int32(), f.type) if f.name in DICTIONARY_COLUMNS else f.type
                )
                for f in SCHEMA
            ]
        )
        paths = [part.path for part in parts]
        return ds.FileSystemDataset.from_paths(paths, schema=schema, format=form, filesystem=self._fs)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """What the file system raises, as an error of ours."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ArchiveUnavailableError(
                f"the archive at {self.place} does not answer or refuses: {error}",
                hint="check TOCSIN_ARCHIVE_URI, the credentials, the network and the space left",
            ) from error

    def _write(self, path: str, tables: Iterator[pa.Table], *, replaces: Sequence[str]) -> None:
        """Write a whole file beside its place, then move it there."""
        folder, _, name = path.rpartition("/")
        self._fs.create_dir(folder, recursive=True)
        unfinished = f"{folder}/_{name}.{uuid4().hex}{_UNFINISHED}"
        metadata = {_REPLACES: msgspec.json.encode(list(replaces))} if replaces else {}
        schema = SCHEMA.with_metadata(metadata)
        options = {"compression": "lz4", "use_dictionary": list(DICTIONARY_COLUMNS)}
        with (
            self._fs.open_output_stream(unfinished) as stream,
            pq.ParquetWriter(stream, schema, **options) as writer,
        ):
            for table in tables:
                writer.write_table(
                    table.cast(SCHEMA).replace_schema_metadata(metadata), row_group_size=ROW_GROUP
                )
        self._fs.move(unfinished, path)


def _modified_at(info: Any) -> float:
    return info.mtime_ns / 1e9 if info.mtime_ns is not None else 0.0


def _without_repeats(table: pa.Table) -> pa.Table:
    """Rows sorted, each once."""
    plain = table.cast(SCHEMA)
    return (
        plain.group_by(SCHEMA.names, use_threads=False)
        .aggregate([])
        .select(SCHEMA.names)
        .sort_by(list(ORDER))
    )


def _months_of(event_times: Any) -> Any:
    """The month of each, as `YYYY-MM`."""
    return np.floor(event_times).astype("datetime64[s]").astype("datetime64[M]").astype(str)


def _within(month: str, start: float | None, end: float | None) -> bool:
    year, number = int(month[:4]), int(month[5:])
    first = datetime(year, number, 1, tzinfo=UTC).timestamp()
    after = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC).timestamp()
    return (end is None or first < end) and (start is None or after > start)


def _ranges(counts: dict[str, int], batch_rows: int) -> Iterator[tuple[str, str]]:
    """Ranges of advertisers, both ends included, of at most `batch_rows` rows or one advertiser."""
    low = high = ""
    rows = 0
    for name in sorted(counts):
        if rows and rows + counts[name] > batch_rows:
            yield low, high
            rows = 0
        low = low if rows else name
        high = name
        rows += counts[name]
    if rows:
        yield low, high
