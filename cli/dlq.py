"""`tocsin dlq`: the dead letters, for the person on call.

    list ──► show ──► replay (--dry-run first) | purge (--yes to mean it)

Everything goes over HTTP. A replay runs a couple of seconds a request, so that Ctrl-C ends it soon; whatever moved
has moved whole, and the same command goes on with the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from cli.output import JsonFlag, console, emit
from launch.local_client import client_of
from tocsin.clock import to_datetime
from tocsin.errors import InvalidRecordError, NotFoundError
from tocsin.settings import Settings
from tocsin.wire.dead_letters import (
    DEFAULT_RATE,
    MAX_HANDLED,
    MAX_RATE,
    DeadLetterPage,
    DeadLetterView,
    HandledLetters,
    Where,
)

if TYPE_CHECKING:
    from tocsin.client import Client

EXIT_INTERRUPTED = 130
STEP_S = 2.0  # of replaying in one request
NAMED = 10  # ids shown to people; --json has them all

dlq = typer.Typer(no_args_is_help=True, help="Dead letters: find, understand, replay or purge them.")

Lane = Annotated[str, typer.Option(help="Only this lane: p0, p1 or p2.")]
Reason = Annotated[str, typer.Option(help="Why it died: refused or attempts_exhausted.")]
Source = Annotated[str, typer.Option(help="The sending system.")]
Recipient = Annotated[str, typer.Option(help="Who was to be told.")]
Since = Annotated[str, typer.Option(help="Died then or later: RFC 3339, or an age such as 30m, 6h, 2d.")]
Until = Annotated[str, typer.Option(help="Died then or earlier, as --since.")]
Text = Annotated[str, typer.Option(help="Stands in the error.")]
Ids = Annotated[list[str] | None, typer.Option("--id", help="This letter; may be given many times.")]
Most = Annotated[int | None, typer.Option(min=1, help="How many at the most. Default: all that match.")]


def moment(text: str, now: float) -> datetime:
    """A time as people give it: RFC 3339 with an offset, or an age.

    Raises:
        InvalidRecordError: it is neither.
    """
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86_400}.get(text[-1:])
    if seconds and text[:-1].isascii() and text[:-1].isdigit() and len(text) <= 7:
        return to_datetime(now - int(text[:-1]) * seconds)
    try:
        found = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        found = None
    if found is None or found.tzinfo is None:
        raise InvalidRecordError(
            f"{text[:64]!r} is not a time",
            hint="give RFC 3339 with an offset, as 2026-01-31T08:00:00Z, or an age, as 6h",
        )
    return found


def where_of(**given: str) -> Where:
    """Options as the client takes them; an empty one is left out."""
    now = datetime.now(UTC).timestamp()
    times = {"since", "until"}
    chosen: Any = {name: moment(text, now) if name in times else text for name, text in given.items() if text}
    where: Where = chosen
    return where


@dlq.command("list")
def list_letters(
    *,
    lane: Lane = "",
    reason: Reason = "",
    source: Source = "",
    recipient: Recipient = "",
    since: Since = "",
    until: Until = "",
    text: Text = "",
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many to show.")] = 20,
    cursor: Annotated[str, typer.Option(help="Go on from where an earlier list ended.")] = "",
    json: JsonFlag = False,
) -> None:
    """The newest dead letters that match."""
    where: Any = where_of(
        lane=lane, reason=reason, source=source, recipient=recipient, since=since, until=until, text=text
    )
    with client_of(Settings.from_env()) as client:
        page = client.dead_letters(limit=limit, cursor=cursor, **where)
    if json:
        emit(page)
        return
    show_page(console(), page)


def show_page(console: Console, page: DeadLetterPage) -> None:
    """A page within 80 columns: the id, so that it can be copied, and below it what happened."""
    if not page.items:
        console.print("no dead letters match" if page.total else "no dead letters")
    for letter in page.items:
        again = f"  replayed {letter.replays}x" if letter.replays else ""
        console.print(
            f"[bold]{letter.id}[/bold]  {letter.failed_at:%Y-%m-%d %H:%M:%S}Z  {letter.reason}{again}"
        )
        original = letter.notification
        console.print(_fit(f"  {original.source} > {original.recipient}: {original.title}"), markup=False)
        console.print(_fit(f"  {letter.error}"), markup=False)
    if page.items:
        console.print(f"{len(page.items):,} of {page.total:,} on these lanes")
    if page.cursor:
        console.print(f"more: --cursor {page.cursor}")


def _fit(line: str, width: int = 80) -> str:
    """One line of at most `width` columns."""
    flat = " ".join(line.split())
    indent = "  " if line.startswith("  ") else ""
    return indent + (flat if len(flat) <= width - 2 else flat[: width - 5] + "...")


@dlq.command("show")
def show_letter(
    id: Annotated[str, typer.Argument(help="The notification's id.", show_default=False)],  # noqa: A002
    *,
    json: JsonFlag = False,
) -> None:
    """One dead letter: the original, the error, every attempt."""
    with client_of(Settings.from_env()) as client:
        letter = client.dead_letter(id)
    if json:
        emit(letter)
        return
    show_one(console(), letter)


def show_one(console: Console, letter: DeadLetterView) -> None:
    """A letter as two tables within 80 columns."""
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False, width=80)
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    original = letter.notification
    rows = {
        "id": letter.id,
        "reason": letter.reason,
        "error": letter.error,
        "accepted": f"{letter.accepted_at:%Y-%m-%d %H:%M:%S}Z",
        "died": f"{letter.failed_at:%Y-%m-%d %H:%M:%S}Z",
        "attempts": f"{letter.attempt_count}, {letter.replays} replays",
        "source": original.source,
        "recipient": original.recipient,
        "type": " ".join(part for part in (original.type, original.alert_type, original.severity) if part),
        "title": original.title,
        "body": original.body,
        "channels": ", ".join(original.channels),
        "webhook": original.webhook_url or "",
        "trace": letter.traceparent,
    }
    for name, value in rows.items():
        if value:
            facts.add_row(name, _plain(value))
    console.print(facts)
    attempts = Table("at", "channel", "reason", "took", "detail", box=box.SIMPLE, pad_edge=False, width=80)
    attempts.columns[0].no_wrap = True
    for attempt in letter.attempts:
        took = f"{attempt.duration_ms:,.0f} ms"
        outcome = "ok" if attempt.ok else attempt.reason
        attempts.add_row(f"{attempt.at:%H:%M:%S}", attempt.channel, outcome, took, _plain(attempt.detail))
    console.print(attempts)


def _plain(text: str) -> str:
    """Text from outside, with nothing in it that rich would take for markup."""
    return text.replace("[", r"\[")


@dlq.command("replay")
def replay_letters(
    *,
    ids: Ids = None,
    lane: Lane = "",
    reason: Reason = "",
    source: Source = "",
    recipient: Recipient = "",
    since: Since = "",
    until: Until = "",
    text: Text = "",
    every: Annotated[
        bool, typer.Option("--all", help="Every dead letter; else give a filter or --id.")
    ] = False,
    rate: Annotated[float, typer.Option(min=1, max=MAX_RATE, help="Letters a second.")] = DEFAULT_RATE,
    limit: Most = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be replayed.")] = False,
    json: JsonFlag = False,
) -> None:
    """Put dead letters back into their lanes. Interrupted, the same command goes on with the rest."""
    where = where_of(
        lane=lane, reason=reason, source=source, recipient=recipient, since=since, until=until, text=text
    )
    refuse_vague(ids, where, every=every)
    out = console(to_stderr=json)
    with client_of(Settings.from_env()) as client:
        if ids:
            done = each(client, ids, lambda one: client.replay(one).replayed, dry_run=dry_run)
        elif dry_run:
            done = client.replay_many(dry_run=True, limit=limit, **where)
        else:
            done = replay_in_steps(client, out, where, rate=rate, limit=limit)
    report(out, done, "replayed", emit if json else None)


@dlq.command("purge")
def purge_letters(
    *,
    ids: Ids = None,
    lane: Lane = "",
    reason: Reason = "",
    source: Source = "",
    recipient: Recipient = "",
    since: Since = "",
    until: Until = "",
    text: Text = "",
    every: Annotated[
        bool, typer.Option("--all", help="Every dead letter; else give a filter or --id.")
    ] = False,
    limit: Most = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only say what would be.")] = False,
    json: JsonFlag = False,
) -> None:
    """Delete dead letters for good. Says only what would be deleted, until --yes is given."""
    where = where_of(
        lane=lane, reason=reason, source=source, recipient=recipient, since=since, until=until, text=text
    )
    refuse_vague(ids, where, every=every)
    out = console(to_stderr=json)
    with client_of(Settings.from_env()) as client:
        if ids:
            done = each(client, ids, lambda one: client.purge(one).purged, dry_run=not yes)
        else:
            done = client.purge_many(dry_run=not yes, limit=limit, **where)
    report(out, done, "purged", emit if json else None)
    if not yes and done.ids:
        out.print("nothing was deleted: add --yes to delete")


def refuse_vague(ids: list[str] | None, where: Where, *, every: bool) -> None:
    """Ask for a choice: no filter at all is more often a slip than a wish.

    Raises:
        BadParameter: nothing was chosen, or two things.
    """
    if sum([bool(ids), bool(where), every]) != 1:
        raise typer.BadParameter("choose the letters by --id, by a filter such as --lane p0, or by --all")


def each(client: Client, ids: list[str], act: Callable[[str], bool], *, dry_run: bool) -> HandledLetters:
    """Handle letters by id; one that is gone is counted as gone.

    Raises:
        TocsinError: an id is malformed, or the platform does not answer.
    """
    handled: list[str] = []
    for one in dict.fromkeys(ids):
        try:
            done = bool(client.dead_letter(one)) if dry_run else act(one)
        except NotFoundError:
            done = False
        handled += [one] if done else []
    gone = len(dict.fromkeys(ids)) - len(handled)
    return HandledLetters(ids=handled, gone=gone, remaining=0, scanned=len(ids), cursor="", dry_run=dry_run)


def replay_in_steps(
    client: Client, console: Console, where: Where, *, rate: float, limit: int | None
) -> HandledLetters:
    """Replay request by request, with a bar; Ctrl-C says how far it came.

    Raises:
        TocsinError: the platform does not answer; run it again for the rest.
    """
    from cli.import_files import progress_bar

    step = max(1, min(MAX_HANDLED, int(rate * STEP_S)))
    ids: list[str] = []
    gone, cursor = 0, ""
    with stopped_politely(console, ids), progress_bar(console) as bar:
        task = bar.add_task("replaying", total=None)
        while True:
            left = step if limit is None else min(step, limit - len(ids) - gone)
            answer = client.replay_many(rate=rate, limit=left, cursor=cursor, **where)
            ids += answer.ids
            gone += answer.gone
            cursor = answer.cursor
            handled = len(ids) + gone
            ahead = answer.remaining if limit is None else min(answer.remaining, limit - handled)
            bar.update(task, completed=handled, total=handled + ahead)
            if not cursor or handled == limit:
                return msgspec.structs.replace(answer, ids=ids, gone=gone)


@contextmanager
def stopped_politely(console: Console, ids: list[str]) -> Iterator[None]:
    """Turn Ctrl-C into a line on how far it came and exit code 130; what moved has moved whole."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"stopped: {len(ids):,} replayed, perhaps a few more; run it again for the rest")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def report(console: Console, done: HandledLetters, verb: str, emit: Callable[[object], None] | None) -> None:
    """Say what was done, for people or, with `emit`, for machines."""
    if emit is not None:
        emit(done)
        return
    console.print(
        f"{len(done.ids):,} {'would be ' if done.dry_run else ''}{verb}, {done.gone:,} already gone"
    )
    for one in done.ids[:NAMED] if done.dry_run else ():
        console.print(f"  {one}")
    if done.dry_run and len(done.ids) > NAMED:
        console.print(f"  and {len(done.ids) - NAMED:,} more")
    if done.remaining or done.cursor:
        console.print("more match: run it again with a higher --limit, or none")
