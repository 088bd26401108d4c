"""What each part must keep to. Pure: from figures to the bounds that were missed, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CHURN_STATUS = frozenset({"200", "200 degraded", "503", "504"})

# The most a figure may be, by part; None in its place is always too much.
MOST: Mapping[str, Mapping[str, float]] = {
    "routers": {"readyz_red_s": 5.0, "replaced_s": 6.0, "rest_s": 20.0, "lost": 0, "duplicates": 0},
    "churn": {"worst_caller_s": 3.0, "lost": 0},
    "edge": {"gap_s": 5.0, "lost": 0},
    "ray": {"back_s": 90.0, "lost": 0},
    "storage": {"servers_at_once": 1, "lost": 0},
    "half_open": {"failed_sends": 0, "worst_send_s": 3.0, "lost": 0},
}


def missed(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The bounds that were missed, one line each."""
    found: list[str] = []
    for part, figures in parts.items():
        if "error" in figures:
            found.append(f"{part}: {figures['error']}")
            continue
        for name, most in MOST[part].items():
            value = figures[name]
            if value is None:
                found.append(f"{part}: {name} did not happen; at most {most:g}")
            elif value > most:
                found.append(f"{part}: {name} is {value:g}, at most {most:g}")
        if part == "churn" and (wrong := sorted(set(figures["status"]) - CHURN_STATUS)):
            found.append(f"churn: answered {', '.join(wrong)}; allowed are {', '.join(sorted(CHURN_STATUS))}")
        if part == "edge" and figures["wrong_statuses"]:
            found.append(f"edge: answered {figures['wrong_statuses']}, as if it did not know the address")
        if part == "storage" and not figures["up_again"]:
            found.append("storage: `tocsin up` did not come up again")
        if not figures["accepted"]:
            found.append(f"{part}: nothing was accepted, so nothing is proved")
    return found
