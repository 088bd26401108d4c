"""Where a model came from: the code it was made with, and who made it."""

from __future__ import annotations

import getpass
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

GIT_DEADLINE_S = 5.0


def code_revision(folder: Path | None = None) -> str:
    """The commit of a checkout, `+` behind it where files differ from it; else the release; else empty."""
    where = folder or Path(__file__).parents[1]
    revision = _git(where, "rev-parse", "HEAD").strip()
    if revision:
        return revision + ("+" if _git(where, "status", "--porcelain", "--untracked-files=no") else "")
    try:
        return version("tocsin")
    except PackageNotFoundError:
        return ""


def whoami() -> str:
    """`user@machine`, for the journal."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "unknown"
    return f"{user}@{platform.node()}"


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 (fixed words)
            ["git", "-C", str(folder), *arguments],  # noqa: S607 (whatever git there is)
            capture_output=True,
            text=True,
            timeout=GIT_DEADLINE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
