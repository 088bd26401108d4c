"""What a run leaves to be read afterwards: a folder each, the newest ones kept.

    <data>/logs/runs/20260314T031522Z-4f1c/   one run
        up.log          what `up` said, in the background only
        platform.log    what came up, died and came back, with the time
        ray/            Ray's and Serve's own logs; while it runs, a link to where they are written
    <data>/logs/latest                        a link to the newest one

Kept: the last 10 runs, 200 MiB together; of one run's Ray logs the newest 50 MiB. The newest run is always kept.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path

KEEP_RUNS = 10
KEEP_BYTES = 200 * 1024 * 1024
RAY_BYTES = 50 * 1024 * 1024


def runs_folder(data: Path) -> Path:
    """The folder of all runs."""
    return data / "logs" / "runs"


def runs(data: Path) -> list[Path]:
    """The folder of each run that is kept, the newest first."""
    folder = runs_folder(data)
    return (
        sorted((path for path in folder.iterdir() if path.is_dir()), reverse=True) if folder.is_dir() else []
    )


def new_run(data: Path, now: float) -> Path:
    """Make the folder of a new run, and remove the oldest beyond what is kept.

    Args:
        data: The platform's data folder.
        now: Seconds since 1970.
    """
    stamp = datetime.fromtimestamp(now, tz=UTC).strftime("%Y%m%dT%H%M%SZ")
    run = runs_folder(data) / f"{stamp}-{secrets.token_hex(2)}"
    for folder in (data / "logs", data / "logs" / "runs"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    run.mkdir(mode=0o700)
    remove_old(data)
    latest = data / "logs" / "latest"
    with contextlib.suppress(OSError):  # a convenience: a file system without links has none
        temporary = latest.with_name(".latest.new")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path("runs") / run.name)
        temporary.replace(latest)
    return run


def remove_old(data: Path) -> None:
    """Remove the oldest runs: those beyond the tenth, and those beyond 200 MiB."""
    total = 0
    for number, run in enumerate(runs(data)):
        total += _size(run)
        if number and (number >= KEEP_RUNS or total > KEEP_BYTES):
            shutil.rmtree(run, ignore_errors=True)


def write_line(run: Path, part: str, line: str, now: float) -> None:
    """Add a line to a run's `platform.log`. Never raises: a full disk is no reason to go down."""
    at = datetime.fromtimestamp(now, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with contextlib.suppress(OSError), (run / "platform.log").open("a", encoding="utf-8") as log:
        log.write(f"{at} {part}: {line}\n")


def link_ray_logs(scratch: Path, run: Path) -> None:
    """Let `ray/` of a run lead to where Ray writes while it runs."""
    link = run / "ray"
    with contextlib.suppress(OSError):
        link.unlink(missing_ok=True)
        link.symlink_to(scratch / "ray" / "session_latest" / "logs")


def keep_ray_logs(scratch: Path, run: Path) -> None:
    """Copy Ray's and Serve's logs of a run that ended into its folder, the newest 50 MiB. Never raises."""
    with contextlib.suppress(OSError):
        source = scratch / "ray" / "session_latest" / "logs"
        if not source.is_dir() or not run.is_dir():
            return
        _make_room_for(run / "ray")
        files = [path for path in source.resolve().rglob("*") if path.is_file() and not path.is_symlink()]
        left = RAY_BYTES
        for path in sorted(files, key=lambda one: one.stat().st_mtime, reverse=True):
            left -= path.stat().st_size
            if left < 0:
                break
            target = run / "ray" / path.relative_to(source.resolve())
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.copy2(path, target)
            target.chmod(0o600)


def _make_room_for(folder: Path) -> None:
    """Of a run that was started again within itself, the logs of each part are kept."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        number = sum(1 for _ in folder.parent.glob("ray.*")) + 1
        folder.rename(folder.with_name(f"ray.{number}"))


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return total
