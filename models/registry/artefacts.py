"""Where the registry keeps its files: a folder on this machine, or an object store, behind one port.

Two things are kept, and each is written whole or not at all:

- files by path, and folders of them;
- one journal: entries numbered from 1, each appended only if it follows the ones its writer has read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from models.registry.local_folder import LocalFolder

_URL = re.compile(r"^[a-z][a-z0-9+.-]*://")


class ArtefactStore(Protocol):
    """Files and a journal. Paths are relative, with `/` between their parts."""

    def read(self, path: str) -> bytes | None:
        """A file; None where there is none."""
        ...

    def write_folder(self, folder: str, files: dict[str, bytes]) -> None:
        """Write a folder of files as a whole. One that exists is left as it is: a folder is never changed."""
        ...

    def folders(self) -> list[str]:
        """All folders that are whole, by name."""
        ...

    def remove(self, folder: str) -> None:
        """Remove a folder; nothing happens where there is none."""
        ...

    def last(self, after: int = 0) -> tuple[int, bytes] | None:
        """The newest entry with its number; None while the journal is as it was when it had `after` entries.

        Of a journal that was replaced by an older copy the newest entry is returned, also where it has fewer.
        """
        ...

    def entries(self) -> list[bytes]:
        """All entries of the journal, in order."""
        ...

    def append(self, entry: bytes, *, after: int) -> bool:
        """Make an entry the one after the first `after`, for good. False: another writer was first."""
        ...


def open_store(location: str | Path, name: str) -> ArtefactStore:
    """The store below a folder, or below a URI: `s3://bucket/models`, `gs://…`, `az://…`, `abfs://…`, `file:///…`.

    Raises:
        ConfigurationError: the URI names no store.
        ModelUnavailableError: Amazon was asked for the bucket's region, and did not answer.
    """
    text = str(location).removeprefix("file://")
    if not _URL.match(text):
        return LocalFolder(Path(text).expanduser() / name)
    from models.registry.object_store import ObjectStore, connect  # noqa: PLC0415 (heavy: only for object stores)

    store, prefix, place = connect(text)
    return ObjectStore(store, f"{prefix}/{name}".lstrip("/"), place)
