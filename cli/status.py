"""`tocsin status`: what the person on call looks at first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from launch.local_client import fetch
from launch.run_record import RunRecord, read_run
from launch.runs.logs import runs
from tocsin.errors import TocsinError, UnreachableError
from tocsin.settings import Settings

MAX_IDLE_DAYS = 28.0  # without an event of anybody, from which on nobody counts as active
DAY_S = 86_400.0


def show(settings: Settings, console: Console, *, json: bool, emit: Callable[[object], None]) -> None:
    """Print it, for people or machines.

    Raises:
        UnreachableError: it is not up.
    """
    record = read_run(settings)
    readiness = _readiness(settings, record)
    answering = all(c["ok"] for c in readiness["checks"] if c["name"].startswith("storage"))
    status = fetch(settings) if answering else {}
    if json:
        emit({"run": record, "readiness": readiness, "status": status})
        return
    console.print(_header(settings, record, readiness))
    if status:
        console.print(lanes_table(status))


def _readiness(settings: Settings, record: RunRecord | None) -> dict[str, Any]:
    """What the platform says of itself; where it cannot, what `up` noted, or where the last run's log is."""
    try:
        return fetch(settings, "/readyz")
    except TocsinError as error:
        if record is not None:
            doing = record.trouble or ("it runs" if record.ready else "it is coming up")
            raise UnreachableError(
                f"{error.message}. Process {record.pid}: {doing}", hint=f"see {record.logs}/platform.log"
            ) from None
        if kept := runs(settings.data_path):
            hint = f"`tocsin up` starts it; {kept[0]} holds the logs of the last run"
            raise UnreachableError(error.message, hint=hint) from None
        raise


def _header(settings: Settings, record: RunRecord | None, readiness: dict[str, Any]) -> Group:
    lines = ["[bold green]ready[/bold green]" if readiness["ready"] else "[bold red]not ready[/bold red]"]
    lines += [f"  [red]{c['name']}: {c['detail']}[/red]" for c in readiness["checks"] if not c["ok"]]
    lines += [
        f"  [yellow]{c['name']}: {c['warning']}[/yellow]" for c in readiness["checks"] if c.get("warning")
    ]
    lines.append(f"HTTP       {settings.base_url}  (documentation: {settings.base_url}/docs)")
    if record is not None:
        lines.append(f"storage    {record.storage}")
        lines.append(f"dashboard  {record.dashboard_url}  (asks for a token: cat {record.token_path})")
        lines.append(f"logs       `tocsin logs` shows them; the files of this run are in {record.logs}")
    return Group(*lines)


def lanes_table(status: dict[str, Any]) -> Group:
    """The lanes as a table, and a line about features and model."""
    table = Table(
        "lane",
        "accepted",
        "delivered",
        "waiting",
        "retry",
        "dead",
        "p50",
        "p99",
        "pool",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    notes: list[str] = []
    for lane in status["lanes"]:
        counts = lane["counts"]
        table.add_row(
            lane["lane"],
            f"{counts.get('accepted', 0):,}",
            f"{counts.get('delivered', counts.get('applied', 0)):,}",
            f"{lane['blocks_waiting'] + lane['blocks_pending']:,}",
            f"{lane['retrying']:,}",
            f"{counts.get('dead', 0):,}",
            _ms(lane["latency_p50_ms"]),
            _ms(lane["latency_p99_ms"]),
            str(len(lane["consumers"])) if lane["consumers"] else "[red]none[/red]",
        )
        notes += [
            f"{counts[name]:,} {name} on {lane['lane']}"
            for name in ("expired", "suppressed", "repeated", "quarantined")
            if counts.get(name)
        ]
    newest = status["newest_event"]
    moment = now_lines(status["as_of"], datetime.now(UTC).timestamp()) if "as_of" in status else []
    since = f", newest event {datetime.fromtimestamp(newest, tz=UTC):%Y-%m-%d %H:%M} UTC" if newest else ""
    problem = status.get("registry_problem")
    model = f"[red]{escape(problem)}[/red]" if problem else status["champion"] or "none yet (tocsin train)"
    also = [f"also       {', '.join(notes)}"] if notes else []
    return Group(
        table,
        *also,
        f"features   {status['advertisers']:,} advertisers{since}",
        *moment,
        *archive_lines(status.get("archive")),
        f"model      {model}",
        *breaker_lines(status.get("breakers", [])),
    )


def now_lines(as_of: dict[str, Any], clock: float) -> list[str]:
    """Which moment is "now" for features, and why; a warning where it leaves everybody inactive, or somebody out.

    `clock` is the time, epoch seconds.
    """
    newest, setting = as_of["newest_event"], as_of["setting"]
    reason = {
        "now": "the clock (--as-of now)",
        "latest": "the midnight after the newest event (--as-of latest)",
    }.get(setting, f"it was set (--as-of {setting})")
    if setting == "latest" and (newest is None or as_of["moment"] >= clock - 60.0):
        reason = "the clock, which the data has reached (--as-of latest)"
    if setting == "latest" and newest is None:
        reason = "the clock, as there is no data yet (--as-of latest)"
    if setting == "latest" and as_of["ahead"]:
        reason = "where the data as a whole ends (--as-of latest)"
    lines = [f"now        {_minute(as_of['moment'])}: {reason}"]
    if setting == "latest" and as_of["ahead"]:
        lines.append(
            f"           [yellow]{as_of['ahead']:,} with events up to {_minute(newest)}, over 7 days after all others, "
            f"left out: check their dates[/yellow]"
        )
    idle_days = (as_of["moment"] - newest) / DAY_S if newest is not None else 0.0
    if idle_days > MAX_IDLE_DAYS:
        lines.append(
            f"           [yellow]everybody is inactive for {idle_days:,.0f} days or more; for data of the past: "
            f"tocsin up --as-of latest[/yellow]"
        )
    return lines


def _minute(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, tz=UTC):%Y-%m-%d %H:%M} UTC"


def archive_lines(backlog: dict[str, Any] | None) -> list[str]:
    """One line on landing in the archive; none where nothing was ever logged."""
    if not backlog or not (backlog["landed"] or any(backlog["blocks"].values())):
        return []
    line = f"archive    {backlog['landed']:,} events landed"
    if any(backlog["blocks"].values()):
        line += f", {backlog['waiting']:,} wait (the oldest {max(backlog['oldest_age_s'].values()):,.0f} s)"
    lost = (
        [f"           [red]{backlog['lost']:,} were lost before they landed[/red]"] if backlog["lost"] else []
    )
    return [line, *lost]


def breaker_lines(breakers: Sequence[dict[str, Any]]) -> list[Text]:
    """One line when all breakers are closed, else one for each that is not; none wider than 80 columns."""
    if not breakers:
        return []
    away = [breaker for breaker in breakers if breaker["state"] != "closed"]
    if not away:
        return [Text(f"breakers   all {len(breakers)} closed")]
    heads = ["breakers   ", *[" " * 11] * (len(away) - 1)]
    return [
        Text.assemble(head, (_breaker(breaker), "red")) for head, breaker in zip(heads, away, strict=True)
    ]


def _breaker(breaker: dict[str, Any]) -> str:
    """`p0:webhook open, 4 failures, retry in 12 s: timeout` within 69 columns; names and reasons are cut last."""
    name, state = str(breaker["name"])[:24], str(breaker["state"]).replace("_", " ")
    retry = f"retry in {breaker['retry_in_s']:.0f} s" if breaker["retry_in_s"] else "being tried"
    text = f"{name} {state}, {breaker['failures']} failures, {retry}: {breaker['reason']}"
    return text if len(text) <= 69 else text[:68] + "…"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f} ms" if value >= 100 else f"{value:,.1f} ms"
