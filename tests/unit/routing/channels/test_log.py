from __future__ import annotations

import json
from pathlib import Path

import pytest

from routing.channels import FailureReason
from routing.channels.log import KEEP, LogChannel
from tests.fakes import START, Item, ManualClock
from tocsin.wire.notifications import Notification

NOTE = Notification("reminder", "t\n\u2028é", "r", "", "", "", "s", ("log",), "", 0.0, "", {}, START)


def lines(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_bytes().splitlines()]


async def write(channel: LogChannel, notification_id: str) -> bool:
    (((attempt,), *_),) = await channel.deliver([Item(notification_id, NOTE)])
    return attempt.ok


def contents(folder: Path) -> dict[str, list[str]]:
    return {file.name: lines(file) for file in folder.iterdir()}


async def test_a_notification_is_one_json_line(tmp_path: Path, clock: ManualClock) -> None:
    channel = LogChannel(tmp_path / "made" / "router-0.jsonl", clock)
    assert await write(channel, "p0-0-1-0-0")
    assert await write(channel, "p0-0-1-0-1")
    written = (tmp_path / "made" / "router-0.jsonl").read_bytes()
    assert written.count(b"\n") == 2
    assert json.loads(written.splitlines()[0]) == {
        "at": "2024-11-24T06:33:20Z",
        "id": "p0-0-1-0-0",
        "source": "s",
        "recipient": "r",
        "type": "reminder",
        "title": "t\n\u2028é",
        "body": "",
    }


async def test_a_restart_appends(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "router-0.jsonl"
    for number in range(2):
        channel = LogChannel(path, clock)
        await write(channel, f"n{number}")
        await channel.close()
    assert lines(path) == ["n0", "n1"]


async def test_a_full_file_is_rotated_and_the_oldest_dropped(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "router-0.jsonl"
    channel = LogChannel(path, clock, max_bytes=1)  # one line a file
    for number in range(KEEP + 3):
        assert await write(channel, f"n{number}")
    assert contents(tmp_path) == {
        "router-0.jsonl": ["n5"],
        "router-0.1.jsonl": ["n4"],
        "router-0.2.jsonl": ["n3"],
        "router-0.3.jsonl": ["n2"],
    }


async def test_the_size_counts_what_was_there_before_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "router-0.jsonl"
    path.write_bytes(b"{}\n" * 100)
    channel = LogChannel(path, clock, max_bytes=200)
    await write(channel, "n0")
    assert lines(path) == ["n0"]


async def test_a_disk_that_fails_is_a_failure_to_retry_and_heals(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "router-0.jsonl"
    channel = LogChannel(path, clock, max_bytes=1)
    await write(channel, "n0")
    for broken in ("replace", "open", "open"):  # at either step of a rotation
        with monkeypatch.context() as patch:

            def fail(*_: object, **__: object) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr(Path, broken, fail)
            (((attempt,), *_),) = await channel.deliver([Item("n1", NOTE)])
        assert (attempt.ok, attempt.reason) == (False, FailureReason.INTERNAL)
        assert "No space left" in attempt.detail
    assert await write(channel, "n2")
    assert lines(path) == ["n2"]
    assert lines(tmp_path / "router-0.1.jsonl") == ["n0"]
