"""A run from its arguments to the one line it prints, in a folder of its own.

A run uses its own data folder, free ports and an embedded server, and leaves nothing behind, whether it ends by
itself, by an error, by Ctrl-C or by SIGTERM. Killed outright, it leaves its embedded server and its folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import msgspec

from benchmarks.harness.figures import Figures, machine
from tocsin.ports import free_port
from tocsin.settings import Settings

Measure = Callable[[Settings, "Options"], Figures]

DEFAULT_S = 20.0
QUICK_S = 3.0
LEAST_S = 0.5
MAX_S = 600.0
DEFAULT_SEED = 7


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a run."""

    seconds: float  # the measured part; starting and draining come on top
    quick: bool
    seed: int


def parse(
    name: str, description: str, argv: Sequence[str] | None = None, *, seconds: float = DEFAULT_S
) -> Options:
    """Read the arguments every member takes; exits with status 2 where they are invalid."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}".rstrip("."), description=description)
    parser.add_argument("--seconds", type=_seconds, help=f"length of the measured part (default {seconds:g})")
    parser.add_argument(
        "--quick", action="store_true", help=f"a smoke run of {QUICK_S:g} s: does it work at all?"
    )
    parser.add_argument(
        "--seed", type=int, default=DEFAULT_SEED, help="of made-up data (default %(default)s)"
    )
    found = parser.parse_args(argv)
    default_s = QUICK_S if found.quick else seconds
    return Options(seconds=found.seconds or default_s, quick=found.quick, seed=found.seed)


def _seconds(text: str) -> float:
    value = float(text)
    if not LEAST_S <= value <= MAX_S:
        raise argparse.ArgumentTypeError(f"{text} is not within {LEAST_S:g} to {MAX_S:g}")
    return value


def report(name: str, figures: Figures, options: Options, out: TextIO) -> None:
    """Print the result: one line of JSON."""
    line = {
        **figures,
        "benchmark": name,
        "run": msgspec.to_builtins(options),
        "machine": machine(),
    }
    print(msgspec.json.encode(line).decode(), file=out, flush=True)


def say(text: str) -> None:
    """Report progress to standard error."""
    print(text, file=sys.stderr, flush=True)


def run(
    name: str,
    description: str,
    measure: Measure,
    argv: Sequence[str] | None = None,
    *,
    module: str = "",
    seconds: float = DEFAULT_S,
) -> int:
    """Run one member, from its arguments to its line. Returns the exit status: 1 where something was lost.

    Args:
        name: What the line calls it.
        description: For `--help`.
        measure: Makes the figures.
        argv: The arguments; those of the process where absent.
        module: What follows `python -m benchmarks.`, where that is not the name.
        seconds: Length of the measured part where the arguments name none.
    """
    options = parse(module or name, description, argv, seconds=seconds)
    with reserved_stdout() as out, obeying_sigterm():
        with workspace() as settings:
            figures = measure(settings, options)
        report(name, figures, options, out)
    return 1 if figures.get("lost") else 0


@contextmanager
def reserved_stdout() -> Iterator[TextIO]:
    """Yield the real standard output; everything else written to it meanwhile goes to standard error."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        try:
            yield out
        finally:
            sys.stdout.flush()
            os.dup2(out.fileno(), 1)


@contextmanager
def obeying_sigterm() -> Iterator[None]:
    """On SIGTERM, exit through every `finally` instead of at once."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def workspace() -> Iterator[Settings]:
    """Settings with the defaults, a folder and ports of their own; folder and environment are restored afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tocsin-bench-"))
    before = dict(os.environ)
    try:
        # The data is history: "now" is the end of it.
        yield Settings(data_dir=str(folder), port=free_port(), dashboard_port=free_port(), as_of="latest")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.clear()
        os.environ.update(before)
