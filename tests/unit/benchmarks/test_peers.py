from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import plot
from benchmarks.harness.figures import summary_ms
from benchmarks.harness.run import QUICK_S
from benchmarks.peers import __main__ as peers
from benchmarks.peers import contest, environment, report
from benchmarks.peers.contest import Sent, Window
from benchmarks.peers.libraries import FOREIGN, PEERS, VARIANTS, WORKERS, Runtime, locked_version
from tocsin.settings import Settings
from tocsin.wire.lanes import LaneName

OURS = {
    "delivered_per_s": 200_000,
    "p0_ms": {"idle": summary_ms([]), "flood": summary_ms([2.0, 4.0])},
    "accepted": 3_000_000,
    "lost": 0,
    "unlogged": 0,
    "duplicates": 0,
    "load_1m": 0.5,
    "cores_used": {"router-p2-0": 0.9},
}


def window(p2_sent: int, p2_handled: int, p0_ms: list[float], p0_sent: int) -> Window:
    return Window(
        p2=Sent(0, p2_sent, 100.0),
        p0=Sent(0, p0_sent, 100.0),
        took_s=2.0,
        p2_handled=p2_handled,
        p0_ms=p0_ms,
        p0_handled=len(p0_ms),
        cores_used={"workers": 1.0},
        load_1m=0.5,
    )


def line(**windows: Window) -> dict[str, Any]:
    return report.assemble(OURS, windows)


def test_the_line_opens_with_what_was_asked_for() -> None:
    found = line(bullmq=window(20_000, 20_000, [10.0, 80.0], 2))
    assert list(found)[:3] == ["ours_per_s", "ours_p0_p99_ms_flood", "peers"]
    assert (found["ours_per_s"], found["ours_p0_p99_ms_flood"]) == (200_000, 4.0)
    assert list(found["peers"]) == ["celery", "dramatiq", "taskiq", "bullmq"]
    assert list(found["peers"]["bullmq"])[:3] == ["per_s", "ratio", "p0_p99_ms_flood"]


def test_a_ratio_is_ours_to_theirs_and_for_latency_theirs_to_ours() -> None:
    entry = line(bullmq=window(20_000, 20_000, [10.0, 80.0], 2))["peers"]["bullmq"]
    assert (entry["per_s"], entry["ratio"]) == (10_000, 20.0)
    assert (entry["p0_p99_ms_flood"], entry["p0_ratio"]) == (80.0, 20.0)


def test_a_library_that_was_not_measured_is_null() -> None:
    found = line(celery=window(100, 100, [1.0], 1))
    assert found["peers"]["dramatiq"] is None
    assert found["variants"]["bullmq_queue_per_priority"] is None
    assert found["peers"]["celery"]["ratio"] == 4000.0


@pytest.mark.parametrize(
    ("measured", "lost", "duplicates"),
    [
        (window(100, 100, [1.0, 2.0], 2), 0, 0),
        (window(100, 97, [1.0], 2), 4, 0),
        (window(100, 105, [1.0, 2.0], 2), 0, 5),
    ],
)
def test_what_was_sent_is_accounted_for(measured: Window, lost: int, duplicates: int) -> None:
    entry = line(taskiq=measured)["peers"]["taskiq"]
    assert (entry["lost"], entry["duplicates"]) == (lost, duplicates)


def test_a_peers_loss_is_its_own_and_fails_no_run() -> None:
    assert line(taskiq=window(100, 50, [1.0], 1))["lost"] == 0


def test_no_p0_leaves_no_percentile() -> None:
    entry = line(taskiq=window(100, 100, [], 1))["peers"]["taskiq"]
    assert (entry["p0_p99_ms_flood"], entry["p0_ratio"]) == (None, None)


def test_the_window_is_15_s_unless_said(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "measure", lambda _settings, _options: {"lost": 0})
    for argv, seconds in (([], 15.0), (["--quick"], QUICK_S), (["--seconds", "5"], 5.0)):
        assert peers.main(argv) == 0
        assert json.loads(capfd.readouterr().out)["run"]["seconds"] == seconds


def test_handlers_files_are_read_together(tmp_path: Path) -> None:
    (tmp_path / "p2-1.txt").write_text("000000000007\n")
    (tmp_path / "p2-2.txt").write_text("000000000005\n")
    (tmp_path / "p2-3.txt").write_text("")  # opened, nothing published yet
    assert contest.handled(tmp_path) == 12


def test_only_the_windows_own_p0_count_and_each_once(tmp_path: Path) -> None:
    (tmp_path / "p0-1.txt").write_text("99 900.0\n100 3.5\n101 9.0\n")
    (tmp_path / "p0-2.txt").write_text("101 7.0\n")
    latencies, lines = contest.p0_latencies(tmp_path, range(100, 103))
    assert sorted(latencies) == [3.5, 7.0]
    assert lines == 3


def test_a_missing_runtime_is_said_and_costs_only_its_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(environment.Unavailable, match="node"):
        environment.make(Runtime.NODE, tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_every_library_has_as_many_workers_as_ours() -> None:
    ours = Settings(data_dir="unused")
    assert ours.pool_size(LaneName.P0) + ours.pool_size(LaneName.P2) == WORKERS


@pytest.mark.parametrize("library", [*PEERS, *VARIANTS], ids=lambda library: library.name)
def test_every_library_is_locked(library: Any) -> None:
    assert locked_version(library)[0].isdigit()


def test_lock_files_name_public_registries_or_none() -> None:
    python = (FOREIGN / "uv.lock").read_text(encoding="utf-8").split('"')
    hosts = {word.split("/")[2] for word in python if "://" in word}
    assert hosts == {"pypi.org", "files.pythonhosted.org"}
    node = json.loads((FOREIGN / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    resolved = [package["resolved"] for package in node.values() if "resolved" in package]
    assert all(address.startswith("https://registry.npmjs.org/") for address in resolved)
    assert all("integrity" in package for path, package in node.items() if path)


def test_bars_are_ours_first_then_the_fastest() -> None:
    found = line(
        celery=window(2_000, 2_000, [5.0], 1),
        bullmq=window(20_000, 20_000, [80.0], 1),
        bullmq_queue_per_priority=window(10_000, 10_000, [400.0], 1),
    )
    assert [bar.label for bar in plot.bars(found)] == [
        "Tocsin",
        "BullMQ",
        "BullMQ, a queue per priority",
        "Celery",
    ]


def test_the_picture_is_small_and_the_same_each_time() -> None:
    found = line(celery=window(2_000, 2_000, [5.0], 1))
    pictures = [io.StringIO(), io.StringIO()]
    for picture in pictures:
        plot.draw(found, picture)
    text = pictures[0].getvalue()
    assert text == pictures[1].getvalue()
    assert "Celery" in text
    assert len(text) < 50_000
