"""`tocsin features …`: the catalogue, from the definitions, and what is stored of one advertiser, over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.output import JsonFlag, console, emit
from tocsin.errors import NotFoundError
from tocsin.settings import Settings
from tocsin.wire.features import FeaturesAnswer
from tocsin.wire.lanes import LaneName

app = typer.Typer(
    no_args_is_help=True,
    help="The features of advertisers: definitions, values, backfill, and whether what was served is true.",
)


@app.command("list")
def list_command(*, json: JsonFlag = False) -> None:
    """Every feature view with its features, and the on-demand features."""
    entries = catalogue()
    if json:
        emit(entries)
        return
    for view in entries["views"]:
        about = (
            f"owner {view['owner']}, time to live {view['ttl_s']:g} s, fresh within {view['freshness_s']:g} s"
        )
        console().print(f"[bold]{view['name']}[/bold]: {view['description']}\n  {about}")
        console().print(_table([one for one in entries["features"] if one["view"] == view["name"]]))
    console().print("[bold]on demand[/bold]: computed from values of the question")
    console().print(_table([one for one in entries["features"] if not one["view"]]))


def _table(features: Sequence[dict[str, Any]]) -> Table:
    table = Table("feature", "unit", "what it is", box=box.SIMPLE, pad_edge=False)
    for one in features:
        table.add_row(one["name"], one["unit"], one["description"])
    return table


@app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(help="A feature or a view.", show_default=False)],
    *,
    json: JsonFlag = False,
) -> None:
    """All that is defined of one feature or view."""
    entries = catalogue()
    found = next(
        (one for kind in ("features", "views") for one in entries[kind] if one["name"] == name), None
    )
    if found is None:
        raise NotFoundError(
            f"there is no feature or view {name[:128]!r}", hint="`tocsin features list` names all"
        )
    if json:
        emit(found)
        return
    for key, text in _about(found):
        console().print(f"{key:<14} {text}")


def _about(entry: dict[str, Any]) -> list[tuple[str, str]]:
    """What is defined of a feature or a view, in words."""
    words = {"ttl_s": "time to live", "freshness_s": "fresh within", "window_days": "window"}
    found: list[tuple[str, str]] = []
    for key, value in entry.items():
        text = ", ".join(value) if isinstance(value, list) else f"{value}"
        if key == "window_days":
            text = f"{value} days" if value > 1 else "24 hours" if value else "everything"
        elif key in words:
            text = f"{value:,g} s"
        if text:
            found.append((words.get(key, key.replace("_", " ")), text))
    return found


@app.command("get")
def get_command(
    advertiser_id: Annotated[str, typer.Argument(metavar="ID", help="The advertiser.", show_default=False)],
    *,
    as_of: Annotated[
        str,
        typer.Option(
            help="As of this moment, RFC 3339 with an offset. Default: the platform's now.",
            show_default=False,
        ),
    ] = "",
    value: Annotated[
        list[str] | None,
        typer.Option(help="NAME=NUMBER for on-demand features: planned_budget=500. Again for more."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """The features of one advertiser, by view, each with its status."""
    from launch.local_client import client_of

    moment = _moment(as_of) if as_of else None
    with client_of(Settings.from_env()) as client:
        answer = client.features(advertiser_id, moment, values=parse_values(value or []))
    if json:
        emit(answer)
        return
    for part in shown(answer):
        console().print(part)


def shown(answer: FeaturesAnswer) -> list[str | Table]:
    """An answer for people: a table for each view, below what holds for all of it."""
    parts: list[str | Table] = [
        f"[bold]{escape(answer.advertiser_id)}[/bold] as of {answer.as_of:%Y-%m-%d %H:%M:%S} UTC"
    ]
    if answer.degraded:
        parts.append(f"[yellow]{escape(answer.degraded_reason)}[/yellow]")
    for view in dict.fromkeys(one.view for one in answer.features.values()):
        features = {name: one for name, one in answer.features.items() if one.view == view}
        first = next(iter(features.values()))
        age = "age unknown" if first.age_s is None else f"age {first.age_s:,.1f} s"
        newest = f", newest event {first.event_time:%Y-%m-%d %H:%M:%S} UTC" if first.event_time else ""
        parts.append(f"\n[bold]{view}[/bold]: {age}{newest}")
        table = _values_table()
        for name, one in features.items():
            status = one.status if one.status == "present" else f"[yellow]{one.status}[/yellow]"
            table.add_row(name, _number(one.value), one.unit, status)
        parts.append(table)
    if answer.on_demand:
        units = {one["name"]: one["unit"] for one in catalogue()["features"]}
        table = _values_table()
        for name, number in answer.on_demand.items():
            table.add_row(name, _number(number), units.get(name, ""), "missing" if number is None else "")
        parts += ["\n[bold]on demand[/bold]", table]
    return parts


def _values_table() -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("feature", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("status", no_wrap=True)
    return table


def _number(value: float | None) -> str:
    """All digits of what is money or a count, six of a quotient."""
    if value is None:
        return ""
    return f"{value:,.2f}".removesuffix(".00") if abs(value) >= 1_000 else f"{value:,.6g}"


ArchiveOption = Annotated[
    str,
    typer.Option(
        "--archive", help="A folder or URI. Default: the platform's own archive.", show_default=False
    ),
]


@app.command("backfill")
def backfill_command(
    *,
    archive: ArchiveOption = "",
    parallel: Annotated[
        int, typer.Option(min=1, max=256, help="Partitions at a time, each a Ray task; 1: without Ray.")
    ] = 1,
    address: Annotated[
        str, typer.Option(help="The Ray cluster to use. Default: one of its own.", show_default=False)
    ] = "",
    json: JsonFlag = False,
) -> None:
    """Bring the online state up to the archived event log, alongside live shards or alone.

    What is known changes nothing, so it may be stopped and run again: it goes on where it was.
    """
    _backfill(
        Settings.from_env(),
        console(to_stderr=json),
        uri=archive,
        parallel=parallel,
        address=address,
        json=json,
        emit=emit,
    )


@app.command("verify")
def verify_command(
    *,
    archive: ArchiveOption = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Newest samples to replay.")] = 10_000,
    json: JsonFlag = False,
) -> None:
    """Replay a sample of what was served from the archived event log. Exit code 1 where a value differs."""
    clean = _verify(
        Settings.from_env(),
        console(to_stderr=json),
        uri=archive,
        limit=limit,
        json=json,
        emit=emit,
    )
    if not clean:
        raise typer.Exit(1)


def _backfill(
    settings: Settings,
    console: Console,
    *,
    uri: str,
    parallel: int,
    address: str,
    json: bool,
    emit: Callable[[object], None],
) -> None:
    """Bring the online state up to the archive, and say what was done.

    Raises:
        TocsinError: the archive is empty or unusable, or storage does not answer; run it again to go on.
    """
    from cli.import_files import progress_bar
    from features.jobs.backfill import plan
    from features.offline.archive import Archive
    from launch import archive_jobs

    uri = uri or settings.archive
    source = Archive(uri)
    work = plan(source, settings.partitions(LaneName.ACTIVITY))
    total = work.events(range(work.partitions))
    if not total:
        raise NotFoundError(
            f"there are no events in {source.location}", hint="name the archive with --archive"
        )
    with archive_jobs.with_next_step(), progress_bar(console) as bar:
        task = bar.add_task("backfilling", total=total)
        done = archive_jobs.run_backfill(
            settings, uri, work, parallel, address, lambda number: bar.advance(task, float(number))
        )
    if json:
        emit({**msgspec.to_builtins(done), "archive_events": total})
        return
    said = f"{done.events:,} events of {done.advertisers:,} advertisers gone through"
    if done.skipped:
        said += f"; {done.skipped:,} advertisers had been done before"
    if done.again:
        said += f"; {done.again:,} portions worked out again, as live shards wrote meanwhile"
    console.print(said)


def _verify(
    settings: Settings,
    console: Console,
    *,
    uri: str,
    limit: int,
    json: bool,
    emit: Callable[[object], None],
) -> bool:
    """Replay what was served, and say what differs. Returns whether nothing does.

    Raises:
        TocsinError: storage does not answer, or the archive is unusable.
    """
    from launch.archive_jobs import replay_served

    report = replay_served(settings, uri or settings.archive, limit)
    if json:
        emit({**msgspec.to_builtins(report), "clean": report.clean})
        return report.clean
    console.print(
        f"{report.samples:,} served vectors sampled, {report.compared:,} replayed offline; not compared: "
        f"{report.other_schema:,} of other definitions, {report.unsettled:,} served while too much arrived"
    )
    if report.clean:
        console.print("[bold]no value differs[/bold]")
        return True
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("feature", "differ", "an advertiser", "served", "offline"):
        table.add_column(heading, no_wrap=heading in {"feature", "an advertiser"})
    first = {one.feature: one for one in reversed(report.examples)}
    for name, number in sorted(report.mismatches.items(), key=lambda pair: -pair[1]):
        example = first.get(name)
        shown = (
            (example.advertiser_id, f"{example.served}", f"{example.offline}") if example else ("", "", "")
        )
        table.add_row(name, f"{number:,}", *shown)
    console.print(table)
    return False


def catalogue() -> dict[str, list[dict[str, Any]]]:
    """The definitions as plain values: `views` and `features`, on-demand ones last."""
    from features.definitions import ON_DEMAND, VIEWS

    views: list[dict[str, Any]] = []
    features: list[dict[str, Any]] = []
    for view in VIEWS:
        about = {
            "owner": view.owner,
            "entity": view.entity.name,
            "ttl_s": view.ttl_s,
            "freshness_s": view.freshness_s,
        }
        views.append(
            {
                "name": view.name,
                "description": view.description,
                **about,
                "schema_hash": view.schema_hash.hex(),
                "features": list(view.names),
            }
        )
        features += [{**msgspec.to_builtins(one), "view": view.name, **about} for one in view.features]
    features += [
        {
            "name": one.name,
            "unit": one.unit,
            "description": one.description,
            "view": "",
            "owner": one.owner,
            "stored": list(one.stored),
            "requested": list(one.requested),
        }
        for one in ON_DEMAND
    ]
    return {"views": views, "features": features}


def parse_values(pairs: Sequence[str]) -> dict[str, float]:
    """`["planned_budget=500"]` as `{"planned_budget": 500.0}`.

    Raises:
        BadParameter: a pair is not NAME=NUMBER.
    """
    values: dict[str, float] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            values[name.strip()] = float(text)
        except ValueError:
            raise typer.BadParameter(f"{pair!r} is not NAME=NUMBER, as in planned_budget=500") from None
    return values


def _moment(text: str) -> datetime:
    try:
        return msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        raise typer.BadParameter(f"{text!r} is not a time such as 2026-01-31T00:00:00Z") from None
