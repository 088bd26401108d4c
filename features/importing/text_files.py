"""Text tables: compressed, encoded and separated as people have them, found out by looking at a file's first bytes.

    bytes ─► compression (gzip, bzip2, xz, zstd, lz4, one file in a zip) ─► encoding ─► delimiter ─► rows

Everything is read as a stream: a compressed file takes no more memory than a plain one.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from features.importing.options import ReadOptions
from features.importing.rows import Row
from tocsin.errors import UnreadableFileError

SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip")
HEAD_BYTES = 65_536
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, UnicodeError)  # what broken files raise

_MAGIC: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"PK\x03\x04", "zip"),
)
_BZIP2_BLOCK: Final = b"1AY&SY"
_BOMS: Final = (  # the longest first: that of UTF-16 begins that of UTF-32
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DELIMITERS: Final = ",;\t|"
_NULS_OF_UTF16: Final = (
    0.3  # of every second byte, from which on text is UTF-16: all of them in plain English
)


class TextFormat(NamedTuple):
    """How a text table is written. `told`: its first line names the delimiter, as spreadsheets do (`sep=;`)."""

    compression: str
    encoding: str
    delimiter: str
    told: bool = False


def compression_of(head: bytes) -> str:
    """How a file that begins so is compressed; empty where it is not."""
    found = next((name for magic, name in _MAGIC if head.startswith(magic)), "")
    return "" if found == "bz2" and head[4:10] != _BZIP2_BLOCK else found


def look(path: Path, suffix: str, options: ReadOptions) -> tuple[TextFormat, tuple[str, ...]]:
    """The format of a text table and its columns.

    Args:
        path: The file.
        suffix: Of the table's name, without that of its compression.
        options: What is known of it.

    Raises:
        UnreadableFileError: it is no text, or holds none.
    """
    with path.open("rb") as binary:
        compression = compression_of(binary.read(16))
    with _bytes(path, compression) as stream:
        head = _head(stream)
    if not head.strip(b"\xef\xbb\xbf \r\n\t\xff\xfe\x00"):
        raise UnreadableFileError(f"{path} is empty", hint="export it again")
    if compression_of(head) or head.startswith(b"PAR1"):
        raise UnreadableFileError(
            f"{path} holds a packed or binary file", hint="unpack it and name what is in it"
        )
    encoding = _encoding(path, head, options)
    try:
        text = codecs.getincrementaldecoder(encoding)("replace").decode(head)
    except UnicodeError as error:
        raise UnreadableFileError(
            f"{path} is not {encoding}: {error}", hint="name its --encoding, or leave it out"
        ) from error
    if len(head) == HEAD_BYTES and "\n" not in text and "\r" not in text:
        raise UnreadableFileError(
            f"{path} is not CSV: no line ends in the first 64 KiB", hint="export it again"
        )
    first = next(iter(text.lstrip("\ufeff\r\n").splitlines()), "")
    told = len(first) == len("sep=;") and first.lower().startswith("sep=")
    delimiter = options.delimiter or (first[-1] if told else _delimiter(first, suffix))
    found = TextFormat(compression, encoding, delimiter, told)
    with _reader(path, found) as reader:
        try:
            header = _header(reader, found)
        except csv.Error as error:
            raise UnreadableFileError(f"the header of {path} cannot be read: {error}") from error
    if header is None:
        raise UnreadableFileError(f"{path} is empty", hint="export it again")
    return found, tuple(name.strip().lstrip("\ufeff") for name in header)


def read(path: Path, written: TextFormat, columns: Sequence[str], wanted: Sequence[str]) -> Iterator[Row]:
    """The rows of a text table, with those of the `wanted` columns that it has."""
    places = [(name, columns.index(name)) for name in wanted if name in columns]
    width = len(columns)
    header_seen, told = False, written.told
    with _reader(path, written) as reader:
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
                header_seen, told = not told, False
                continue
            values = {name: fields[at] for name, at in places if at < len(fields)}
            fits = len(fields) == width
            yield Row(line, values, "" if fits else f"{len(fields)} fields, but the header has {width}")


def count_lines(path: Path, written: TextFormat) -> int | None:
    """Lines after the header, which quoted line breaks and blank lines blur; None where they are not bytes to count."""
    if written.compression or not written.encoding.startswith(("utf-8", "ascii", "latin", "cp", "iso")):
        return None
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        while chunk := file.read(HEAD_BYTES):
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    return lines + (last != b"\n") - 1 - written.told


@contextmanager
def open_text(path: Path, written: TextFormat) -> Iterator[IO[str]]:
    """The text of a file, unpacked and decoded as it is read.

    Bytes that are not of the encoding come as surrogates, so that one bad row is one reject; in UTF-16 and UTF-32,
    which know no such bytes, they are a UnicodeError.
    """
    wide = written.encoding.startswith(("utf-16", "utf-32"))
    with (
        _bytes(path, written.compression) as stream,
        io.TextIOWrapper(
            stream, encoding=written.encoding, errors="strict" if wide else "surrogateescape", newline=""
        ) as text,
    ):
        yield text


@contextmanager
def _reader(path: Path, written: TextFormat) -> Iterator[Any]:
    with open_text(path, written) as text:
        yield csv.reader(text, delimiter=written.delimiter, strict=True)


def _header(reader: Any, written: TextFormat) -> list[str] | None:
    rows = (row for row in reader if row)
    if written.told:
        next(rows, None)
    return next(rows, None)


@contextmanager
def _bytes(path: Path, compression: str) -> Iterator[IO[bytes]]:
    if compression == "zip":
        with zipfile.ZipFile(path) as archive, archive.open(_only_member(path, archive)) as stream:
            yield stream
        return
    if compression in {"zstd", "lz4"}:
        import pyarrow as pa  # noqa: PLC0415 - heavy: only those who read such files pay for it

        with pa.OSFile(str(path)) as source, pa.CompressedInputStream(source, compression) as packed:
            yield io.BufferedReader(packed)
        return
    opened: Any = {"": Path.open, "gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    with opened[compression](path, "rb") as stream:
        yield stream


def _only_member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = [
        one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/")
    ]
    if len(members) != 1 or members[0].flag_bits & 1:
        kind = "an encrypted file" if len(members) == 1 else f"{len(members)} files"
        raise UnreadableFileError(f"{path} holds {kind}", hint="unpack it and name one table")
    if not members[0].filename.lower().endswith(SUFFIXES):
        raise UnreadableFileError(
            f"{path} holds {members[0].filename}, which is no text table", hint="save it as CSV, or unpack it"
        )
    return members[0]


def _head(stream: IO[bytes]) -> bytes:
    parts, size = [], 0
    while size < HEAD_BYTES and (part := stream.read(HEAD_BYTES - size)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _encoding(path: Path, head: bytes, options: ReadOptions) -> str:
    marked = next((name for bom, name in _BOMS if head.startswith(bom)), "")
    if options.encoding:
        given = codecs.lookup(options.encoding).name
        return "utf-8-sig" if given == "utf-8" else given
    if marked:
        return marked
    if b"\0" not in head:
        return "utf-8-sig"
    even, odd = head[0::2].count(b"\0"), head[1::2].count(b"\0")
    half = len(head) / 2
    if not even and odd >= _NULS_OF_UTF16 * half:
        return "utf-16-le"
    if not odd and even >= _NULS_OF_UTF16 * half:
        return "utf-16-be"
    raise UnreadableFileError(
        f"{path} is not CSV text in UTF-8 or UTF-16", hint="save it as CSV UTF-8, or name its --encoding"
    )


def _delimiter(first: str, suffix: str) -> str:
    if suffix in {".tsv", ".tab"}:
        return "\t"
    return max(_DELIMITERS, key=lambda mark: _fields(first, mark))


def _fields(line: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([line], delimiter=delimiter), []))
    except csv.Error:
        return 0
