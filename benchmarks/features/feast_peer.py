"""Feast: its environment, made on first use in `.peers/feast`, and its process, driven by orders.

What it does is in `benchmarks/features/foreign/measure.py`; its lock file lies alongside that.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from redis.connection import parse_url

from benchmarks.harness.run import say

ROOT = Path(__file__).resolve().parents[2]
PROJECT = Path(__file__).parent / "foreign"
ENVIRONMENT = ROOT / ".peers" / "feast"
INSTALL_S = 900.0
MEMORY_BYTES = 12 * 1024**3  # of address space: rather a MemoryError there than a machine that swaps


def ensure_environment() -> Path:
    """The interpreter of Feast's environment, which is made where it is missing or older than its lock file.

    Raises:
        RuntimeError: uv is not there, or could not install it.
    """
    python, mark = ENVIRONMENT / "bin" / "python", ENVIRONMENT / ".synced"
    lock = PROJECT / "uv.lock"
    if mark.exists() and mark.stat().st_mtime >= lock.stat().st_mtime:
        return python
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    if not Path(uv).exists():
        raise RuntimeError("uv is needed to install Feast; `make setup` brings it")
    say("features: installing Feast into .peers/feast (once)")
    command = [uv, "sync", "--frozen", "--quiet", "--project", str(PROJECT)]
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment["UV_PROJECT_ENVIRONMENT"] = str(ENVIRONMENT)
    done = subprocess.run(command, env=environment, timeout=INSTALL_S, check=False)  # noqa: S603 (no shell)
    if done.returncode:
        raise RuntimeError(f"Feast could not be installed: uv ended with {done.returncode}")
    mark.touch()
    return python


class FeastPeer:
    """Feast's process; ends with the `with` block.

    Args:
        url: The server both sides use.
        folder: For its registry.
    """

    def __init__(self, url: str, folder: Path) -> None:
        python = ensure_environment()
        folder.mkdir(parents=True, exist_ok=True)
        environment: Mapping[str, str] = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(folder),
            "PEERS_FOLDER": str(folder),
            "PEERS_REDIS": _connection_string(url),
            "FEAST_USAGE": "False",
        }
        self._process = subprocess.Popen(  # noqa: S603 (no shell)
            [str(python), str(PROJECT / "measure.py")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=_limit_memory,  # noqa: PLW1509 (no threads of ours hold locks it needs)
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def run(self, order: str, **values: Any) -> dict[str, Any]:
        """Carry out an order.

        Raises:
            RuntimeError: it failed; the reason is on standard error.
        """
        assert self._process.stdin is not None  # noqa: S101 (made with pipes)
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(msgspec.json.encode({"order": order, **values}) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"Feast ended with status {self._process.wait()} during {order}")
        found: dict[str, Any] = msgspec.json.decode(line)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(15.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _connection_string(url: str) -> str:
    """Feast's way to name a server. Holds the password: never log it."""
    parse: Any = parse_url  # untyped upstream
    parts = parse(url)
    found = f"{parts['host']}:{parts['port']},db={parts.get('db', 0)}"
    return f"{found},password={parts['password']}" if parts.get("password") else found


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
