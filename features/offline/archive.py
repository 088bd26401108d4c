"""The archive: the event log in partitioned Parquet, in a folder or an object store.

    append(table, name) ──► month=2019-05/name.parquet ┐
    append(table, name) ──► month=2019-05/name.parquet ┴─ compact ──► month=2019-05/compacted-….parquet

Writing is idempotent: the caller derives the name from where the rows came from, and the same name is written once.
Reading is too, because the state of the store is a function of the *set* of events: a row that is there twice
counts once. So a compaction needs no atomic swap: it writes its file, which names the files it replaces; from then on
readers skip those, and a later compaction removes them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from features.event_table import ORDER, SCHEMA, as_events
from features.offline.archive_files import ArchiveFiles, Part
from tocsin.errors import InvalidRecordError

BATCH_ROWS = 1_000_000  # events held at once while reading; about 150 MB
GRACE_S = 3600.0  # replaced files stay this long for readers that have listed them

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")
_COMPACTED: Final = "compacted-"


class Compaction(msgspec.Struct, frozen=True, kw_only=True):
    """What a compaction did."""

    months: int
    files_before: int
    files_after: int
    rows_before: int
    rows_after: int  # fewer where a row was in two files
    removed: int  # files replaced earlier


class Archive:
    """Events in Parquet files below one root.

    Args:
        uri: A folder, or a URI that pyarrow knows (`s3://bucket/path`, `gs://…`, `file:///…`).

    Raises:
        ConfigurationError: the URI names no file system, or no bucket.
        ArchiveUnavailableError: by each method, where the file system does not answer or refuses.
    """

    def __init__(self, uri: str) -> None:
        self._files = ArchiveFiles(uri)
        self.location = self._files.location  # for messages: without credentials

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
            path = self._files.path(month, name)
            part = table.filter(pa.array(months == month)).sort_by(list(ORDER))
            if self._files.exists(path):
                continue
            self._files.write(path, [part])
            written += len(part)
        return written

    def parts(self, start: float | None = None, end: float | None = None) -> list[Part]:
        """The files that hold events of [start, end) (epoch seconds), without those another replaces.

        Raises:
            SchemaMismatchError: a file has other columns.
            UnreadableFileError: a file is damaged.
        """
        found = [part for part in self._files.parts() if _within(part.month, start, end)]
        replaced = {(part.month, name) for part in found for name in part.replaces}
        return [part for part in found if (part.month, part.name) not in replaced]

    def counts(self, parts: Sequence[Part]) -> dict[str, int]:
        """Rows by advertiser, over some files; memory grows with the number of advertisers alone."""
        total: Counter[str] = Counter()
        with self._files.translated():
            for part in parts:
                for values in self._files.dataset([part]).to_batches(columns=["advertiser_id"]):
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
            with self._files.translated():
                table = self._files.dataset(parts).to_table(filter=keep)
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
        """Merge the files of each month into one, and remove the files an earlier compaction replaced.

        Memory holds `BATCH_ROWS` rows. Stopped at any point, it loses nothing and may be run again.

        Args:
            now: Epoch seconds.
            min_files: Months with fewer files are not compacted.
            grace_s: The age, seconds, at which a compacted file has the files it replaced removed.
            on_month: Called with each month before it is compacted.
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
        path = self._files.path(month, f"{_COMPACTED}{digest}")
        rows = 0

        def merged() -> Iterator[pa.Table]:
            nonlocal rows
            for low, high in _ranges(self.counts(parts), BATCH_ROWS):
                keep = (ds.field("advertiser_id") >= low) & (ds.field("advertiser_id") <= high)
                table = _without_repeats(self._files.dataset(parts).to_table(filter=keep))
                rows += len(table)
                yield table

        self._files.write(path, merged(), replaces=names)
        return rows

    def _remove_replaced(self, now: float, grace_s: float) -> int:
        found = self._files.parts()
        settled = {
            (part.month, name)
            for part in found
            if now - part.modified_at >= grace_s
            for name in part.replaces
        }
        gone = [part.path for part in found if (part.month, part.name) in settled]
        self._files.delete((*gone, *self._files.unfinished(now, grace_s)))
        return len(gone)


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
