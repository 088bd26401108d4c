"""One run: a platform under a steady load; one process after the other is stopped or killed.

start ──► routers ──► churn ──► edge ──► half-open ──► Ray ──► storage ──► one line of JSON
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.harness.figures import machine
from benchmarks.harness.run import obeying_sigterm, reserved_stdout, say
from tocsin.ports import free_port
from tocsin.settings import Settings
from verification.hung.bounds import missed
from verification.hung.parts import PARTS
from verification.hung.platform import Platform, running


def main(argv: Sequence[str] | None = None) -> int:
    """Run once. Returns the exit status: 0 where every bound is kept."""
    names = parse(argv)
    folder = Path(tempfile.mkdtemp(prefix="tocsin-hung-"))
    with reserved_stdout() as out, obeying_sigterm():
        try:
            parts = run(folder, names)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        problems = missed(parts)
        for problem in problems:
            say(f"missed: {problem}")
        line: dict[str, Any] = {"verification": "hung", **parts}
        if "routers" in parts:
            line["readyz_red_s"] = parts["routers"].get("readyz_red_s")
        out.write(msgspec.json.encode(line | {"missed": problems, "machine": machine()}).decode() + "\n")
    return 1 if problems else 0


def parse(argv: Sequence[str] | None = None) -> list[str]:
    """The parts asked for, in their order; exits with status 2 where one is unknown."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.hung",
        description="Stop and kill processes of a platform under load, and account for every receipt.",
    )
    parser.add_argument("--only", type=_names, help=f"some of the parts, with commas: {','.join(PARTS)}")
    found = parser.parse_args(argv)
    return [name for name in PARTS if found.only is None or name in found.only]


def _names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    unknown = sorted(set(names) - set(PARTS))
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"unknown part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return names


def run(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The figures of each part. One that fails says so, and the others go on with a fresh platform."""
    settings = Settings(data_dir=str(folder / "data"), port=free_port(), dashboard_port=free_port())
    parts: dict[str, dict[str, Any]] = {}
    with running(settings, folder) as platform:
        for name in names:
            say(f"part {name}")
            parts[name] = _part(platform, name)
            say(f"{name}: {parts[name]}")
            if name != names[-1] and platform.await_ready(30.0) is None:
                platform.restart()
    return parts


def _part(platform: Platform, name: str) -> dict[str, Any]:
    try:
        return PARTS[name](platform)
    except Exception as error:  # noqa: BLE001 (the other parts are still worth measuring)
        return {"error": f"{type(error).__name__}: {error}"}
