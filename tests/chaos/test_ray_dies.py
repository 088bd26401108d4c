"""Ray, and the `up` process itself, are killed under a platform in the background; nothing accepted is lost.

One platform for all of it, started by the command as a person would.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import msgspec
import psutil
import pytest

from launch.run_record import read_run
from launch.runs.logs import runs
from launch.runs.processes import of_folder
from tests.support import eventually, free_settings
from tocsin import Client
from tocsin.ports import is_free
from tocsin.settings import Settings
from tocsin.wire.notifications import NotificationState

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.slow]

BACK_S = 90.0  # or as long as the first start took here: coming back is a start


def tocsin(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        capture_output=True, text=True, timeout=300, check=False, umask=0o022,
        env=os.environ | settings.to_env(),
    )  # fmt: skip


started_in: dict[str, float] = {}


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(prefix="tocsin-test-") as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "deliveries").mkdir(mode=0o755)
        made = msgspec.structs.replace(free_settings(Path(folder)), p0_routers=1, p1_routers=1, p2_routers=1)
        began = time.monotonic()
        up = tocsin(made, "up", "-d")
        started_in[str(folder)] = time.monotonic() - began
        try:
            assert up.returncode == 0, up.stderr
            yield made
        finally:
            tocsin(made, "down")


def up_process(settings: Settings) -> psutil.Process:
    record = read_run(settings)
    assert record is not None
    return psutil.Process(record.pid)


def kill_ray(settings: Settings) -> None:
    """The raylet and all that runs under it, at once."""
    family = up_process(settings).children(recursive=True)
    raylet = next(one for one in family if one.name() == "raylet")
    for process in [raylet, *raylet.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def send(settings: Settings, number: int) -> list[str]:
    with Client(settings.base_url, timeout_s=15.0) as client:
        return [
            client.send(type="reminder", title="Kept", recipient=f"r{number}-{i}", source="chaos").id
            for i in range(20)
        ]


def assert_delivered(settings: Settings, ids: list[str]) -> None:
    with Client(settings.base_url, timeout_s=15.0) as client:
        for notification_id in ids:
            assert client.wait(notification_id, timeout_s=30).state is NotificationState.DELIVERED


def ready(settings: Settings) -> bool:
    record = read_run(settings)
    return bool(
        record and record.ready and httpx2.get(settings.base_url + "/readyz", timeout=5).status_code == 200
    )


def test_other_users_can_read_nothing(settings: Settings) -> None:
    send(settings, 0)
    eventually(lambda: list((settings.data_path / "deliveries").iterdir()), what="a delivery log")
    assert settings.data_path.stat().st_mode & 0o077 == 0
    files = [path for path in settings.data_path.rglob("*") if not path.is_symlink()]
    assert [str(path) for path in files if path.stat().st_mode & 0o077] == []
    (run,) = runs(settings.data_path)
    assert "was open to other users" in (run / "up.log").read_text()


def test_a_second_up_leaves_the_log_of_the_first(settings: Settings) -> None:
    said = (runs(settings.data_path)[0] / "up.log").read_text()
    again = tocsin(settings, "up", "-d")
    assert (again.returncode, "already running" in again.stdout) == (0, True)
    assert [(run / "up.log").read_text() for run in runs(settings.data_path)] == [said]


def test_ray_that_dies_comes_back_by_itself(settings: Settings) -> None:
    ids = send(settings, 1)
    before = up_process(settings)
    kill_ray(settings)
    eventually(lambda: not ready(settings), what="word that it is not ready")
    status = tocsin(settings, "status")
    assert status.returncode == 1
    assert "ended unexpectedly" in status.stderr
    eventually(
        lambda: ready(settings), timeout_s=max(BACK_S, started_in[settings.data_dir]), what="ready again"
    )
    assert up_process(settings).pid == before.pid
    assert_delivered(settings, ids + send(settings, 2))
    (run,) = runs(settings.data_path)
    assert "ray: died" in (run / "platform.log").read_text()
    assert list(run.glob("ray*/raylet.out"))


def test_after_its_own_death_up_comes_up_and_ends_what_was_left(settings: Settings) -> None:
    ids = send(settings, 3)
    left = of_folder(settings.data_path)
    os.kill(up_process(settings).pid, signal.SIGKILL)
    again = tocsin(settings, "up", "-d")
    assert again.returncode == 0, again.stderr
    storage = {one.pid for one in left if one.is_running() and one.name().startswith("valkey")}
    assert [one for one in left if one.is_running() and one.pid not in storage] == []
    assert_delivered(settings, ids)
    assert len(runs(settings.data_path)) == 2


def test_down_ends_everything_and_nothing_else_and_keeps_the_logs(settings: Settings) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "input()", "raylet"], stdin=subprocess.PIPE)
    try:
        family = [up_process(settings), *up_process(settings).children(recursive=True)]
        kill_ray(settings)
        done = tocsin(settings, "down")
        assert done.returncode == 0, done.stderr
        _, alive = psutil.wait_procs(family, timeout=10)
        assert alive == []
        assert of_folder(settings.data_path) == []
        assert is_free(settings.host, settings.port)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.communicate()
    assert len(runs(settings.data_path)) == 2
    for run in runs(settings.data_path):
        assert list(run.glob("ray*/serve/*.log")), run
