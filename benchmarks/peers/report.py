"""Assembles the line from the figures of all."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.harness.figures import Figures, summary_ms
from benchmarks.peers.contest import Window
from benchmarks.peers.libraries import PEERS, VARIANTS, WORKERS, Library, locked_version

Windows = Mapping[str, Window | None]  # by library; None: not measured


def assemble(ours: Figures, windows: Windows) -> Figures:
    """The line: ours, each peer against ours, and each other way to set a peer up.

    Args:
        ours: What `benchmarks.routing.lanes.measure_flood` returns.
        windows: Of every library; a peer that was not measured is null.
    """
    return {
        "ours_per_s": ours["delivered_per_s"],
        "ours_p0_p99_ms_flood": ours["p0_ms"]["flood"]["p99"],
        "peers": {peer.name: _entry(peer, windows.get(peer.name), ours) for peer in PEERS},
        "variants": {way.name: _entry(way, windows.get(way.name), ours) for way in VARIANTS},
        "lost": ours["lost"],
        "worker_processes": WORKERS,
        "ours": {
            "p0_ms": ours["p0_ms"]["flood"],
            **{name: ours[name] for name in ("accepted", "unlogged", "duplicates", "cores_used", "load_1m")},
        },
    }


def _entry(library: Library, window: Window | None, ours: Figures) -> Figures | None:
    if window is None:
        return None
    p0_ms = summary_ms(window.p0_ms)
    ours_p99 = ours["p0_ms"]["flood"]["p99"]
    sent = window.p2.sent + window.p0.sent
    return {
        "per_s": round(window.per_s),
        "ratio": round(ours["delivered_per_s"] / window.per_s, 1),
        "p0_p99_ms_flood": p0_ms["p99"],
        "p0_ratio": round(p0_ms["p99"] / ours_p99, 1) if p0_ms["p99"] and ours_p99 else None,
        "p0_ms": p0_ms,
        "sent": sent,
        "lost": max(0, window.p2.sent - window.p2_handled) + window.p0.sent - len(window.p0_ms),
        "duplicates": max(0, window.p2_handled - window.p2.sent) + window.p0_handled - len(window.p0_ms),
        "took_s": round(window.took_s, 1),
        "cores_used": window.cores_used,
        "load_1m": window.load_1m,
        "version": locked_version(library),
    }
