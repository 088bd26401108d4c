"""The commands. Each does its work in a module of its own and turns errors into a line and an exit code."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, cast

import msgspec
import typer
from rich import box
from rich.table import Table

from cli import evaluate as evaluation
from cli import features, import_files, recipients
from cli.dlq import dlq
from cli.models import models
from cli.output import JsonFlag, console, emit
from cli.rules import command as rules
from features.importing import activity_log
from features.importing.options import ReadOptions
from tocsin.errors import TocsinError
from tocsin.settings import Settings, describe

EXIT_FAILURE = 1

app = typer.Typer(
    name="tocsin",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Priority notifications and advertiser intelligence on Ray and Redis streams.\n\n"
        "Start with [bold]tocsin demo[/bold] (everything once, then gone) or [bold]tocsin up[/bold] (stay up). "
        "Settings come from TOCSIN_… variables: [bold]tocsin config[/bold] lists them."
    ),
)
imports = typer.Typer(no_args_is_help=True, help="Bring files in: advertiser activity or public alerts.")
app.add_typer(imports, name="import")
app.add_typer(dlq, name="dlq")
app.add_typer(models, name="models")
app.add_typer(recipients.app, name="recipient")
app.add_typer(features.app, name="features")
app.add_typer(rules.app, name="rules")


@app.command()
def up(
    *,
    address: Annotated[str, typer.Option(help="Join this Ray cluster instead of starting one.")] = "",
    as_of: Annotated[
        str,
        typer.Option(help="The 'now' of features: now, latest (for historical data) or an RFC 3339 time."),
    ] = "",
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when ready; stop with `tocsin down`.")
    ] = False,
    run: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Start everything and stay up: storage, Ray, pools, HTTP. Ctrl-C stops it in order.

    What dies meanwhile is brought back; where that fails, it goes down with exit code 1 and says why. The logs of the
    last ten runs are kept in the data folder, in logs/runs. With no TOCSIN_REDIS_URL an embedded Valkey keeps the
    data there, over restarts.
    """
    from cli import up as command

    settings = Settings.from_env()
    if as_of:
        settings = msgspec.structs.replace(settings, as_of=as_of)
        settings = Settings.from_env(settings.to_env())
    command.up(settings, console(), address=address, detach=detach, run=run)


@app.command()
def down() -> None:
    """Stop the platform of this data folder, and what it left behind if it was killed. Its data stays."""
    from cli import up as command

    command.down(Settings.from_env(), console())


@app.command("repair-storage")
def repair_storage() -> None:
    """Mend the embedded Valkey's file when `up` says that it is damaged: a copy is kept, the rest cut off there."""
    from cli import up as command

    command.repair_storage(Settings.from_env(), console())


@app.command()
def status(*, json: JsonFlag = False) -> None:
    """Lanes, latencies, consumers, features and model at a glance. Exit code 1 when it is not up."""
    from cli import status as command

    command.show(Settings.from_env(), console(), json=json, emit=emit)


@app.command()
def logs(
    *,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="Of these parts alone: p0, router-p0-1, supervisor, churn, raylet, … As often as needed."
        ),
    ] = None,
    level: Annotated[
        str, typer.Option(help="This level and above: DEBUG, INFO, WARNING, ERROR, CRITICAL.")
    ] = "",
    since: Annotated[
        str, typer.Option(help="Not older than a span (90s, 10m, 2h, 1d) or an RFC 3339 time.")
    ] = "",
    request: Annotated[str, typer.Option(help="Of one request: the X-Request-ID of its answer.")] = "",
    number: Annotated[int, typer.Option("-n", min=0, max=100_000, help="The last so many records.")] = 200,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is logged from now on.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """What all parts on this machine logged, merged, newest last. With --json one object a record.

    Works while the platform runs and after it ended; Ray's own files are there only while it runs.
    """
    from cli.operating import logs as command

    wanted = command.wanted_of(part or (), level, since, request, datetime.now(UTC))
    command.show(Settings.from_env(), console(), wanted, number, follow=follow, json=json, emit=emit)


@app.command()
def train(
    *,
    promote: Annotated[
        bool,
        typer.Option(
            help="If it beats the recency baseline, try it alongside the champion; where none serves, it does at once."
        ),
    ] = True,
    json: JsonFlag = False,
) -> None:
    """Train the churn model on the stored activity and compare it with the recency baseline.

    The split is temporal: trained on earlier weeks, measured on later ones. The churn deployment follows within two
    seconds.
    """
    from cli import train as command

    command.train_command(Settings.from_env(), console(to_stderr=json), promote=promote, json=json, emit=emit)


@app.command("at-risk")
def at_risk(
    *,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many.")] = 20,
    json: JsonFlag = False,
) -> None:
    """The active advertisers most likely to leave, and what drives it."""
    from cli import at_risk as command

    command.show(Settings.from_env(), console(), limit, json=json, emit=emit)


@app.command(help=evaluation.HELP)
def evaluate(
    *,
    activity: Annotated[
        Path | None,
        typer.Option(
            help=f"What advertisers did, a row each time. {import_files.FILES}",
            exists=True,
            rich_help_panel=evaluation.OF_A_LOG,
        ),
    ] = None,
    file_format: Annotated[
        activity_log.ActivityFormat | None,
        typer.Option(
            "--format",
            help="google-ads, or csv (any other table) with --map. Default: found out from the columns.",
            rich_help_panel=evaluation.OF_A_LOG,
        ),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="FIELD=COLUMN, as often as needed: advertiser_id and event_time; amount, campaign_id, currency, "
            "kind, event_id, arrival where there are such columns.",
            rich_help_panel=evaluation.OF_A_LOG,
        ),
    ] = None,
    train_until: Annotated[
        str,
        typer.Option(
            help="A day, as 2019-02-17: labels learned from end by it, all complete weeks from it on are the test. "
            "Default: the newest quarter of the weeks is.",
            rich_help_panel=evaluation.OF_A_LOG,
        ),
    ] = "",
    active_days: Annotated[
        int,
        typer.Option(
            help="Asked about: who did anything in so many days before.", rich_help_panel=evaluation.OF_A_LOG
        ),
    ] = 28,
    horizon_days: Annotated[
        int,
        typer.Option(
            help="Churned: who does nothing in so many days after. Longer than a usual pause of theirs.",
            rich_help_panel=evaluation.OF_A_LOG,
        ),
    ] = 28,
    embargo_days: Annotated[
        int,
        typer.Option(
            help="Kept free between training labels and the test.", rich_help_panel=evaluation.OF_A_LOG
        ),
    ] = 0,
    parallel: Annotated[
        bool,
        typer.Option(
            "--parallel", help="Spread the fits over the cores by Ray.", rich_help_panel=evaluation.OF_A_LOG
        ),
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option(
            help="Instead of a log: one row an account, 70% to learn from and 30% to test on. Files as for --activity.",
            exists=True,
            rich_help_panel=evaluation.OF_A_TABLE,
        ),
    ] = None,
    label: Annotated[
        str,
        typer.Option(
            help="Its column that says who left: yes or no, 1 or 0.", rich_help_panel=evaluation.OF_A_TABLE
        ),
    ] = "Churn",
    time_format: import_files.TimeFormat = "",
    decimal: import_files.Decimal = "",
    encoding: import_files.Encoding = "",
    delimiter: import_files.Delimiter = "",
    html: Annotated[Path | None, typer.Option(help="Also write a page with pictures here.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 7,
    json: JsonFlag = False,
) -> None:
    """Judge a churn model of a file."""
    if (activity is None) == (table is None):
        raise typer.BadParameter("give --activity FILE or --table FILE")
    quiet, options = console(to_stderr=json), ReadOptions(time_format, decimal, encoding, delimiter)
    if table is not None:
        evaluation.evaluate_labelled_table(
            quiet, table, label, options, seed=seed, html=html, json=json, emit=emit
        )
        return
    evaluation.evaluate_activity(
        quiet,
        cast("Path", activity),
        file_format=file_format,
        pairs=mapping or [],
        options=options,
        train_until=train_until,
        active_days=active_days,
        horizon_days=horizon_days,
        embargo_days=embargo_days,
        seed=seed,
        parallel=parallel,
        html=html,
        json=json,
        emit=emit,
    )


@app.command()
def demo(
    *,
    activity: Annotated[
        Path | None,
        typer.Option(
            help="A table of advertiser activity, as for `import activity`. Default: a seeded simulator."
        ),
    ] = None,
    alerts: Annotated[
        Path | None, typer.Option(help="Atom/CAP alert feed. Default: a few alerts made up here.")
    ] = None,
    burst: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="P2 notifications to send on top.")
    ] = 20_000,
    json: JsonFlag = False,
) -> None:
    """Do the whole job once, in front of you: up, import, train, serve, notify, deliver, predict, explain, down.

    It runs in a folder of its own and leaves nothing behind.
    """
    from cli import demo as command

    command.run_demo(
        console(to_stderr=json), activity=activity, alerts=alerts, burst=burst, json=json, emit=emit
    )


@app.command()
def config(*, json: JsonFlag = False) -> None:
    """Every setting with its default, its meaning and the value in force; secrets are masked.

    Whatever may hold a secret can come from a file instead: TOCSIN_API_KEY_FILE=/run/secrets/api_key.
    """
    settings = Settings.from_env()
    rows = describe()
    shown = {name: str(settings.shown(name.removeprefix("TOCSIN_").lower())) for name, _, _ in rows}
    if json:
        emit(shown)
        return
    table = Table(title="Settings", title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.add_column("variable", no_wrap=True)  # to be copied
    for heading in ("in force", "default", "meaning"):
        table.add_column(heading, overflow="fold")
    for name, default, meaning in rows:
        table.add_row(name, shown[name], default, meaning)
    console().print(table)


@imports.command("activity")
def import_activity(
    file: Annotated[Path, typer.Argument(help=import_files.FILES, show_default=False)],
    *,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="FIELD=COLUMN for advertiser_id, event_time, amount, kind, event_id, campaign_id, currency, arrival. "
            "Google's weekly-spend format needs none.",
        ),
    ] = None,
    rejects: Annotated[
        Path | None, typer.Option(help="Where bad rows go. Default: FILE.rejects.jsonl alongside the file.")
    ] = None,
    time_format: import_files.TimeFormat = "",
    decimal: import_files.Decimal = "",
    encoding: import_files.Encoding = "",
    delimiter: import_files.Delimiter = "",
    json: JsonFlag = False,
) -> None:
    """Send a table of advertiser activity to the platform. Importing it again changes nothing."""
    from cli import import_files as command

    options = ReadOptions(time_format, decimal, encoding, delimiter)
    command.import_activity(
        Settings.from_env(),
        console(to_stderr=json),
        file,
        mapping or [],
        rejects,
        options,
        json=json,
        emit=emit,
    )


@imports.command("alerts")
def import_alerts(
    file: Annotated[
        Path, typer.Argument(help="An Atom feed of CAP alerts, or one CAP alert.", show_default=False)
    ],
    *,
    json: JsonFlag = False,
) -> None:
    """Send public alerts (Common Alerting Protocol) as notifications; a repeat of an alert is not sent twice.

    Severity Extreme or Severe rides p0, and so does an event that names a danger to life; Moderate rides p1, the
    rest p2.
    """
    from cli import import_files as command

    command.import_alerts(Settings.from_env(), console(to_stderr=json), file, json=json, emit=emit)


def run() -> None:
    """Run a command; a known error is one line with the next step, exit code 1."""
    try:
        app(standalone_mode=True)
    except TocsinError as error:
        sys.stderr.write(f"tocsin: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"  next: {error.hint}\n")
        sys.exit(EXIT_FAILURE)
