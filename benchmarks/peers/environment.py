"""The peers' own packages, installed on first use into `.peers/` of the checkout; `make clean` removes it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness.run import say
from benchmarks.peers.libraries import FOREIGN, Runtime

CHECKOUT = FOREIGN.parents[2]
HOME = CHECKOUT / ".peers"
INSTALL_S = 300.0


class Unavailable(Exception):  # noqa: N818 (a state, not a mistake)
    """A runtime is not available on this machine; the message says why and what would help."""


def make(runtime: Runtime, home: Path = HOME) -> Mapping[str, str]:
    """Install what the lock file names, where that is not done yet. Returns the environment to run its programs in.

    Raises:
        Unavailable: a tool is missing, or what it installs cannot be fetched.
    """
    return _python(home / "python") if runtime is Runtime.PYTHON else _node(home / "node")


def _python(folder: Path) -> Mapping[str, str]:
    uv = shutil.which("uv") or shutil.which("uv", path=str(CHECKOUT / ".uv" / "bin"))
    if uv is None:
        raise Unavailable("uv is missing; `make setup` installs it into this checkout")
    environ = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    _run(
        [uv, "sync", "--frozen", "--quiet", "--project", str(FOREIGN), "--python", sys.executable],
        {**environ, "UV_PROJECT_ENVIRONMENT": str(folder)},
        FOREIGN,
    )
    return {"PATH": _first(folder / "bin"), "PYTHONPATH": str(FOREIGN)}


def _node(folder: Path) -> Mapping[str, str]:
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise Unavailable("node and npm are missing; BullMQ needs Node 18 or later")
    lock = FOREIGN / "package-lock.json"
    installed = folder / "installed.json"  # the lock file it was made from
    if not installed.is_file() or installed.read_bytes() != lock.read_bytes():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ("package.json", lock.name):
            shutil.copy(FOREIGN / name, folder / name)
        # Not `npm ci`, which refuses a lock without the optional binaries of other systems.
        quiet = ("--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        _run(["npm", "install", *quiet], os.environ, folder)
        shutil.copy(lock, installed)
    return {"PATH": os.environ["PATH"], "NODE_PATH": str(folder / "node_modules")}


def _first(folder: Path) -> str:
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def _run(command: Sequence[str], environ: Mapping[str, str], folder: Path) -> None:
    say(f"peers: {Path(command[0]).name} installs what {folder.name} locks, where that is not done yet")
    try:
        done = subprocess.run(  # noqa: S603 (fixed commands, no shell)
            command,
            env=environ,
            cwd=folder,
            timeout=INSTALL_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]} failed: {error}") from error
    if done.returncode:
        raise Unavailable(f"{command[0]} ended with status {done.returncode}")
