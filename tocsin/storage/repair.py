"""Mending the append-only file of an embedded server that does not start any more."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import msgspec

from tocsin.errors import ConfigurationError, StorageUnavailableError
from tocsin.storage.embedded import server_binary, storage_dir
from tocsin.storage.folder_lock import try_lock

REPAIR_TIMEOUT_S = 3_600.0
MANIFEST = "appendonly.aof.manifest"


class Repair(msgspec.Struct, frozen=True, kw_only=True):
    """What was done."""

    copy: str  # of the files as they were
    bytes_before: int
    bytes_after: int
    said: str  # the last lines of the tool


def repair(data: Path, stamp: str) -> Repair:
    """Copy the append-only files, then cut them off where the damage begins (`valkey-check-aof --fix`).

    Args:
        data: The platform's data folder.
        stamp: Ends the name of the copy.

    Raises:
        ConfigurationError: a server runs there, or there is nothing to repair.
        StorageUnavailableError: the copy does not fit, or the tool cannot mend it.
    """
    folder = storage_dir(data)
    files = folder / "appendonlydir"
    if not (files / MANIFEST).exists():
        raise ConfigurationError(f"there is no append-only file in {files}")
    lock = try_lock(folder)
    if lock is None:
        raise ConfigurationError(f"a server runs in {folder}", hint="`tocsin down` first")
    try:
        before = _size(files)
        copy = folder / f"appendonlydir.before-{stamp}"
        _copy(files, copy, before)
        said = _fix(files)
        return Repair(copy=str(copy), bytes_before=before, bytes_after=_size(files), said=said)
    finally:
        os.close(lock)


def _copy(files: Path, copy: Path, size: int) -> None:
    free = shutil.disk_usage(files).free
    if free < size:
        raise StorageUnavailableError(
            f"the copy needs {size / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are left on the disk of {files}",
            hint="make room first: nothing was changed",
        )
    shutil.copytree(files, copy)


def _fix(files: Path) -> str:
    # The server's binary is that tool when it is called by that name. Given the manifest it refuses the first file,
    # whose signature of Valkey 9 it does not know; and only the last file may be cut off.
    done = subprocess.run(  # noqa: S603 (our own binary)
        ["valkey-check-aof", "--fix", str(files / _last(files))],  # noqa: S607 (only its name)
        executable=server_binary(),
        input="y\n",
        capture_output=True,
        text=True,
        errors="replace",
        timeout=REPAIR_TIMEOUT_S,
        check=False,
    )
    said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-4:])
    if done.returncode != 0:
        raise StorageUnavailableError(
            f"valkey-check-aof cannot mend it:\n{said}",
            hint=f"the files as they were stand beside {files}; restore a backup of that folder",
        )
    return said


def _last(files: Path) -> str:
    """The file that was written to last, as the manifest says: `file NAME seq N type i`."""
    lines = [line.split() for line in (files / MANIFEST).read_text().splitlines()]
    names = [line[1] for line in lines if len(line) >= 6 and line[0] == "file" and line[5] == "i"]
    if not names:
        raise StorageUnavailableError(
            f"the manifest {files / MANIFEST} names no file that can be cut off",
            hint="restore a backup of that folder",
        )
    return names[-1]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
