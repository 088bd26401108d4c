"""A run's files, logs and processes; the watcher with fake parts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from launch import daemon
from launch.run_record import RunRecord, write_run
from launch.runs import logs, processes
from launch.runs.private_files import close_to_others
from launch.runs.watcher import RESTORATIONS, WITHIN_S, PartLostError, RestartNeededError, Watcher
from tests.fakes import ManualClock
from tocsin.errors import StorageUnavailableError
from tocsin.settings import Settings


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_an_open_folder_is_closed_with_all_that_is_in_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "deliveries").mkdir(parents=True)
    (data / "deliveries" / "p0.jsonl").write_text("a message")
    outside = tmp_path / "outside"
    outside.write_text("x")
    outside.chmod(0o644)
    (data / "link").symlink_to(outside)
    for path in (data, data / "deliveries"):
        path.chmod(0o755)
    (data / "deliveries" / "p0.jsonl").chmod(0o644)
    assert close_to_others(data) == 3
    assert (mode(data), mode(data / "deliveries"), mode(data / "deliveries" / "p0.jsonl")) == (
        0o700,
        0o700,
        0o600,
    )
    assert mode(outside) == 0o644
    assert close_to_others(data) == 0


def test_every_run_has_a_folder_and_the_last_ones_are_kept(tmp_path: Path) -> None:
    made = []
    for number in range(logs.KEEP_RUNS + 3):
        made.append(logs.new_run(tmp_path, 1_700_000_000.0 + number))
        (made[-1] / "up.log").write_text("said")
    assert logs.runs(tmp_path) == made[::-1][: logs.KEEP_RUNS]
    assert (tmp_path / "logs" / "latest" / "up.log").read_text() == "said"


def test_runs_are_kept_up_to_a_size_and_the_newest_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "KEEP_BYTES", 250)
    made = []
    for number in range(4):
        made.append(logs.new_run(tmp_path, 1_700_000_000.0 + number))
        (made[-1] / "up.log").write_text("x" * 100)
    logs.remove_old(tmp_path)
    assert logs.runs(tmp_path) == [made[3], made[2]]
    (made[3] / "up.log").write_text("x" * 1_000)
    logs.remove_old(tmp_path)
    assert logs.runs(tmp_path) == [made[3]]


def ray_session(scratch: Path, said: str) -> Path:
    session = scratch / "ray" / "session_1" / "logs" / "serve"
    session.mkdir(parents=True)
    (session / "replica.log").write_text(said)
    (scratch / "ray" / "session_latest").symlink_to(scratch / "ray" / "session_1")
    return session


def test_rays_logs_outlive_the_run_and_the_link_leads_to_them(tmp_path: Path) -> None:
    run = logs.new_run(tmp_path, 0.0)
    session = ray_session(tmp_path / "one", "a traceback")
    logs.link_ray_logs(tmp_path / "one", run)
    assert (run / "ray" / "serve" / "replica.log").read_text() == "a traceback"
    logs.keep_ray_logs(tmp_path / "one", run)
    (session / "replica.log").unlink()
    assert (run / "ray" / "serve" / "replica.log").read_text() == "a traceback"
    ray_session(tmp_path / "two", "the second")
    logs.link_ray_logs(tmp_path / "two", run)
    logs.keep_ray_logs(tmp_path / "two", run)
    kept = sorted(path.read_text() for path in run.rglob("replica.log"))
    assert kept == ["a traceback", "the second"]


def test_of_too_much_the_newest_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "RAY_BYTES", 15)
    run = logs.new_run(tmp_path, 0.0)
    session = ray_session(tmp_path / "one", "x" * 10)
    (session / "old.log").write_text("y" * 10)
    os.utime(session / "old.log", (1, 1))
    logs.keep_ray_logs(tmp_path / "one", run)
    assert [path.name for path in (run / "ray").rglob("*.log")] == ["replica.log"]


SLEEPER = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    children: list[subprocess.Popen[bytes]] = []
    yield children
    for child in children:
        child.kill()
        child.communicate()


def start(started: list[subprocess.Popen[bytes]], env: dict[str, str]) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(SLEEPER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | env)
    started.append(child)
    assert child.stdout is not None
    child.stdout.readline()
    return child


def test_the_processes_of_a_folder_and_only_those_are_found_and_ended(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    mine = start(started, processes.mark(tmp_path / "mine"))
    spared = start(started, processes.mark(tmp_path / "mine"))
    other = start(started, processes.mark(tmp_path / "other"))
    found = processes.of_folder(tmp_path / "mine", but=[spared.pid])
    assert [process.pid for process in found] == [mine.pid]
    assert processes.end_all(found) == 1
    assert mine.poll() is not None
    assert (other.poll(), spared.poll()) == (None, None)


def test_a_process_without_the_mark_is_known_by_its_id_and_time(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    child = start(started, {})
    processes.remember(tmp_path, processes.children())
    assert child.pid in [process.pid for process in processes.of_folder(tmp_path / "data", tmp_path)]
    (tmp_path / "processes.json").write_text(f"[[{child.pid}, 1.0]]")  # the id of another one by now
    assert processes.of_folder(tmp_path / "data", tmp_path) == []


class FakePart:
    name = "edge"

    def __init__(self) -> None:
        self.up = True
        self.restored = 0
        self.error: Exception | None = None

    def alive(self) -> bool:
        return self.up

    def restore(self) -> None:
        self.restored += 1
        if self.error is not None:
            raise self.error
        self.up = True


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def part() -> FakePart:
    return FakePart()


@pytest.fixture
def watcher(part: FakePart, clock: ManualClock, lines: list[str]) -> Watcher:
    made = Watcher(lambda name, line: lines.append(f"{name} {line}"), clock.monotonic)
    made.add(part)
    return made


def test_a_part_that_died_is_brought_back_with_a_word(
    watcher: Watcher, part: FakePart, lines: list[str]
) -> None:
    watcher.check()
    assert (part.restored, lines) == (0, [])
    part.up = False
    watcher.check()
    assert part.restored == 1
    assert lines == ["edge died; bringing it back", "edge is back"]


def test_a_part_that_does_not_come_back_takes_the_platform_down(
    watcher: Watcher, part: FakePart, clock: ManualClock, lines: list[str]
) -> None:
    part.up, part.error = False, StorageUnavailableError("no port")

    def check_each_second() -> None:
        for _ in range(int(WITHIN_S)):
            watcher.check()
            clock.advance(1.0)

    with pytest.raises(PartLostError, match=f"edge died {RESTORATIONS} times"):
        check_each_second()
    assert part.restored == RESTORATIONS
    assert "edge did not come back: no port" in lines


def test_deaths_far_apart_are_brought_back_for_ever(
    watcher: Watcher, part: FakePart, clock: ManualClock
) -> None:
    for _ in range(3 * RESTORATIONS):
        part.up = False
        watcher.check()
        assert part.up
        clock.advance(WITHIN_S)


def test_a_part_may_ask_for_a_new_start(watcher: Watcher, part: FakePart) -> None:
    part.up, part.error = False, RestartNeededError("edge", "gone")
    with pytest.raises(RestartNeededError):
        watcher.check()


def test_a_second_up_in_the_background_waits_for_the_first_and_leaves_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = msgspec.structs.replace(Settings.from_env({}), data_dir=str(tmp_path))
    run = logs.new_run(tmp_path, 0.0)
    (run / "up.log").write_text("coming up")
    record = RunRecord(
        pid=os.getpid(),
        started_at=psutil.Process().create_time(),
        base_url="http://127.0.0.1:1",
        dashboard_url="",
        token_path="",
        storage="",
        scratch="",
        logs=str(run),
    )
    write_run(settings, record)
    looks = iter([record, record, msgspec.structs.replace(record, ready=True)])
    monkeypatch.setattr(daemon, "read_run", lambda _settings: next(looks))
    monkeypatch.setattr(daemon, "POLL_S", 0.0)
    assert "already running" in daemon.detach(settings, "")
    assert [(one / "up.log").read_text() for one in logs.runs(tmp_path)] == ["coming up"]


def test_a_run_is_started_over_three_times_within_ten_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    def replaced(_path: str, command: list[str]) -> None:
        calls.append(command)

    monkeypatch.setattr(os, "execv", replaced)
    monkeypatch.setattr(os, "set_inheritable", lambda _number, _inheritable: None)
    run = logs.new_run(tmp_path, 0.0)
    start_over: Callable[..., None] = daemon.start_over  # here it returns
    for number in range(daemon.RESTARTS):
        start_over(run, "", "ray: raylet ended", 1_000.0 + number)
    with pytest.raises(PartLostError, match=r"started over 3 times .* raylet ended"):
        start_over(run, "", "ray: raylet ended", 1_100.0)
    start_over(run, "", "ray: raylet ended", 1_000.0 + WITHIN_S + 5)
    assert len(calls) == daemon.RESTARTS + 1
    assert calls[0][-2:] == ["--run", run.name]
