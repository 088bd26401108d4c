"""`tocsin at-risk`: who is most likely to leave, and why."""

from __future__ import annotations

from collections.abc import Callable

from rich import box
from rich.console import Console
from rich.table import Table

from launch.local_client import client_of
from tocsin.settings import Settings


def show(
    settings: Settings, console: Console, limit: int, *, json: bool, emit: Callable[[object], None]
) -> None:
    """Ask the platform.

    Raises:
        TocsinError: it is not up, or does not answer.
    """
    with client_of(settings) as client:
        found = client.at_risk(limit)
    if json:
        emit(found)
        return
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("advertiser", no_wrap=True)  # to be copied
    for heading in ("chance", "risk", "what drives it"):
        table.add_column(heading)
    for one in found.predictions:
        drivers = "; ".join(driver.text for driver in one.drivers if driver.effect > 0)
        table.add_row(one.advertiser_id, f"{one.probability:.0%}", one.risk, drivers or one.degraded_reason)
    console.print(table)
    console.print(f"of {found.scored:,} active advertisers, {found.age_s:.0f} s ago")
