"""Draws a `peers` line as a picture: `python -m benchmarks.plot < peers.json > docs/benchmarks-peers.svg`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any, NamedTuple, TextIO

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS = "Tocsin"
LABELS = {"celery": "Celery", "dramatiq": "Dramatiq", "taskiq": "taskiq-redis", "bullmq": "BullMQ"}
LABELS["bullmq_queue_per_priority"] = "BullMQ, a queue per priority"
OUR_COLOUR, THEIR_COLOUR = "#c2410c", "#64748b"  # both readable on white and on black

STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "peers", "font.family": "sans-serif", "font.size": 10}


class Bar(NamedTuple):
    """One library."""

    label: str
    per_s: float
    p0_p99_ms: float


def bars(line: Mapping[str, Any]) -> list[Bar]:
    """Ours, then every library that was measured, fastest first.

    Raises:
        KeyError: it is not the line of a `peers` run.
    """
    found = {**line["peers"], **line.get("variants", {})}
    others = [
        Bar(LABELS.get(name, name), figures["per_s"], figures["p0_p99_ms_flood"])
        for name, figures in found.items()
        if figures is not None and figures["p0_p99_ms_flood"] is not None
    ]
    ours = Bar(OURS, line["ours_per_s"], line["ours_p0_p99_ms_flood"])
    return [ours, *sorted(others, key=lambda bar: -bar.per_s)]


def draw(line: Mapping[str, Any], out: TextIO) -> None:
    """Write the picture as SVG: the same bytes for the same line."""
    found = bars(line)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _panel(left, found, [bar.per_s for bar in found], "jobs a second, acknowledged (more is better)", 0)
        _panel(
            right, found, [bar.p0_p99_ms for bar in found], "P0 p99 under that flood, ms (less is better)", 1
        )
        left.set_yticks(range(len(found)), [bar.label for bar in found])
        left.invert_yaxis()
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    out.write("\n".join(row.rstrip() for row in text.getvalue().splitlines()) + "\n")


def _panel(axes: Axes, found: Sequence[Bar], values: Sequence[float], title: str, digits: int) -> None:
    colours = [OUR_COLOUR if bar.label == OURS else THEIR_COLOUR for bar in found]
    drawn = axes.barh(range(len(found)), values, color=colours, height=0.65)
    axes.bar_label(drawn, labels=[f"{value:,.{digits}f}" for value in values], padding=4)
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 3, max(values) * 6)
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.minorticks_off()


def main() -> int:
    """From standard input to standard output; returns the exit status."""
    draw(json.load(sys.stdin), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
