"""Where the registry keeps its files: a folder on this machine, or an object store, behind one port.

Two things are kept, and each is written whole or not at all:

- files by path, and folders of them;
- one journal: entries numbered from 1, each appended only if it is the next one after those its writer has seen.

| store           | a file                      | an entry of the journal                                          |
|-----------------|-----------------------------|------------------------------------------------------------------|
| `LocalFolder`   | written aside, synced, moved | a line of `journal.jsonl`: appended under a lock and synced      |
| `ObjectStore`   | one object                  | an object of its own, `journal/0000000042.json`, under a claim   |

`pyarrow.fs` has no conditional write, so writers of an object store take turns by claims (after Lamport's bakery):

    write a claim ──► list all claims ──only mine──► nobody appended meanwhile? write the entry ──► remove the claim
                          └──others──► remove mine, wait a little, begin again

Of two writers at least one sees the other's claim, so both never go on. This needs a store that lists what was just
written (S3, Google and Azure do). A claim older than a minute is of a writer that died; one that is slower than half
of that gives up by itself.
"""

from __future__ import annotations

import fcntl
import math
import os
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar
from uuid import uuid4

from tocsin.errors import ConfigurationError, ConflictError, ModelUnavailableError
from tocsin.settings import without_credentials

CLAIM_TRIES = 200
READERS = 16
CLAIM_LIFE_S = 60.0
CLAIM_WAIT_S = 0.05
TEMPORARY = ".tmp-"
_ABANDONED_S = 3_600.0
_JOURNAL, _CLAIMS = "journal", "claims"
_URL = re.compile(r"^(?P<scheme>[a-z][a-z0-9+.-]*)://")


class ArtefactStore(Protocol):
    """Files and a journal. Paths are relative, with `/` between their parts."""

    def read(self, path: str) -> bytes | None:
        """A file; None where there is none."""
        ...

    def write_folder(self, folder: str, files: dict[str, bytes]) -> None:
        """A folder of files, as a whole. What is there already stays as it is: a folder is never changed."""
        ...

    def folders(self) -> list[str]:
        """All folders that are whole, by name."""
        ...

    def remove(self, folder: str) -> None:
        """Remove a folder; nothing happens where there is none."""
        ...

    def last(self, after: int = 0) -> tuple[int, bytes] | None:
        """The newest entry with its number; None while the journal is as it was when it had `after` entries.

        A journal that was replaced, as by one restored, is told from its newest entry, also where that is fewer.
        """
        ...

    def entries(self) -> list[bytes]:
        """All entries of the journal, in order."""
        ...

    def append(self, entry: bytes, *, after: int) -> bool:
        """Make an entry the one after the first `after`, for good. False: another writer was first.

        Raises:
            ConflictError: the writers before would not let go.
        """
        ...


def open_store(location: str | Path, name: str) -> ArtefactStore:
    """The store below a folder, or below a URI that `pyarrow.fs` knows: `s3://bucket/models`, `gs://…`, `abfs://…`.

    Raises:
        ConfigurationError: the URI names no store.
        ModelUnavailableError: its region was asked for, and nobody answered.
    """
    text = str(location).removeprefix("file://")
    if not _URL.match(text):
        return LocalFolder(Path(text).expanduser() / name)
    from pyarrow import ArrowException, fs  # noqa: PLC0415 (heavy: only for object stores)

    place = without_credentials(text)
    try:
        filesystem, root = fs.FileSystem.from_uri(text)
    except OSError as error:  # without a region in it, Amazon is asked for the bucket's
        raise ModelUnavailableError(f"the model registry at {place} does not answer: {error}") from None
    except (ArrowException, ValueError) as error:
        detail = str(error).replace(text, place)
        raise ConfigurationError(
            f"TOCSIN_MODELS_URL: {place} is no place for models: {detail}"
        ) from None  # the cause may tell the credentials
    if not root.strip("/"):
        raise ConfigurationError(f"TOCSIN_MODELS_URL: {place} is no place for models: it names no bucket")
    return ObjectStore(filesystem, f"{root.rstrip('/')}/{name}", place)


class LocalFolder:
    """A folder on this machine, or on a file system that locks (`flock`) and moves atomically.

    Args:
        root: Made on the first write.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._journal = root / f"{_JOURNAL}.jsonl"
        self._known = (_NO_FILE, 0)  # the journal as last read, and its entries: polling it costs one `stat`

    def read(self, path: str) -> bytes | None:
        """A file; None where there is none."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return (self._root / path).read_bytes()
        return None

    def write_folder(self, folder: str, files: dict[str, bytes]) -> None:
        """A folder of files, as a whole: written aside, synced, then moved into its place."""
        self._root.mkdir(parents=True, exist_ok=True)
        self._sweep()
        temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=self._root))
        try:
            for name, content in files.items():
                with (temporary / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            temporary.chmod(0o755)  # mkdtemp makes it private to the writer; servers may run as others
            if not (self._root / folder).exists():
                temporary.rename(self._root / folder)
                _sync(self._root)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def folders(self) -> list[str]:
        """All folders that are whole, by name."""
        if not self._root.is_dir():
            return []
        return sorted(
            path.name for path in self._root.iterdir() if path.is_dir() and not path.name.startswith(".")
        )

    def remove(self, folder: str) -> None:
        """Remove a folder."""
        shutil.rmtree(self._root / folder, ignore_errors=True)

    def last(self, after: int = 0) -> tuple[int, bytes] | None:
        """The newest entry with its number, where the file is not the one last seen."""
        try:
            found = self._journal.stat()
            known = (found.st_ino, found.st_size, found.st_mtime_ns)
            if self._known == (known, after):
                return None
            lines = self.entries()
        except FileNotFoundError:
            return None
        self._known = (known, len(lines))  # as it was before it was read: what came meanwhile is read again
        return (len(lines), lines[-1]) if lines else None

    def entries(self) -> list[bytes]:
        """All lines; one that was cut off by a crash was never acknowledged."""
        with suppress(FileNotFoundError):
            return _whole_lines(self._journal.read_bytes())
        return []

    def append(self, entry: bytes, *, after: int) -> bool:
        """Make an entry the one after the first `after`: on the disk when this returns."""
        if b"\n" in entry:
            raise ValueError("an entry of the journal is one line")
        self._root.mkdir(parents=True, exist_ok=True)
        with self._journal.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            content = file.read()
            if len(_whole_lines(content)) != after:
                return False
            end = content.rfind(b"\n") + 1
            file.truncate(end)  # a line cut off by a crash would swallow this one
            try:
                file.write(entry + b"\n")
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
        if after == 0:
            _sync(self._root)
        return True

    def _sweep(self) -> None:
        """What writers left that were killed."""
        for path in self._root.glob(f"{TEMPORARY}*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    shutil.rmtree(path, ignore_errors=True)


_NO_FILE = (0, 0, 0)


def _whole_lines(content: bytes) -> list[bytes]:
    return content[: content.rfind(b"\n") + 1].splitlines()


def _sync(folder: Path) -> None:
    """Have a folder's own entries on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_P = ParamSpec("_P")
_R = TypeVar("_R")


def _telling(step: Callable[Concatenate[ObjectStore, _P], _R]) -> Callable[Concatenate[ObjectStore, _P], _R]:
    """What the file system raises, as an error of ours."""

    @wraps(step)
    def told(store: ObjectStore, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return step(store, *args, **kwargs)
        except OSError as error:
            raise ModelUnavailableError(
                f"the model registry at {store.place} does not answer: {error}",
                hint="check TOCSIN_MODELS_URL, the credentials and the network; what serves goes on serving",
            ) from error

    return told


class ObjectStore:
    """Any file system of `pyarrow.fs`.

    Args:
        filesystem: Where.
        root: Below which path.
        place: What it is called in errors; never holds credentials.

    Raises:
        ModelUnavailableError: by each method, where the file system does not answer or refuses.
    """

    MARK = "complete"  # written last: a folder without it is not there yet

    def __init__(self, filesystem: Any, root: str, place: str = "") -> None:
        self._fs = filesystem
        self._root = root
        self.place = place or root

    @_telling
    def read(self, path: str) -> bytes | None:
        """A file; None where there is none."""
        try:
            with self._fs.open_input_stream(f"{self._root}/{path}") as stream:
                return bytes(stream.read())
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    @_telling
    def write_folder(self, folder: str, files: dict[str, bytes]) -> None:
        """A folder of files; the mark that makes it whole comes last."""
        if self.read(f"{folder}/{self.MARK}") is not None:
            return
        for name, content in files.items():
            self._write(f"{folder}/{name}", content)
        self._write(f"{folder}/{self.MARK}", b"")

    @_telling
    def folders(self) -> list[str]:
        """All folders that are whole, by name."""
        paths = self._names("", recursive=True)
        return sorted(path.partition("/")[0] for path in paths if path.endswith(f"/{self.MARK}"))

    @_telling
    def remove(self, folder: str) -> None:
        """Remove a folder, its mark first."""
        for path in (f"{folder}/{self.MARK}", folder):
            with suppress(FileNotFoundError):
                delete = self._fs.delete_file if path.endswith(self.MARK) else self._fs.delete_dir
                delete(f"{self._root}/{path}")

    @_telling
    def last(self, after: int = 0) -> tuple[int, bytes] | None:
        """The newest entry with its number: from a listing at first, then by looking for the next one."""
        number, found = after, None
        if after == 0 and (names := self._names(_JOURNAL, recursive=False)):
            number = max(int(name.partition(".")[0]) for name in names)
            found = self.read(_entry(number))
        while (entry := self.read(_entry(number + 1))) is not None:
            number, found = number + 1, entry
        return None if found is None else (number, found)

    @_telling
    def entries(self) -> list[bytes]:
        """All entries, several read at a time."""
        paths = [f"{_JOURNAL}/{name}" for name in sorted(self._names(_JOURNAL, recursive=False))]
        with ThreadPoolExecutor(READERS) as pool:
            return [entry for entry in pool.map(self.read, paths) if entry is not None]

    @_telling
    def append(self, entry: bytes, *, after: int) -> bool:
        """Make an entry the one after the first `after`, while nobody else has a claim."""
        with self._claimed() as until:
            if self.read(_entry(after + 1)) is not None or (after and self.read(_entry(after)) is None):
                return False
            if time.monotonic() > until:
                raise ConflictError("the object store is too slow to append to the journal safely")
            self._write(_entry(after + 1), entry)
        return True

    @contextmanager
    def _claimed(self) -> Iterator[float]:
        """Hold the only claim; yields until when that is sure, on the stopwatch."""
        name = f"{_CLAIMS}/{uuid4().hex}"
        for _ in range(CLAIM_TRIES):
            until = time.monotonic() + CLAIM_LIFE_S / 2
            self._write(name, b"")
            try:
                if self._claims() == [name]:
                    yield until
                    return
            finally:
                with suppress(FileNotFoundError):
                    self._fs.delete_file(f"{self._root}/{name}")
            time.sleep(CLAIM_WAIT_S * random.random())  # noqa: S311 (only apart in time)
        raise ConflictError(
            f"{CLAIM_TRIES} tries to append to the journal met other writers", hint="try again"
        )

    def _claims(self) -> list[str]:
        """Claims that may be of writers at work. Their age is told by the store's clock: against the newest, ours."""
        from pyarrow import fs  # noqa: PLC0415

        selector = fs.FileSelector(f"{self._root}/{_CLAIMS}", allow_not_found=True)
        infos = self._fs.get_file_info(selector)
        written = [info.mtime.timestamp() if info.mtime else math.inf for info in infos]
        newest = max((moment for moment in written if moment < math.inf), default=0.0)
        return [
            f"{_CLAIMS}/{info.base_name}"
            for info, moment in zip(infos, written, strict=True)
            if newest - moment < CLAIM_LIFE_S
        ]

    def _names(self, folder: str, *, recursive: bool) -> list[str]:
        from pyarrow import fs  # noqa: PLC0415

        base = f"{self._root}/{folder}".rstrip("/")
        selector = fs.FileSelector(base, allow_not_found=True, recursive=recursive)
        return [info.path.removeprefix(f"{base}/") for info in self._fs.get_file_info(selector)]

    def _write(self, path: str, content: bytes) -> None:
        whole = f"{self._root}/{path}"
        self._fs.create_dir(whole.rpartition("/")[0], recursive=True)  # a no-op where folders are only names
        with self._fs.open_output_stream(whole) as stream:
            stream.write(content)


def _entry(number: int) -> str:
    return f"{_JOURNAL}/{number:010d}.json"
