"""Starting and stopping the whole platform on this machine, in order.

    storage ──► lanes ──► Ray ──► pools ──► Serve applications ──► ready ──► watched
    (stop goes the other way: ingress, pools drain, Ray, storage)

This is the composition root for a person: the one place that knows every part.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import psutil

from launch.ray_cluster import ensure_token, join, keep_signal_handlers, quieten, ray_environment, start
from launch.run_record import RunRecord, clear_killed, clear_scratch, record_path, take_lock, write_run
from launch.runs import logs
from launch.runs.private_files import UMASK, close_to_others
from launch.runs.processes import MARK, children, end_all, mark, of_folder, remember, storage_pids
from launch.runs.ray_part import RayPart, forget_ray
from launch.runs.serve_part import await_ready, deploy
from launch.runs.watcher import RestartNeededError, Watcher
from launch.storage import check_places, prepare
from launch.supervisor_watch import SupervisorWatch
from tocsin.errors import ConfigurationError, TocsinError
from tocsin.ports import is_free
from tocsin.settings import ACCOUNT_CHANNELS, Settings
from tocsin.storage.embedded import EmbeddedServer
from tocsin.storage.servers import MAIN
from tocsin.wire.lanes import LaneName

READY_DEADLINE_S = 60.0
REMEMBER_EVERY_S = 5.0

Report = Callable[[str, str], None]
"""Called with a part's name and a line about it as it comes up."""


class Platform:
    """One running platform. Use as a context manager, so that whatever was started is stopped.

    Args:
        settings: Everything that can be set.
        report: Called with each part and a line about it as it comes up.
        address: A running Ray cluster to join; empty: a local one is started.
        run: The folder of this run's logs; None: a new one.

    Attributes:
        watcher: Looks after the parts. Whoever stays up calls its `check` about once a second; others may `add` parts.
    """

    def __init__(
        self, settings: Settings, report: Report, *, address: str = "", run: Path | None = None
    ) -> None:
        self.settings = settings
        self._out = report
        self._address = address
        self._run = run
        self._ray = RayPart()
        self.watcher = Watcher(self.say)
        self._umask: int | None = None
        self._storage_line = ""
        self._roots: list[psutil.Process] = []
        self._remembered_at = 0.0
        self._lock: IO[str] | None = None
        self._server: EmbeddedServer | None = None
        self._scratch: Path | None = None
        self._ray_started = False
        self._watch: SupervisorWatch | None = None
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
        if isinstance(error, RestartNeededError):
            self.abandon(f"{error.part}: {error.message}; starting again")
        else:
            self.stop()

    @property
    def run(self) -> Path:
        """The folder of this run's logs.

        Raises:
            RuntimeError: it was not started.
        """
        if self._run is None:
            raise RuntimeError("the platform was not started")
        return self._run

    def say(self, part: str, line: str) -> None:
        """Report a line, and write it to the run's log with the time."""
        self._out(part, line)
        if self._run is not None:
            logs.write_line(self._run, part, line, time.time())

    # ------------------------------------------------------------------ start

    def start(self) -> None:
        """Bring everything up; returns when the platform can do its job.

        Raises:
            AlreadyRunningError: another one holds the data folder.
            ConfigurationError: a port is taken, a setting is unsafe, storage is unsuitable.
            StorageUnavailableError: storage does not answer.
        """
        began = time.monotonic()
        before = {child.pid for child in children()}
        self._umask = os.umask(UMASK)
        try:
            self._lock = take_lock(self.settings)
        except TocsinError:
            os.umask(self._umask)
            self._umask = None
            raise
        self._take_folder()
        self._scratch = scratch = Path(tempfile.mkdtemp(prefix="tocsin-"))
        self._record()
        self._check_ports()
        self._check_accounts()
        check_places(self.settings)
        self._check_rules()
        os.environ.update(mark(self.settings.data_path))
        self._storage_line = self._start_storage()
        self._start_ray(scratch)
        logs.link_ray_logs(scratch, self.run)
        handles = self._start_pools()
        deploy(self.settings, self.say)
        self._await_pools(handles)
        await_ready(self.settings, self.say, timeout_s=READY_DEADLINE_S)
        self._watch = SupervisorWatch(self.settings)
        self._watch.start()
        os.environ.pop(MARK, None)  # what this process starts from now on is not the platform's
        self._roots = [child for child in children() if child.pid not in before]
        remember(self.run, self._roots)
        self._record(ready=True)
        if not self._address:
            self.watcher.add(self._ray)
        self.ready_s = round(time.monotonic() - began, 1)

    def _take_folder(self) -> None:
        """Once the folder is ours: make it private, and clear away what a platform that was killed left in it."""
        data = self.settings.data_path
        mended = close_to_others(data)
        self._run = self._run or logs.new_run(data, time.time())
        if mended:
            self.say(
                "files", f"{data} was open to other users; {mended} files and folders are now yours alone"
            )
        left = clear_killed(self.settings)
        if left:
            self.say("processes", f"{left} left by a platform that was killed; ended")

    def watch(self) -> None:
        """Look after the parts once, and note which processes there are. To be called about once a second.

        Raises:
            PartLostError: a part keeps dying.
            RestartNeededError: the platform has to start again; leaving the context leaves storage running.
        """
        now = time.monotonic()
        if now - self._remembered_at >= REMEMBER_EVERY_S:
            self._remembered_at = now
            remember(self.run, self._roots)
        self.watcher.check()

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
                lambda line: self.say("storage", line),
                maxmemory_mib=self.settings.maxmemory_mib,
            )
            self._server.start()
        found = asyncio.run(prepare(self.settings))
        for server, facts in found:
            name = "storage" if server.name == MAIN else f"storage {server.name}"
            kind = "embedded" if self._server and server.name == MAIN else "external"
            says = f"{kind} {facts.flavour} {facts.version} at {server.address}"
            self.say(name, f"{says}, durability {facts.durability.value}")
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
        self._install_edge(scratch)
        if not self._address:  # a cluster that runs already has its token
            ensure_token(self.token_path)
            os.environ["RAY_AUTH_TOKEN_PATH"] = str(self.token_path)
        self._ray_started = True
        quieten(self.run)
        with keep_signal_handlers():
            if self._address:
                join(self._address)
                self.say("ray", f"joined the cluster at {self._address}")
            else:
                start(scratch, self.settings.dashboard_port)
                self.say("ray", f"dashboard at {self.dashboard_url}, token in {self.token_path}")

    def _install_edge(self, scratch: Path) -> None:
        """Nodes of a cluster install their own, see cluster.yaml."""
        if not self._address:
            from launch.edge.install import install

            os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(install(scratch / "haproxy"))

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
            self.say(f"lane {lane}", f"{self.settings.partitions(lane)} partitions, {', '.join(names)}")

    # ------------------------------------------------------------------ stop

    def stop(self) -> None:
        """Stop what `start` started, newest first. Never raises for a part that is already gone."""
        if self._watch is not None:  # or it would bring back the supervisor that is being stopped
            self._watch.stop()
            self._watch = None
        if self._ray_started:
            self._stop_ray()
        if self._server is not None:
            self._server.stop()
            self._server = None
            self.say("storage", "stopped; its data stays")
        clear_scratch(self._scratch, self._run)
        self._scratch = None
        if self._lock is not None:
            record_path(self.settings).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None
        os.environ.pop(MARK, None)
        if self._umask is not None:
            os.umask(self._umask)
            self._umask = None

    def abandon(self, trouble: str) -> None:
        """End all processes but storage, without asking Ray, for this process to start over. The record says why.

        Args:
            trouble: A line for those who ask meanwhile.
        """
        self._record(trouble=trouble)
        self.say("platform", trouble)
        forget_ray()
        end_all(of_folder(self.settings.data_path, self.run, but=storage_pids(self.settings.data_path)))
        clear_scratch(self._scratch, self._run)

    def _stop_ray(self) -> None:
        import ray
        from ray import serve

        from actors.pools import stop_pools

        lost = bool(self._ray.dead()) and not self._address
        if ray.is_initialized() and not lost:
            with contextlib.suppress(Exception):  # going down: what fails here is already gone
                stop_serve: Any = serve.shutdown  # untyped upstream
                stop_serve()
                self.say("serve", "stopped")
            with contextlib.suppress(Exception):
                drained = stop_pools()
                self.say("pools", "drained" if drained else "stopped; what was in flight stays pending")
        if lost:
            forget_ray()
        else:
            ray.shutdown()
        self._ray_started = False
        if not self._address:
            end_all(of_folder(self.settings.data_path, self.run, but=storage_pids(self.settings.data_path)))
        self.say("ray", "stopped")

    # ------------------------------------------------------------------ facts

    @property
    def dashboard_url(self) -> str:
        """The Ray dashboard of the local cluster."""
        return f"http://127.0.0.1:{self.settings.dashboard_port}"

    @property
    def token_path(self) -> Path:
        """The file with the token that the dashboard asks for."""
        return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or self.settings.data_path / "ray-token")

    def _record(self, *, ready: bool = False, trouble: str = "") -> None:
        record = RunRecord(
            pid=os.getpid(),
            started_at=psutil.Process().create_time(),
            base_url=self.settings.base_url,
            dashboard_url=self.dashboard_url,
            token_path=str(self.token_path),
            storage=self._storage_line,
            scratch=str(self._scratch),
            logs=str(self._run),
            ready=ready,
            trouble=trouble,
        )
        write_run(self.settings, record)
