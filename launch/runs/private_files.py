"""The data folder is its owner's alone: it holds people's messages."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

UMASK = 0o077
"""Of the platform and all that it starts: Ray, Serve, HAProxy, the storage server."""
_OTHERS = 0o077


def close_to_others(folder: Path) -> int:
    """Take from a folder and all that is in it the rights of everybody but the owner.

    Links are not followed, and what belongs to somebody else is left. A folder that is closed is not looked into:
    nobody else can get at what is in it.

    Returns:
        How many files and folders were open to others; 0 where the folder was closed.
    """
    if not folder.stat().st_mode & _OTHERS:
        return 0
    folder.chmod(folder.stat().st_mode & 0o700)
    mended = 1
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            mended += _close(Path(place, name))
    return mended


def _close(path: Path) -> bool:
    with contextlib.suppress(OSError):
        mode = path.lstat().st_mode
        if mode & _OTHERS and not path.is_symlink():
            path.chmod(mode & 0o700)
            return True
    return False
