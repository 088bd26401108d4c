"""`tocsin recipient …`: how somebody wants to be told, over HTTP."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from cli.output import JsonFlag, console, emit
from tocsin.errors import InvalidRecordError, NotFoundError, UnreadableFileError
from tocsin.settings import Settings
from tocsin.wire.masking import MASK
from tocsin.wire.recipients import Recipient, RecipientPage, RecipientRequest

if TYPE_CHECKING:  # loaded when a command runs: --help stays quick
    from tocsin.client import Client

LANES = ("p0", "p1", "p2")
NONE = "none"

app = typer.Typer(
    no_args_is_help=True,
    help="Who is told where, what they do not want to hear, and when not to disturb them.",
)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The recipient's id.", show_default=False)]


@app.command("set")
def set_command(
    recipient_id: IdArgument,
    *,
    quiet: Annotated[
        str, typer.Option(help="Hours in which p1 and p2 wait: 22:00-07:00, or none.", show_default=False)
    ] = "",
    timezone: Annotated[
        str, typer.Option(help="IANA name, for the quiet hours: Europe/Berlin.", show_default=False)
    ] = "",
    mute: Annotated[
        list[str] | None,
        typer.Option(help="A type or alert type not to be told of, or none. Again for more."),
    ] = None,
    mute_source: Annotated[
        list[str] | None, typer.Option(help="A source not to be told of, or none. Again for more.")
    ] = None,
    throttle: Annotated[
        int | None, typer.Option(min=0, help="At most so many an hour on p1, and on p2; 0: no limit.")
    ] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option(
            help="LANE=CHANNEL[,CHANNEL…]: p2=log; p2=none: as the notification says. Again for more."
        ),
    ] = None,
    webhook_url: Annotated[
        str, typer.Option(help="Where the webhook channel posts, or none.", show_default=False)
    ] = "",
    fallback: Annotated[
        list[str] | None, typer.Option(help="Whom to turn to for a p0 instead, or none. Again for more.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="CHANNEL=ADDRESS; CHANNEL=none forgets it. Again for more.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="JSON to start from, instead of what is kept now.", show_default=False),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Say how a recipient wants to be told. What no option names stays as it is."""
    with _client() as client:
        before = _read(file) if file else _known(client, recipient_id)
        lists = {"muted_types": mute, "muted_sources": mute_source, "fallback_contacts": fallback}
        wanted = before | {
            name: () if values == [NONE] else tuple(values) for name, values in lists.items() if values
        }
        if quiet or timezone:
            wanted["quiet_hours"] = quiet_hours(wanted.get("quiet_hours"), quiet, timezone)
        if throttle is not None:
            wanted["max_per_hour"] = throttle or None
        if webhook_url:
            wanted["webhook_url"] = None if webhook_url == NONE else webhook_url
        if channel:
            wanted["channels"] = channels(wanted.get("channels"), channel)
        if target:
            wanted["targets"] = targets(wanted.get("targets"), target)
        kept = client.set_recipient(recipient_id, wanted)
    _print(kept, json=json)


@app.command()
def show(recipient_id: IdArgument, *, json: JsonFlag = False) -> None:
    """How one recipient wants to be told."""
    with _client() as client:
        _print(client.recipient(recipient_id), json=json)


@app.command("list")
def list_command(
    *,
    after: Annotated[str, typer.Option(help="Only ids after this one.", show_default=False)] = "",
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many.")] = 50,
    json: JsonFlag = False,
) -> None:
    """Recipients in the order of their ids."""
    with _client() as client:
        page = client.recipients(after, limit)
    if json:
        emit(page)
        return
    console().print(page_table(page))
    if page.next:
        _line(console(), f"{page.total:,} in all; go on with --after {page.next!r}")


@app.command()
def remove(recipient_id: IdArgument, *, json: JsonFlag = False) -> None:
    """Forget how a recipient wants to be told: from then on as each notification says."""
    with _client() as client:
        answer = client.remove_recipient(recipient_id)
    if json:
        emit(answer)
        return
    _line(console(), f"{recipient_id}: {'forgotten' if answer.removed else 'nothing was kept'}")


# --------------------------------------------------------------------------- what the options say


def quiet_hours(before: dict[str, Any] | None, quiet: str, timezone: str) -> dict[str, Any] | None:
    """Quiet hours from `HH:MM-HH:MM` and a timezone, each as before where it is empty; None for none.

    Raises:
        InvalidRecordError: it is not written like that, or there are no hours for the timezone.
    """
    if quiet == NONE:
        return None
    hours = dict(before or {})
    if quiet:
        start, dash, end = quiet.partition("-")
        if not dash:
            raise InvalidRecordError(f"--quiet {quiet} is not START-END", field="quiet", limit="22:00-07:00")
        hours |= {"start": start.strip(), "end": end.strip()}
    if "start" not in hours:
        raise InvalidRecordError("--timezone is for quiet hours: say which by --quiet", field="quiet")
    return hours | ({"timezone": timezone} if timezone else {})


def channels(before: dict[str, Any] | None, given: Sequence[str]) -> dict[str, list[str]]:
    """The channels of each lane from `LANE=CHANNEL[,CHANNEL…]`, as before for a lane not named.

    Raises:
        InvalidRecordError: it is not written like that.
    """
    chosen: dict[str, list[str]] = defaultdict(list)
    for one in given:
        lane, equals, names = one.partition("=")
        if lane not in LANES or not equals:
            raise InvalidRecordError(
                f"--channel {one} is not LANE=CHANNEL", field="channel", limit="p0=…, p1=… or p2=…"
            )
        chosen[lane] += [name.strip() for name in names.split(",") if name.strip() != NONE]
    return (before or {}) | chosen


def targets(before: dict[str, Any] | None, given: Sequence[str]) -> dict[str, str]:
    """Addresses from `CHANNEL=ADDRESS`, as before (masked) for a channel not named.

    Raises:
        InvalidRecordError: it is not written like that. The message does not show the address.
    """
    book: dict[str, str] = dict(before or {})
    for one in given:
        name, equals, address = one.partition("=")
        if not equals or not address:
            raise InvalidRecordError(
                "--target is not CHANNEL=ADDRESS", field="target", limit="CHANNEL=ADDRESS"
            )
        book[name] = address
    return {name: address for name, address in book.items() if address != NONE}


def _read(file: Path) -> dict[str, Any]:
    """A recipient's preferences from a file.

    Raises:
        UnreadableFileError: it is missing, or not a JSON object.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise UnreadableFileError(f"cannot read {file}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise UnreadableFileError(f"{file} is not a JSON object: {error}") from None


def _known(client: Client, recipient_id: str) -> dict[str, Any]:
    """What is kept now, ready to be sent back: masked targets are kept as they were."""
    try:
        found = client.recipient(recipient_id)
    except NotFoundError:
        return {}
    kept: dict[str, Any] = msgspec.to_builtins(found)
    return {name: kept[name] for name in RecipientRequest.__struct_fields__}


def _client() -> Client:
    from tocsin.client import Client

    settings = Settings.from_env()
    return Client(settings.base_url, api_key=settings.api_key)


# --------------------------------------------------------------------------- for people


def _print(recipient: Recipient, *, json: bool) -> None:

    if json:
        emit(recipient)
        return
    console().print(recipient_table(recipient))


def recipient_table(recipient: Recipient) -> Table:
    """One recipient, a row a wish."""
    table = Table("what", "wanted", title=_plain(recipient.id), title_justify="left", show_header=False)
    for lane in LANES:
        chosen = ", ".join(getattr(recipient.channels, lane))
        table.add_row(f"channels {lane}", chosen or "as the notification says")
    table.add_row("muted types", _plain(", ".join(recipient.muted_types)))
    table.add_row("muted sources", _plain(", ".join(recipient.muted_sources)))
    table.add_row("quiet hours", _quiet(recipient))
    table.add_row("at most an hour", _limit(recipient) or "no limit")
    table.add_row("webhook", _plain(recipient.webhook_url or ""))
    table.add_row("falls back on", _plain(", ".join(recipient.fallback_contacts)))
    table.add_row("targets", _plain(", ".join(f"{name} {MASK}" for name in recipient.targets)))
    table.add_row("since", f"{recipient.updated_at:%Y-%m-%d %H:%M:%S} UTC")
    return table


def page_table(page: RecipientPage) -> Table:
    """A page of recipients, a row each."""
    table = Table("recipient", "p0", "p1", "p2", "muted", "quiet hours", "an hour", "targets")
    for one in page.items:
        table.add_row(
            _plain(one.id),
            *(", ".join(getattr(one.channels, lane)) for lane in LANES),
            _plain(", ".join((*one.muted_types, *one.muted_sources))),
            _quiet(one),
            _limit(one),
            ", ".join(one.targets),
        )
    return table


def _quiet(recipient: Recipient) -> str:
    quiet = recipient.quiet_hours
    return f"{quiet.start}-{quiet.end} {quiet.timezone}" if quiet else ""


def _limit(recipient: Recipient) -> str:
    return str(recipient.max_per_hour or "")


def _plain(text: str) -> str:
    """Text of others, so that its brackets are no markup."""
    return text.replace("[", r"\[")


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False)
