"""`tocsin demo`: the whole job once, in front of the user, leaving nothing behind."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from cli.import_files import send_activity, send_notifications
from launch.file_import import request_of
from launch.local_client import await_lane, client_of, fetch
from launch.platform import Platform
from launch.training import train
from tocsin.errors import UnreadableFileError
from tocsin.ports import free_port, is_free
from tocsin.settings import Settings
from tocsin.telemetry.latency import quantile_ms
from tocsin.wire.insights import InsightAnswer
from tocsin.wire.lanes import NOTIFICATION_LANES
from tocsin.wire.notifications import NotificationRequest

AT_RISK = 10
SINGLE_P0 = 20
SIMULATED = "a seeded simulator of 400 advertisers (made up: no claim rests on it)"


def run_demo(
    console: Console,
    *,
    activity: Path | None,
    alerts: Path | None,
    burst: int,
    json: bool,
    emit: Callable[[object], None],
) -> None:
    """Up, do everything, print what happened, down.

    Raises:
        TocsinError: a file is unusable, or something did not come up.
    """
    for path in (activity, alerts):
        if path is not None and not path.exists():
            raise UnreadableFileError(f"there is no file {path}", hint="check the path")
    with _own_folder() as settings:
        step = Steps(console)
        step("starting storage, Ray, pools and HTTP")
        with Platform(settings, lambda part, line: console.print(f"  {part:<19} {line}")) as platform:
            summary = _work(settings, step, activity, alerts, burst)
            summary["ready_s"] = platform.ready_s
            step("done; stopping what was started")
    if json:
        emit(summary)
    else:
        _print(console, summary)


class Steps:
    """Numbered headlines with the time they began."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._number = 0
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        """Print the next one."""
        self._number += 1
        self.console.print(
            f"[bold]{self._number}. {text}[/bold]  [dim]{time.monotonic() - self._began:.0f} s[/dim]"
        )


@contextmanager
def _own_folder() -> Iterator[Settings]:
    """A folder and ports of its own, so that a platform that runs here is left alone."""
    folder = Path(tempfile.mkdtemp(prefix="tocsin-demo-"))
    before = dict(os.environ)
    base = Settings.from_env()
    settings = msgspec.structs.replace(
        base,
        data_dir=str(folder),
        redis_url="",
        redis_url_p0="",
        as_of="latest",  # the demo's data is history: "now" is the end of it
        port=base.port if is_free(base.host, base.port) else free_port(),
        dashboard_port=base.dashboard_port if is_free("127.0.0.1", base.dashboard_port) else free_port(),
    )
    try:
        yield settings
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.clear()
        os.environ.update(before)


def _work(
    settings: Settings, step: Steps, activity: Path | None, alerts: Path | None, burst: int
) -> dict[str, Any]:
    step(f"importing activity from {activity.name if activity else SIMULATED}")
    _import(settings, step.console, activity)
    step("training the churn model on it, and putting it into service")
    model, _ = train(settings, promote=True)
    step("sending alerts and a burst of P2 over HTTP")
    before = fetch(settings)
    sent = _send(settings, step.console, alerts, burst)
    step("waiting until everything is delivered")
    await_lane(settings, *NOTIFICATION_LANES)
    lanes, lost = _lanes(before, fetch(settings))
    step("asking who is about to leave, and what to do about it")
    with client_of(settings) as client:
        at_risk = client.at_risk(AT_RISK).predictions
        insight = client.insight(at_risk[0].advertiser_id) if at_risk else None
    return {
        "lanes": lanes,
        "lost": lost,
        "alerts": sent,
        "model": {key: model[key] for key in ("auc", "baseline_auc", "rows", "advertisers")},
        "at_risk": [
            {
                "advertiser_id": answer.advertiser_id,
                "probability": round(answer.probability, 4),
                "drivers": msgspec.to_builtins(answer.drivers),
            }
            for answer in at_risk
        ],
        "insight": msgspec.to_builtins(insight) if insight else {},
    }


def _import(settings: Settings, console: Console, activity: Path | None) -> None:
    if activity is not None:
        send_activity(settings, console, activity, None, settings.data_path / "rejects.jsonl")
        return
    from features.simulator import simulate

    made = simulate(end=time.time() // 86_400 * 86_400)
    with client_of(settings) as client:
        client.send_activity([request_of(event) for event in made.activities])
    await_lane(settings, "activity")


def _send(settings: Settings, console: Console, alerts: Path | None, burst: int) -> dict[str, Any]:
    with client_of(settings) as client:
        sent = send_notifications(client, console, _alerts(alerts), "sending alerts")
        send_notifications(client, console, p2_burst(burst), "sending a burst of P2")
        for number in range(SINGLE_P0):  # alongside the flood, one by one, as an alarm panel would
            client.send(
                type="emergency",
                alert_type="smoke",
                title=f"Smoke in room {number}",
                recipient=f"resident-{number}",
            )
    return sent


def _alerts(path: Path | None) -> list[NotificationRequest]:
    if path is not None:
        from routing.intake.cap import read_alerts

        return read_alerts(path, time.time()).alerts
    made = (
        NotificationRequest(
            type="weather_alert",
            alert_type="Flash Flood Warning",
            severity="Severe",
            title="Flood",
            recipient="area:1",
        ),
        NotificationRequest(
            type="device_alert",
            alert_type="low_battery",
            title="Battery of the smoke detector",
            recipient="home:2",
        ),
        NotificationRequest(
            type="weather_alert",
            alert_type="Fog Statement",
            severity="Minor",
            title="Fog",
            recipient="area:3",
        ),
    )
    return list(made * 20)


def p2_burst(number: int) -> list[NotificationRequest]:
    """Reminders nobody minds waiting for."""
    return [
        NotificationRequest(
            type="reminder", title=f"Reminder {i}", recipient=f"subscriber-{i % 997}", source="demo"
        )
        for i in range(number)
    ]


def _lanes(before: dict[str, Any], after: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], int]:
    """What happened in each lane meanwhile, and how many accepted notifications are unaccounted for."""
    lanes: dict[str, dict[str, Any]] = {}
    lost = 0
    for was, now in zip(before["lanes"], after["lanes"], strict=True):
        if now["lane"] not in NOTIFICATION_LANES:
            continue
        counts = {key: value - was["counts"].get(key, 0) for key, value in now["counts"].items()}
        buckets = {int(b): n - was["latency"].get(b, 0) for b, n in now["latency"].items()}
        finished = sum(counts.get(state, 0) for state in ("delivered", "suppressed", "expired", "dead"))
        lost += counts.get("accepted", 0) - finished
        lanes[now["lane"]] = {
            "accepted": counts.get("accepted", 0),
            "delivered": counts.get("delivered", 0),
            "expired": counts.get("expired", 0),
            "dead": counts.get("dead", 0),
            "p50_ms": quantile_ms(buckets, 0.5),
            "p99_ms": quantile_ms(buckets, 0.99),
        }
    return lanes, lost


def _print(console: Console, summary: dict[str, Any]) -> None:
    table = Table(
        "lane",
        "accepted",
        "delivered",
        "expired",
        "dead",
        "p50",
        "p99",
        title="Notifications",
        title_justify="left",
    )
    for name, lane in summary["lanes"].items():
        table.add_row(
            name,
            *(f"{lane[key]:,}" for key in ("accepted", "delivered", "expired", "dead")),
            *("" if lane[key] is None else f"{lane[key]:,.1f} ms" for key in ("p50_ms", "p99_ms")),
        )
    console.print(table)
    console.print(f"accepted and unaccounted for: [bold]{summary['lost']}[/bold]")
    model = summary["model"]
    console.print(
        f"\nChurn model: AUC [bold]{model['auc']:.3f}[/bold] on later weeks, recency alone {model['baseline_auc']:.3f} "
        f"({model['rows']:,} labelled rows, {model['advertisers']:,} advertisers)"
    )
    risk = Table("advertiser", "risk", "what drives it", title="Most likely to leave", title_justify="left")
    for item in summary["at_risk"]:
        risk.add_row(
            item["advertiser_id"],
            f"{item['probability']:.0%}",
            "; ".join(driver["text"] for driver in item["drivers"]),
        )
    console.print(risk)
    if summary["insight"]:
        _print_insight(console, msgspec.convert(summary["insight"], InsightAnswer))
    console.print(f"\nReady in {summary['ready_s']} s. Nothing is left running.")


def _print_insight(console: Console, insight: InsightAnswer) -> None:
    console.print(f"\n[bold]{insight.advertiser_id}[/bold]: {insight.headline}")
    console.print(f"  {insight.recommendation.action} {insight.recommendation.reason}")
