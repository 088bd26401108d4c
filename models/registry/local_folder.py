"""Models in a folder of this machine: synced files in folders that appear whole, and a journal in one file.

| what             | how it is written                                                             |
|------------------|-------------------------------------------------------------------------------|
| a folder         | to `.tmp-…`, each file synced, then moved to its name, then the parent synced  |
| a journal entry  | one line of `journal.jsonl`, appended under `flock` and synced                 |

When a write returns, it is on the disk. The local store of obstore gives neither that (it never calls `fsync`) nor a
folder that appears as a whole, so it is not used here.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

TEMPORARY = ".tmp-"
_ABANDONED_S = 3_600.0
_NO_FILE = (0, 0, 0)


class LocalFolder:
    """A folder on this machine, or on a file system that locks (`flock`) and moves atomically.

    Args:
        root: Made on the first write.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._journal = root / "journal.jsonl"
        self._last_read = (_NO_FILE, 0)  # the file and its number of entries: polling it costs one `stat`

    def read(self, path: str) -> bytes | None:
        """A file; None where there is none."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return (self._root / path).read_bytes()
        return None

    def write_folder(self, folder: str, files: dict[str, bytes]) -> None:
        """Write a folder of files to a temporary place, sync it and move it; one that exists is left as it is."""
        self._root.mkdir(parents=True, exist_ok=True)
        self._sweep()
        temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=self._root))
        try:
            for name, content in files.items():
                with (temporary / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            temporary.chmod(
                self._root.stat().st_mode & 0o777
            )  # servers may run as others: who may read is the root's
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
        """The newest entry with its number; None where the file is the one last read."""
        try:
            status = self._journal.stat()
            identity = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self._last_read == (identity, after):
                return None
            lines = self.entries()
        except FileNotFoundError:
            return None
        # The identity is from before the read: what was added meanwhile is read again.
        self._last_read = (identity, len(lines))
        return (len(lines), lines[-1]) if lines else None

    def entries(self) -> list[bytes]:
        """All whole lines; one that was cut off by a crash was never acknowledged."""
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
        """Remove what writers left that were killed."""
        for path in self._root.glob(f"{TEMPORARY}*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    shutil.rmtree(path, ignore_errors=True)


def _whole_lines(content: bytes) -> list[bytes]:
    return content[: content.rfind(b"\n") + 1].splitlines()


def _sync(folder: Path) -> None:
    """Sync a folder's own entries to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
