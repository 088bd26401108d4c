"""A whole platform, `tocsin up` in a process of its own, whose processes may be stopped and killed.

Every process it ever had is remembered by id and start time, so that whatever a fault leaves behind is ended too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil

from benchmarks.harness.run import say
from launch.run_record import clear_killed, read_run
from tocsin.settings import Settings
from tocsin.storage.embedded import read_endpoint, stop_process

START_S = 200.0
STOP_S = 60.0
MEMBER_TITLES = ("ray::MemberShell", "ray::router-", "ray::shard-")
REPLICA_TITLE = "ray::ServeReplica:"


class Platform:
    """One platform and its processes; use `running`.

    Args:
        settings: Folder and ports of its own.
        folder: Where it writes what it says.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self._log = folder / "up.log"
        self._known: dict[int, psutil.Process] = {}
        self._up: subprocess.Popen[bytes] | None = None
        self._http = httpx2.Client(timeout=5.0)

    def start(self) -> None:
        """Start `tocsin up`, and wait until it is ready.

        Raises:
            TimeoutError: it did not come up; names its last lines.
        """
        with self._log.open("ab") as log:
            self._up = subprocess.Popen(
                [sys.executable, "-m", "cli", "up"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | self.settings.to_env(),
            )
        ends_at = time.monotonic() + START_S
        while time.monotonic() < ends_at and self._up.poll() is None:
            record = read_run(self.settings)
            if record is not None and record.ready and record.pid == self._up.pid:
                self.remember()
                return
            self.remember()
            time.sleep(0.2)
        tail = " | ".join(self._log.read_text(errors="replace").splitlines()[-5:])
        raise TimeoutError(f"`tocsin up` did not come up: {tail}")

    @property
    def pid(self) -> int:
        """The process of `tocsin up`."""
        return self._up.pid if self._up is not None else 0

    def remember(self) -> list[psutil.Process]:
        """Its processes now, and keep them for the end."""
        found: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(self.pid).children(recursive=True)
        endpoint = read_endpoint(self.settings.data_path)
        if endpoint is not None:
            with contextlib.suppress(psutil.Error):
                found.append(psutil.Process(endpoint.pid))
        for process in found:
            self._known.setdefault(process.pid, process)
        return found

    def members(self) -> list[psutil.Process]:
        """The pool members' processes."""
        return [p for p in self.remember() if _title(p).startswith(MEMBER_TITLES)]

    def supervisors(self) -> list[psutil.Process]:
        """The supervisor's process."""
        return [p for p in self.remember() if _title(p).startswith("ray::Supervisor")]

    def replicas(self, application: str) -> list[psutil.Process]:
        """The replicas of one application."""
        return [p for p in self.remember() if _title(p).startswith(REPLICA_TITLE + application)]

    def named(self, name: str) -> list[psutil.Process]:
        """Processes by the name of their program."""
        return [p for p in self.remember() if _name(p) == name]

    def storage_servers(self) -> list[psutil.Process]:
        """Every storage server that works in the data folder, whoever started it."""
        here = str(self.settings.data_path)
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.name().startswith("valkey-server") and _in_folder(process, here):
                    found.append(process)
                    self._known.setdefault(process.pid, process)
        return found

    def readiness(self) -> int:
        """The status of `/readyz`; 0 where nothing answers."""
        try:
            return self._http.get(self.settings.base_url + "/readyz").status_code
        except httpx2.HTTPError:
            return 0

    def await_ready(self, timeout_s: float) -> float | None:
        """Seconds until `/readyz` is 200; None where it does not become so in time."""
        began = time.monotonic()
        while time.monotonic() - began < timeout_s:
            if self.readiness() == 200:
                self.remember()
                return round(time.monotonic() - began, 2)
            time.sleep(0.2)
        return None

    def restart(self) -> None:
        """Whatever is left of it goes, and a new one starts on the same data."""
        say("starting the platform again")
        self.stop()
        self.start()

    def stop(self) -> None:
        """End it in order, then everything it ever had that is still there."""
        if self._up is not None:
            self.remember()
            for process in self._known.values():
                with contextlib.suppress(psutil.Error):
                    process.resume()
            if self._up.poll() is None:
                self._up.send_signal(signal.SIGTERM)
                try:
                    self._up.wait(timeout=STOP_S)
                except subprocess.TimeoutExpired:
                    self._up.kill()
                    self._up.wait()
        self.storage_servers()
        endpoint = read_endpoint(self.settings.data_path)
        if endpoint is not None:
            stop_process(endpoint)
        left = [process for process in self._known.values() if process.is_running()]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=10)
        self._known.clear()
        clear_killed(self.settings)
        self._up = None


@contextmanager
def running(settings: Settings, folder: Path) -> Iterator[Platform]:
    """Start it; end everything, whatever happens."""
    platform = Platform(settings, folder)
    try:
        platform.start()
        yield platform
    finally:
        platform.stop()


@contextmanager
def stopped(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """SIGSTOP; those that are still there afterwards go on."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.resume()


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return str(process.name())
    return ""


def _in_folder(process: psutil.Process, folder: str) -> bool:
    return process.cwd().startswith(folder) or any(folder in part for part in process.cmdline())
