"""`tocsin rules …`: try the rules of priority without sending anything, without a running platform."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.table import Table

from cli.output import JsonFlag, console, emit
from tocsin.errors import InvalidRecordError
from tocsin.settings import Settings
from tocsin.wire.classification import Classification, RequestedPriority

if TYPE_CHECKING:  # loaded when a command runs: --help stays quick
    from routing.intake.priority import Classifier

SEVERITIES = ("", "Extreme", "Severe", "Moderate", "Minor", "Unknown")

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help=(
        "Which lane a notification rides, and why.\n\n"
        "Words of danger in type or alert_type ride p0, in nine languages and however they are spelled; a drill, an "
        "all-clear or a safety device with a low battery rides p1; `fire sale` is no fire. CAP severity Extreme or "
        "Severe rides p0. The title counts where a device or an alarm speaks and says nothing else.\n\n"
        "Your own rules come first: TOCSIN_RULES names a TOML file, followed while the platform runs.\n\n"
        "\b\n"
        "    \\[\\[rule]]\n"
        '    name = "boiler-room"\n'
        '    lane = "p0"                    # left out: the defaults decide\n'
        '    types = ["boiler_*"]           # the whole of type; * stands for anything\n'
        '    alert_types = ["pressure_*"]   # the whole of alert_type\n'
        '    words = ["boiler pressure"]    # words one after the other, in either\n'
        '    severities = ["Severe"]\n'
        "    may_lower = true               # a sender's `priority` may be lower\n\n"
        "Of what a rule names, each must hold, by any of its values."
    ),
)


@app.callback()
def _group() -> None:
    """Keeps `test` a command of its own while it is the only one."""


@app.command("test")
def classify(
    type_: Annotated[
        str, typer.Argument(metavar="TYPE", help="The notification's type.", show_default=False)
    ],
    *,
    alert_type: Annotated[str, typer.Option(help="Its alert_type.", show_default=False)] = "",
    severity: Annotated[
        str, typer.Option(help="Extreme, Severe, Moderate, Minor or Unknown.", show_default=False)
    ] = "",
    title: Annotated[str, typer.Option(help="Its title.", show_default=False)] = "",
    priority: Annotated[
        str, typer.Option(help="What the sender asks for: p0, p1 or p2.", show_default=False)
    ] = "",
    json: JsonFlag = False,
) -> None:
    """Say the lane, the rule, the hazard and the word that decided. Sends nothing.

    Example: tocsin rules test device_alert --alert-type "smoke detector low battery"
    """
    asked = _priority(priority)
    if severity not in SEVERITIES:
        raise InvalidRecordError(
            f"--severity {severity!r} is unknown",
            field="severity",
            hint="one of " + ", ".join(SEVERITIES[1:]),
        )
    found = classifier_of(Settings.from_env()).explain(
        type_, alert_type, severity, title=title, priority=asked
    )
    if json:
        emit(found)
    else:
        console().print(table_of(found))


def classifier_of(settings: Settings) -> Classifier:
    """The classifier that a platform with these settings would use.

    Raises:
        ConfigurationError: the file of rules cannot be used.
    """
    from routing.intake.priority import Classifier
    from routing.intake.rules import read_rules

    return Classifier(read_rules(Path(settings.rules)).rules if settings.rules else ())


def table_of(found: Classification) -> Table:
    """A row for each thing that is to say."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("lane", found.lane)
    table.add_row("rule", f"{found.rule} (yours)" if found.operator_rule else found.rule)
    table.add_row("reading", found.reading.replace("_", " "))
    rows = {
        "hazard": found.hazard.replace("_", " "),
        "word": f"{found.word} (in {found.field})" if found.field else found.word,
        "because of": found.because,
        "may be lowered": "by the sender's priority" if found.may_lower else "",
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table


def _priority(text: str) -> RequestedPriority:
    for known in get_args(RequestedPriority):
        if text == known:
            return known  # type: ignore[no-any-return]
    raise InvalidRecordError(f"--priority {text!r} is unknown", field="priority", hint="one of p0, p1, p2")
