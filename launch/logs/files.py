"""The log files of a data folder, of which only the ends are read, and what is added to them later.

    <data>/logs/**/*.jsonl    our processes (`tocsin/telemetry/logs.py`)
    <data>/logs/runs/…        each run: `up.log`, `platform.log`, and Ray's own once it has ended
    <scratch>/ray/…/logs      Ray and Serve, while the platform runs

A file is known by its inode: one that is rotated is read on under its new name, and its successor from the start.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from launch.logs.records import LogRecord, Wanted, read_records
from launch.run_record import RunRecord
from tocsin.telemetry.logs import log_folder

MAX_TAIL_BYTES = 4 * 1024 * 1024  # of each file
MAX_STEP_BYTES = 1024 * 1024  # of each file, each time it is looked at while following
MAX_FILES = 500  # the newest
_ROTATED = re.compile(r"\.\d+$")
_NUMBERS = re.compile(r"[._-]([0-9a-f]{16,}|\d+)(?=$|[._-])")


class _Read(msgspec.Struct):
    """How far a file was read, and the beginning of a line that was not complete yet."""

    offset: int
    rest: bytes = b""


class LogFiles:
    """The logs of one data folder.

    Args:
        folders: Searched through all their folders; those that are missing are passed over.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._read: dict[tuple[int, int], _Read] = {}

    def last(self, wanted: Wanted, number: int) -> list[LogRecord]:
        """The last `number` records that are wanted, newest last, out of the last 4 MiB of each file."""
        found: list[LogRecord] = []
        for path in self._paths():
            kept = [one for one in self._records(path, MAX_TAIL_BYTES, whole=True) if wanted.shows(one)]
            found = _newest(found + kept, number)
        return found

    def added(self, wanted: Wanted) -> list[LogRecord]:
        """What was written since the last look, newest last; a line counts once it is complete."""
        found = [
            one
            for path in self._paths()
            for one in self._records(path, MAX_STEP_BYTES, whole=False)
            if wanted.shows(one)
        ]
        return _newest(found, len(found))

    def _paths(self) -> list[Path]:
        found: dict[tuple[int, int], tuple[float, Path]] = {}
        for folder in self._folders:
            for place, _, names in os.walk(folder):
                for name in names:
                    if not _ROTATED.sub("", name).endswith((".jsonl", ".log", ".err", ".out")):
                        continue
                    path = Path(place, name)
                    with contextlib.suppress(OSError):  # gone since
                        facts = path.stat()
                        found[facts.st_dev, facts.st_ino] = (facts.st_mtime, path)
        newest = sorted(found.values(), reverse=True)[:MAX_FILES]
        return [path for _, path in reversed(newest)]

    def _records(self, path: Path, most: int, *, whole: bool) -> Iterator[LogRecord]:
        try:
            with path.open("rb") as file:
                facts = os.fstat(file.fileno())
                raw = self._take(file.fileno(), facts, most, whole=whole)
        except OSError:
            return
        if raw:
            lines = raw.decode(errors="replace").splitlines()
            yield from read_records(lines, part_of(path), datetime.fromtimestamp(facts.st_mtime, UTC))

    def _take(self, descriptor: int, facts: os.stat_result, most: int, *, whole: bool) -> bytes:
        key, size = (facts.st_dev, facts.st_ino), facts.st_size
        known = self._read.get(key)
        if known is None or size < known.offset:
            known = self._read[key] = _Read(0)
        begin = max(known.offset, size - most)
        raw = os.pread(descriptor, size - begin, begin)
        if begin > known.offset:  # in the middle of a line
            known.rest, raw = b"", raw.partition(b"\n")[2]
        known.offset = size
        raw = known.rest + raw
        complete, _, known.rest = raw.rpartition(b"\n")
        known.rest = known.rest[-MAX_STEP_BYTES:]
        if whole and known.rest:  # cut short by a crash, or being written; shown as far as it goes
            return raw
        return complete


def folders_of(data: Path, record: RunRecord | None) -> list[Path]:
    """Where the logs of a data folder are, and of the platform that runs in it."""
    found = [log_folder(data)]
    if record is not None and record.scratch:
        sessions = Path(record.scratch) / "ray"
        latest = sessions / "session_latest" / "logs"
        found.append(latest)
    return found


def part_of(path: Path) -> str:
    """Whose file it is, by its name: `replica_churn_churn_x1y2z3.log` is `churn`, `worker-<id>-123.err` is `worker`."""
    stem, _, ends = path.name.partition(".")
    if "jsonl" in ends:
        return stem
    if stem.startswith("replica_"):
        return stem.removeprefix("replica_").partition("_")[0]
    if stem.startswith(("controller_", "proxy_", "http_proxy_")):
        return f"serve-{stem.partition('_')[0]}"
    if stem in {"up", "platform"}:
        return "platform"
    return _NUMBERS.sub("", stem) or stem


def _newest(records: Sequence[LogRecord], number: int) -> list[LogRecord]:
    return sorted(records, key=lambda one: one.at)[-number:] if number else []
