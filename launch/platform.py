"""Starting and stopping the whole platform on this machine, in order.

    storage ──► lanes ──► Ray ──► pools ──► Serve applications ──► ready
    (stop goes the other way: ingress, pools drain, Ray, storage)

This is the composition root for a person: the one place that knows every part.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import psutil

from launch.ray_cluster import ensure_token, join, keep_signal_handlers, quieten, ray_environment, start
from launch.run_record import RunRecord, record_path, remove_scratch, take_lock, write_run
from launch.storage import check_places, prepare
from tocsin.errors import ConfigurationError, StorageUnavailableError
from tocsin.ports import is_free
from tocsin.settings import ACCOUNT_CHANNELS, Settings
from tocsin.storage.embedded import EmbeddedServer
from tocsin.storage.servers import MAIN
from tocsin.wire.lanes import LaneName

READY_DEADLINE_S = 60.0

Report = Callable[[str, str], None]
"""Called with a part's name and a line about it as it comes up."""


class Platform:
    """One running platform. Use as a context manager, so that whatever was started is stopped.

    Args:
        settings: Everything that can be set.
        report: Called with each part and a line about it as it comes up.
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
        self._lock = take_lock(self.settings)
        remove_scratch(self.settings)
        self._scratch = scratch = Path(tempfile.mkdtemp(prefix="tocsin-"))
        self._check_ports()
        self._check_accounts()
        check_places(self.settings)
        self._check_rules()
        storage = self._start_storage()
        self._record(storage, ready=False)
        self._start_ray(scratch)
        handles = self._start_pools()
        self._start_serve()
        self._await_pools(handles)
        self._await_ready()
        self._record(storage, ready=True)
        self.ready_s = round(time.monotonic() - began, 1)

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

    def _check_rules(self) -> None:
        """Rules of priority that cannot be used are found here, not when the first replica starts."""
        if self.settings.rules:
            from routing.intake.rules import read_rules

            read_rules(Path(self.settings.rules))

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
        self._ray_started = True
        quieten(self.settings.data_path / "logs")
        with keep_signal_handlers():
            if self._address:
                join(self._address)
                self._report("ray", f"joined the cluster at {self._address}")
            else:
                start(scratch, self.settings.dashboard_port)
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

        from serve_deployments.applications import APPLICATIONS

        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # our own lines say what came up
        serve.start(
            http_options=HTTPOptions(host=self.settings.host, port=self.settings.port),
            proxy_location="HeadOnly",
        )
        targets = [
            serve.RunTarget(target=spec.build(), name=name, route_prefix=spec.prefix)
            for name, spec in APPLICATIONS.items()
        ]
        serve.run_many(targets)
        for name, spec in APPLICATIONS.items():
            self._report(f"app {name}", self.settings.base_url + spec.prefix)

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
            record_path(self.settings).unlink(missing_ok=True)
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
        write_run(self.settings, record)
