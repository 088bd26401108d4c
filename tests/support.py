"""What several test folders need: free settings, a webhook that can misbehave, and waiting without sleeping."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from tests.paths import ROOT
from tocsin.ports import free_port
from tocsin.settings import Settings

if TYPE_CHECKING:
    from actors.members import MemberStats

T = TypeVar("T")


def free_settings(folder: Path) -> Settings:
    """Settings of a platform of its own: folder, ports, embedded storage."""
    return msgspec.structs.replace(
        Settings.from_env({}), data_dir=str(folder), port=free_port(), dashboard_port=free_port()
    )


@contextmanager
def foreign_server(binary: str, folder: Path, **options: str) -> Iterator[Foreign]:
    """A Redis or Valkey of somebody else's, on a port of its own; `appendfsync="no"` and the like set it up."""
    import redis

    port = free_port()
    given = {"port": str(port), "bind": "127.0.0.1", "save": "", "dir": str(folder)} | options
    arguments = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    process = subprocess.Popen([binary, *arguments], stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port) as probe:
            eventually(probe.ping, what=binary)
        yield Foreign(f"redis://127.0.0.1:{port}/0", process)
    finally:
        process.kill()
        process.wait(timeout=10)


class Foreign(msgspec.Struct, frozen=True):
    """Such a server while it runs."""

    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """As a crash would end it."""
        self.process.kill()
        self.process.wait(timeout=10)


def eventually(probe: Callable[[], T | None], *, timeout_s: float = 30.0, what: str = "it") -> T:
    """The first truthy answer of `probe`; fails when none comes in time, with the last error."""
    deadline = time.monotonic() + timeout_s
    last: Exception | None = None
    while time.monotonic() < deadline:
        try:
            answer = probe()
        except Exception as error:  # noqa: BLE001 (asked again until the deadline)
            last = error
        else:
            if answer:
                return answer
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {timeout_s:g} s; last error: {last!r}")


def proof(*arguments: str, leftovers: str, timeout_s: float) -> dict[str, Any]:
    """What `python -m ARGUMENTS` proves, as its one line of JSON says; it must succeed, and leave nothing behind.

    Args:
        arguments: A module and its options.
        leftovers: The temporary folders it makes, as a pattern.
        timeout_s: The most it may take.
    """
    folder = Path(tempfile.gettempdir())
    before = set(folder.glob(leftovers))
    ended = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr[-4000:]
    (line,) = ended.stdout.splitlines()
    assert set(folder.glob(leftovers)) <= before
    found: dict[str, Any] = json.loads(line)
    return found


def member_stats(name: str) -> MemberStats:
    """What a pool member says of itself."""
    import ray

    from actors.members import MemberStats
    from tocsin.actor_names import NAMESPACE

    untyped: Any = ray
    stats = untyped.get(untyped.get_actor(name, namespace=NAMESPACE).stats.remote(), timeout=20)
    assert isinstance(stats, MemberStats)
    return stats


class Webhook:
    """A real HTTP server that records every request and answers by path: `/ok`, `/fail/503`, `/slow/2`, `/flaky/2`."""

    def __init__(self) -> None:
        self.requests: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._lock = threading.Lock()
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                with webhook._lock:
                    seen = webhook.requests[self.path]
                    seen.append({"headers": dict(self.headers), "body": msgspec.json.decode(body)})
                    count = len(seen)
                status = webhook.status(self.path, count)
                self.send_response(status)
                if status == 302:
                    self.send_header("location", "/ok")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def status(self, path: str, count: int) -> int:
        """What to answer the `count`-th request of a path."""
        kind, _, value = path.strip("/").partition("/")
        argument = value.partition("/")[0]
        if kind == "fail":
            return int(argument)
        if kind == "flaky":
            return 500 if count <= int(argument) else 200
        if kind == "slow":
            time.sleep(float(argument))
        return 200

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """What arrived at a path so far."""
        with self._lock:
            return [request["body"] for request in self.requests[path]]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
