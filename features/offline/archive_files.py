"""The files of the archive in a folder or an object store: listing, reading and writing, errors translated.

    <root>/month=2019-05/<name>.parquet        a file and, in its metadata, the files it replaces
    <root>/month=2019-05/_<name>….unfinished   being written

A file is written under an unfinished name and then moved to its own, so after a crash no reader sees a part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, Final
from uuid import uuid4

import msgspec
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from features.event_table import DICTIONARY_COLUMNS, SCHEMA, check_schema
from tocsin.errors import ArchiveUnavailableError, ConfigurationError, UnreadableFileError
from tocsin.secrets import without_credentials

ROW_GROUP = 65_536

_PARTITION: Final = re.compile(r"month=(\d{4}-\d{2})\Z")
_REPLACES: Final = b"tocsin.replaces"
_UNFINISHED: Final = ".unfinished"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One file: its path, its contents, and the files of its month that it replaces."""

    path: str
    month: str  # YYYY-MM, UTC
    rows: int
    modified_at: float  # epoch seconds
    replaces: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePosixPath(self.path).name


class ArchiveFiles:
    """The Parquet files below one root.

    Args:
        uri: A folder, or a URI that pyarrow knows (`s3://bucket/path`, `gs://…`, `file:///…`).

    Raises:
        ConfigurationError: the URI names no file system, or no bucket.
        ArchiveUnavailableError: by each method, where the file system does not answer or refuses.
    """

    def __init__(self, uri: str) -> None:
        self.location = without_credentials(str(uri))  # for messages
        try:
            if "://" in uri:
                filesystem, root = pafs.FileSystem.from_uri(uri)
            else:
                filesystem, root = pafs.LocalFileSystem(), str(uri)
        except OSError as error:  # for a bucket without a region pyarrow asks Amazon
            raise ArchiveUnavailableError(
                f"the archive at {self.location} does not answer: {error}"
            ) from None
        except (pa.ArrowException, ValueError) as error:
            detail = str(error).replace(uri, self.location)
            raise ConfigurationError(
                f"{self.location} is no place for an archive: {detail}",
                hint="a folder, or a URI such as s3://bucket/archive?region=eu-west-1",
            ) from None  # the cause may hold the credentials
        if not root.strip("/"):
            raise ConfigurationError(
                f"{self.location} is no place for an archive: it names no bucket or folder"
            )
        self.filesystem: Any = filesystem
        self._root = root.rstrip("/")

    def exists(self, path: str) -> bool:
        """Whether there is a file of this path."""
        with self.translated():
            found: bool = self.filesystem.get_file_info(path).type != pafs.FileType.NotFound
        return found

    def path(self, month: str, name: str) -> str:
        """The path of a file of a month (`YYYY-MM`); `name` is without the extension."""
        return f"{self._root}/month={month}/{name}.parquet"

    def write(self, path: str, tables: Iterable[pa.Table], *, replaces: Sequence[str] = ()) -> None:
        """Write a file as a whole: under an unfinished name first, then moved to its path.

        Args:
            path: Of the file, see `path`.
            tables: Events of `SCHEMA`, written in their order.
            replaces: Names of the files of its month that it replaces.
        """
        with self.translated():
            self._write(path, tables, replaces)

    def _write(self, path: str, tables: Iterable[pa.Table], replaces: Sequence[str]) -> None:
        folder, _, name = path.rpartition("/")
        self.filesystem.create_dir(folder, recursive=True)
        unfinished = f"{folder}/_{name}.{uuid4().hex}{_UNFINISHED}"
        metadata = {_REPLACES: msgspec.json.encode(list(replaces))} if replaces else {}
        schema = SCHEMA.with_metadata(metadata)
        options = {"compression": "lz4", "use_dictionary": list(DICTIONARY_COLUMNS)}
        with (
            self.filesystem.open_output_stream(unfinished) as stream,
            pq.ParquetWriter(stream, schema, **options) as writer,
        ):
            for table in tables:
                writer.write_table(
                    table.cast(SCHEMA).replace_schema_metadata(metadata), row_group_size=ROW_GROUP
                )
        self.filesystem.move(unfinished, path)

    def parts(self) -> list[Part]:
        """Every file by month and name, replaced ones included; its columns are checked.

        Raises:
            SchemaMismatchError: a file has other columns.
            UnreadableFileError: a file is damaged.
        """
        parts = []
        for info in self.infos():
            month = _PARTITION.match(PurePosixPath(info.path).parent.name)
            if month and info.path.endswith(".parquet") and (part := self._part(info, month[1])):
                parts.append(part)
        return sorted(parts, key=lambda part: (part.month, part.name))

    def infos(self) -> list[Any]:
        """A `FileInfo` of every file below the root."""
        selector = pafs.FileSelector(self._root, allow_not_found=True, recursive=True)
        with self.translated():
            return [
                info for info in self.filesystem.get_file_info(selector) if info.type == pafs.FileType.File
            ]

    def _part(self, info: Any, month: str) -> Part | None:
        """Read a file's footer; None where a compaction removed the file since it was listed."""
        try:
            with self.translated():
                opened = self.filesystem.open_input_file(info.path)
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

    def dataset(self, parts: Sequence[Part]) -> Any:
        """Some files as one dataset; columns of few values are dictionaries."""
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
        return ds.FileSystemDataset.from_paths(paths, schema=schema, format=form, filesystem=self.filesystem)

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files."""
        with self.translated():
            for path in paths:
                self.filesystem.delete_file(path)

    def unfinished(self, now: float, grace_s: float) -> list[str]:
        """The paths of files whose writing ended early, at least `grace_s` before `now` (epoch seconds)."""
        return [
            info.path
            for info in self.infos()
            if info.path.endswith(_UNFINISHED) and now - _modified_at(info) >= grace_s
        ]

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn errors of the file system into ArchiveUnavailableError; a missing file stays FileNotFoundError."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ArchiveUnavailableError(
                f"the archive at {self.location} does not answer or refuses: {error}",
                hint="check TOCSIN_ARCHIVE_URI, the credentials, the network and the space left",
            ) from error


def _modified_at(info: Any) -> float:
    return info.mtime_ns / 1e9 if info.mtime_ns is not None else 0.0
