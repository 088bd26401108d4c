"""Starting and stopping the whole platform on this machine, in order.

    storage ──► lanes ──► Ray ──► pools ──► Serve applications ──► ready
    (stop goes the other way: ingress, pools drain, Ray, storage)

This is the composition root for a person: the one place that knows every part.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import random
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec
import psutil

from launch.storage import check_places, prepare
from tocsin.errors import ConfigurationError, StorageUnavailableError, TocsinError
from tocsin.ports import free_port, is_free
from tocsin.settings import ACCOUNT_CHANNELS, Settings
from tocsin.storage.embedded import EmbeddedServer
from tocsin.storage.servers import MAIN
from tocsin.wire.lanes import LaneName

READY_DEADLINE_S = 60.0
LOGICAL_CPUS = 8  # declared to Ray: what runs here waits more than it computes
REPLICA_PORTS = 128
REPLICA_PORT_SPACE = (20_000, 32_768)  # above Ray's worker ports, below those the system hands out
ROOT = Path(__file__).resolve().parents[2]

Report = Callable[[str, str], None]
"""Called with a part's name and a line about it as it comes up."""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What `<data>/run.json` says about the platform that runs there."""

    pid: int
    started_at: float  # of the process
    base_url: str
    dashboard_url: str
    token_path: str
    storage: str
    scratch: str  # Ray's working files; gone when it stops
    ready: bool = False

    def alive(self) -> bool:
        """Whether that process still runs."""
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started_at) < 1.0
        except psutil.NoSuchProcess:
            return False


def read_run(settings: Settings) -> RunRecord | None:
    """The record of a running platform in this data folder; None when none runs."""
    try:
        record = msgspec.json.decode((settings.data_path / "run.json").read_bytes(), type=RunRecord)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return record if record.alive() else None


def remove_scratch(settings: Settings) -> None:
    """Remove what a platform that was killed left behind of Ray's working files."""
    path = settings.data_path / "run.json"
    with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
        record = msgspec.json.decode(path.read_bytes(), type=RunRecord)
        if record.scratch and not record.alive():
            shutil.rmtree(record.scratch, ignore_errors=True)
            path.unlink()


class AlreadyRunningError(TocsinError):
    """Another platform holds the data folder."""

    code = "already-running"

    def __init__(self, record: RunRecord | None, data: Path) -> None:
        self.record = record
        where = f" at {record.base_url} (process {record.pid})" if record else ""
        super().__init__(f"a platform already runs in {data}{where}", hint="`tocsin status` shows it")


class Platform:
    """One running platform. Use as a context manager, so that whatever was started is stopped.

    Args:
        settings: Everything that can be set.
        report: Told about each part as it comes up.
        address: A running Ray cluster to join; empty: a local one is started.
    """

    def __init__(self, settings: Settings, report: Report, *, address: str = "") -> None:
        self.settings = settings
        self._report = report
        self._address = address
        self._lock: IO[str] | None = None
        self._server: EmbeddedServer | None = None
        self._scratch: Path | None = None
        self._ray_started = False
        self.ready_s = 0.0

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ------------------------------------------------------------------ start

    def start(self) -> None:
        """Bring everything up; returns when the platform can do its job.

        Raises:
            AlreadyRunningError: another one holds the data folder.
            ConfigurationError: a port is taken, a setting is unsafe, storage is unsuitable.
            StorageUnavailableError: storage does not answer.
        """
        began = time.monotonic()
        self._take_lock()
        self._scratch = scratch = Path(tempfile.mkdtemp(prefix="tocsin-"))
        self._check_ports()
        self._check_accounts()
        check_places(self.settings)
        storage = self._start_storage()
        self._record(storage, ready=False)
        self._start_ray(scratch)
        handles = self._start_pools()
        self._start_serve()
        self._await_pools(handles)
        self._await_ready()
        self._record(storage, ready=True)
        self.ready_s = round(time.monotonic() - began, 1)

    def _take_lock(self) -> None:
        data = self.settings.data_path
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (data / "lock").open("w", encoding="ascii")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise AlreadyRunningError(read_run(self.settings), data) from None
        self._lock = lock
        remove_scratch(self.settings)

    def _check_ports(self) -> None:
        if self._address:
            return
        for name, host, port in (
            ("TOCSIN_PORT", self.settings.host, self.settings.port),
            ("TOCSIN_DASHBOARD_PORT", "127.0.0.1", self.settings.dashboard_port),
        ):
            if not is_free(host, port):
                raise ConfigurationError(
                    f"port {port} on {host} is taken by another program", hint=f"set {name} to a free port"
                )

    def _check_accounts(self) -> None:
        """A provider's URL that cannot be used is found here, not when the first router starts."""
        if any(self.settings.providers(channel) for channel in ACCOUNT_CHANNELS):
            from routing.channels.configured import check_accounts

            check_accounts(self.settings)

    def _start_storage(self) -> str:
        """Returns a line about it for the record."""
        if self._address and not self.settings.redis_url:
            raise ConfigurationError(
                "a Ray cluster needs storage that all its nodes can reach, and TOCSIN_REDIS_URL is empty",
                hint="set it here and in the environment of every node",
            )
        if not self.settings.redis_url:
            self._server = EmbeddedServer(
                self.settings.data_path,
                lambda line: self._report("storage", line),
                maxmemory_mib=self.settings.maxmemory_mib,
            )
            self._server.start()
        found = asyncio.run(prepare(self.settings))
        for server, facts in found:
            name = "storage" if server.name == MAIN else f"storage {server.name}"
            kind = "embedded" if self._server and server.name == MAIN else "external"
            says = f"{kind} {facts.flavour} {facts.version} at {server.address}"
            self._report(name, f"{says}, durability {facts.durability.value}")
        return ", ".join(
            ("" if server.name == MAIN else f"{server.name}: ")
            + f"{facts.flavour} {facts.version} ({facts.durability.value})"
            for server, facts in found
        )

    def _start_ray(self, scratch: Path) -> None:
        if "ray" in sys.modules and os.environ.get("RAY_AUTH_MODE") != "token":
            raise ConfigurationError(
                "Ray was imported before its environment was set, so it would run without authentication",
                hint="set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH before anything imports ray",
            )
        os.environ.update(ray_environment(self.settings, scratch))
        if not self._address:  # a cluster that runs already has its token
            ensure_token(self.token_path)
            os.environ["RAY_AUTH_TOKEN_PATH"] = str(self.token_path)
        import ray

        self._ray_started = True
        quieten(self.settings.data_path / "logs")
        with keep_signal_handlers():
            self._init_ray(ray, scratch)

    def _init_ray(self, ray: Any, scratch: Path) -> None:
        if self._address:
            check_reachable(self._address)
            environment = {"working_dir": str(ROOT), "excludes": [".venv", ".git", ".uv", ".*_cache"]}
            ray.init(
                address=self._address,
                namespace="tocsin",
                runtime_env=environment,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
            )
            self._report("ray", f"joined the cluster at {self._address}")
            return
        ray.init(
            num_cpus=LOGICAL_CPUS,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            dashboard_port=self.settings.dashboard_port,
            namespace="tocsin",
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            _temp_dir=str(scratch / "ray"),
        )
        self._report("ray", f"dashboard at {self.dashboard_url}, token in {self.token_path}")

    def _start_pools(self) -> dict[str, Any]:
        from actors.pools import ensure_pools
        from launch.assembly import host

        return ensure_pools(self.settings, host)

    def _await_pools(self, handles: dict[str, Any]) -> None:
        from actors.pools import await_pools, ensure_supervisor
        from launch.assembly import guard, host

        ensure_supervisor(self.settings, host, guard)
        members = await_pools(handles, timeout_s=READY_DEADLINE_S)
        for lane in LaneName:
            names = [member.name for member in members if member.lane == lane]
            self._report(f"lane {lane}", f"{self.settings.partitions(lane)} partitions, {', '.join(names)}")

    def _start_serve(self) -> None:
        from ray import serve
        from ray.serve.config import HTTPOptions

        from serve_deployments.applications import BUILDERS, SPECS

        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # our own lines say what came up
        serve.start(
            http_options=HTTPOptions(host=self.settings.host, port=self.settings.port),
            proxy_location="HeadOnly",
        )
        targets = [
            serve.RunTarget(target=build({}), name=name, route_prefix=SPECS[name].prefix)
            for name, build in BUILDERS.items()
        ]
        serve.run_many(targets)
        for name in BUILDERS:
            self._report(f"app {name}", self.settings.base_url + SPECS[name].prefix)

    def _await_ready(self) -> None:
        deadline = time.monotonic() + READY_DEADLINE_S
        detail = "no answer"
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.settings.base_url}/readyz", timeout=5):  # noqa: S310 (our own URL)
                    self._report(
                        "ready", f"{self.settings.base_url}  (documentation: {self.settings.base_url}/docs)"
                    )
                    return
            except urllib.error.HTTPError as error:
                detail = error.read().decode(errors="replace")[:500]
            except OSError as error:
                detail = str(error)
            time.sleep(0.1)
        raise StorageUnavailableError(
            f"the platform did not become ready within {READY_DEADLINE_S:g} s: {detail}"
        )

    # ------------------------------------------------------------------ stop

    def stop(self) -> None:
        """Stop what `start` started, newest first. Never raises for a part that is already gone."""
        if self._ray_started:
            self._stop_ray()
        if self._server is not None:
            self._server.stop()
            self._server = None
            self._report("storage", "stopped; its data stays")
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None
        if self._lock is not None:
            (self.settings.data_path / "run.json").unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def _stop_ray(self) -> None:
        import ray
        from ray import serve

        from actors.pools import stop_pools

        if ray.is_initialized():
            with contextlib.suppress(Exception):  # going down: what fails here is already gone
                stop_serve: Any = serve.shutdown  # untyped upstream
                stop_serve()
                self._report("serve", "stopped")
            with contextlib.suppress(Exception):
                drained = stop_pools()
                self._report("pools", "drained" if drained else "stopped; what was in flight stays pending")
        children = psutil.Process().children(recursive=True) if not self._address else []
        ray.shutdown()
        self._ray_started = False
        _, alive = psutil.wait_procs([p for p in children if not self._is_storage(p)], timeout=10)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._report("ray", "stopped")

    def _is_storage(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return process.name().startswith("valkey")
        return False

    # ------------------------------------------------------------------ facts

    @property
    def dashboard_url(self) -> str:
        """The Ray dashboard of the local cluster."""
        return f"http://127.0.0.1:{self.settings.dashboard_port}"

    @property
    def token_path(self) -> Path:
        """The file with the token that the dashboard asks for."""
        return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or self.settings.data_path / "ray-token")

    def _record(self, storage: str, *, ready: bool) -> None:
        record = RunRecord(
            pid=os.getpid(),
            started_at=psutil.Process().create_time(),
            base_url=self.settings.base_url,
            dashboard_url=self.dashboard_url,
            token_path=str(self.token_path),
            storage=storage,
            scratch=str(self._scratch),
            ready=ready,
        )
        path = self.settings.data_path / "run.json"
        temporary = path.with_suffix(".json.new")
        temporary.write_bytes(msgspec.json.encode(record))
        temporary.replace(path)


def ensure_token(path: Path) -> None:
    """Make the cluster's token, readable by the owner alone, unless there is one."""
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))


def ray_environment(settings: Settings, scratch: Path) -> dict[str, str]:
    """What Ray and its workers find in their environment. Holds secrets, as `Settings.to_env` does."""
    replica_ports = port_block(REPLICA_PORTS)
    return settings.to_env() | {
        # Replicas share ports by SO_REUSEPORT: two platforms with the same range would take each other's requests.
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(replica_ports.start),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(replica_ports.stop - 1),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_AUTH_MODE": "token",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # the pools rank themselves, p0 first
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(scratch / "haproxy" / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(scratch / "haproxy" / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(scratch / "haproxy"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(scratch / "haproxy" / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore::FutureWarning",
    }


@contextlib.contextmanager
def keep_signal_handlers() -> Iterator[None]:
    """Ray installs handlers that end the process on the spot; ours stop the platform in order."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def quieten(folder: Path) -> None:
    """Send what Ray says of its own workings to a file: standard output belongs to the command.

    Ray prints raylet messages to the driver's standard output whatever `log_to_driver` says.
    """
    import ray._private.worker as driver

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ray.log"

    def keep(data: dict[str, Any], ignore_prefix: bool = False) -> None:  # noqa: ARG001 (the hook's signature)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in data["lines"])

    driver.print_to_stdstream = keep


def check_reachable(address: str) -> None:
    """Ask before Ray does: it would try for minutes.

    Raises:
        ConfigurationError: nothing listens at `host:port`. Other forms (`auto`, `ray://…`) are Ray's to check.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except OSError as error:
        raise ConfigurationError(
            f"no Ray cluster answers at {address}: {error}", hint="`ray status` there shows whether it runs"
        ) from None


def port_block(size: int) -> range:
    """A run of loopback ports nobody listens on, below those the system hands out by itself.

    Raises:
        ConfigurationError: there is none.
    """
    starts = list(range(*REPLICA_PORT_SPACE, size))
    random.shuffle(starts)  # two platforms that start together are unlikely to look at the same run
    for start in starts:
        block = range(start, start + size)
        if all(is_free("127.0.0.1", port) for port in block):
            return block
    raise ConfigurationError(
        f"no {size} free ports in a row between {REPLICA_PORT_SPACE[0]} and {REPLICA_PORT_SPACE[1]}"
    )
