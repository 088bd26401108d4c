"""Cores: how many a service keeps busy, and processes that share one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil

Processes = Callable[[], Iterable[psutil.Process]]


def tree(pid: int) -> list[psutil.Process]:
    """A process and everything it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


def without(processes: Iterable[psutil.Process], *others: Iterable[psutil.Process]) -> list[psutil.Process]:
    """The processes that are in none of the others."""
    left_out = {process.pid for one in others for process in one}
    return [process for process in processes if process.pid not in left_out]


@contextmanager
def one_core(*pids: int) -> Iterator[None]:
    """Let processes that wait for one another share a core in this block, where the system can do that.

    Otherwise the wake-up of an idle core of a virtual machine is measured: a read of one row then takes longer than one
    of ten.
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


class Stopwatch:
    """How many cores some processes keep busy between `start` and `stop`.

    Args:
        processes: Read at both ends: a service may start some meanwhile.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._before: dict[tuple[int, float], float] = {}
        self._began = 0.0

    def start(self) -> None:
        """Start measuring."""
        self._before, self._began = self._read(), time.perf_counter()

    def stop(self) -> float:
        """Return the cores used since `start`."""
        after, took_s = self._read(), time.perf_counter() - self._began
        return sum(used - self._before.get(which, 0.0) for which, used in after.items()) / took_s

    def _read(self) -> dict[tuple[int, float], float]:
        found = {}
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                found[process.pid, process.create_time()] = times.user + times.system
        return found
