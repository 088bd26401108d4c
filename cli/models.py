"""`tocsin models`: which model serves, how a new one takes over, and how to go back.

    list ──► show / compare ──► promote (shadow, canary, champion) ──► audit
                                   └── rollback, at any time

Works on the registry itself, so it helps also while the platform is down. Replicas follow within seconds.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich import box
from rich.table import Table

from cli.output import JsonFlag, certified, console, emit
from tocsin.errors import (
    ConfigurationError,
    InvalidRecordError,
    ModelUnavailableError,
    NotFoundError,
    StorageUnavailableError,
)
from tocsin.settings import Settings

if TYPE_CHECKING:
    from models.evaluation.leakage import Finding
    from models.registry.journal import JournalEntry
    from models.registry.lineup import Lineup
    from models.registry.model_files import Metadata
    from models.registry.registry import Registry

models = typer.Typer(
    no_args_is_help=True, help="Churn models: what serves, promote, compare, roll back, audit."
)

Reason = Annotated[str, typer.Option(help="Why, for the audit.")]
MAX_SHOWN = 500


def registry_of(settings: Settings) -> Registry:
    """The registry these settings name."""
    from models.registry.registry import Registry

    return Registry(settings.models_location)


@models.command("list")
def list_models(*, json: JsonFlag = False) -> None:
    """All stored versions, the newest first, with their parts."""
    settings = Settings.from_env()
    registry = registry_of(settings)
    lineup = registry.head().lineup
    rows = [_row(registry, version, lineup) for version in reversed(registry.versions())]
    if json:
        emit({"lineup": lineup, "models": rows})
        return
    if not rows:
        console().print("no model is stored; `tocsin train` makes one")
        return
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("version", no_wrap=True)  # to be copied
    for heading in ("part", "algorithm", "AUC", "Brier", "made by", "code"):
        table.add_column(heading)
    for row in rows:
        if "problem" in row:
            table.add_row(row["version"], row["part"], "[red]not readable[/red]")
            continue
        shown = [row["version"], row["part"], row["algorithm"], _number(row["auc"]), _number(row["brier"])]
        table.add_row(*shown, row["made_by"], row["code_revision"][:10])
    console().print(table)
    console().print(_where(lineup))
    if lineup.judged and (said := _said(settings, lineup)):
        console().print(f"the guard says {said}")


@models.command("show")
def show_model(
    version: Annotated[
        str, typer.Argument(help="A version, or champion, challenger, previous.")
    ] = "champion",
    *,
    json: JsonFlag = False,
) -> None:
    """One version: its card, where it came from, what happened to it."""
    registry = registry_of(Settings.from_env())
    found = resolve(registry, version)
    metadata = registry.metadata(found)
    history = [entry for entry in registry.journal() if entry.version == found]
    if json:
        emit({"metadata": metadata, "history": history})
        return
    table = Table("", "", title=found, title_justify="left", show_header=False, box=box.SIMPLE)
    for name, value in _facts(metadata).items():
        table.add_row(name, value)
    console().print(table)
    console().print(_audit_table(history))


@models.command("compare")
def compare_models(
    one: Annotated[str, typer.Argument(help="A version, or champion, challenger, previous.")] = "challenger",
    other: Annotated[str, typer.Argument(help="What it is compared with.")] = "champion",
    *,
    json: JsonFlag = False,
) -> None:
    """Two versions side by side: what each was measured at, on its own test weeks."""
    registry = registry_of(Settings.from_env())
    names = [resolve(registry, name) for name in (one, other)]
    cards = [_facts(registry.metadata(name)) for name in names]
    if json:
        emit({name: _row(registry, name, registry.head().lineup) for name in names})
        return
    table = Table("", f"{one}\n{names[0]}", f"{other}\n{names[1]}", box=box.SIMPLE)
    for fact in cards[0]:
        mark = "" if cards[0][fact] == cards[1].get(fact) else "bold"
        table.add_row(fact, cards[0][fact], cards[1].get(fact, ""), style=mark)
    console().print(table)


@models.command("promote")
def promote_model(
    version: Annotated[str, typer.Argument(help="A version; default: the challenger.")] = "challenger",
    *,
    now: Annotated[
        bool, typer.Option("--now", help="Champion at once, without shadow and canary. It is still watched.")
    ] = False,
    shares: Annotated[
        str, typer.Option(help="The canary's steps, in percent of advertisers.", show_default=True)
    ] = "5,25,50",
    shadow: Annotated[str, typer.Option(help="How long in shadow at least, as 90s, 30m, 6h or 2d.")] = "1h",
    step: Annotated[str, typer.Option(help="How long each canary step lasts at least.")] = "1h",
    watch: Annotated[str, typer.Option(help="How long the new champion is watched.")] = "35d",
    reason: Reason = "",
    skew_check: Annotated[
        bool,
        typer.Option(
            "--skew-check/--no-skew-check",
            help="First replay what the features served recently: it must be what training sees. Needs the storage.",
        ),
    ] = True,
    json: JsonFlag = False,
) -> None:
    """Begin a rollout: shadow, canary by steps, champion. The guard ends it where the model is worse."""
    from models.registry.lineup import RolloutPolicy

    settings = Settings.from_env()
    policy = RolloutPolicy(
        shares=percentages(shares),
        shadow_s=duration_s(shadow),
        canary_s=duration_s(step),
        watch_s=duration_s(watch),
    )
    registry = registry_of(settings)
    found = resolve(registry, version)
    findings = [_served_skew(settings, registry, found)] if skew_check else []
    begin = registry.promote if now else registry.begin
    entry = begin(found, policy, reason=reason, findings=findings)
    if json:
        emit(entry)
        return
    console().print(f"[bold]{found}[/bold]: {_where(entry.lineup)}")


def _served_skew(settings: Settings, registry: Registry, version: str) -> Finding:
    from launch.archive_jobs import served_skew

    try:
        return served_skew(settings, registry.metadata(version).card.feature_names)
    except (ConfigurationError, StorageUnavailableError) as error:
        raise StorageUnavailableError(
            f"what was served cannot be replayed: {error.message}",
            hint="`tocsin up`, or promote without that with --no-skew-check",
        ) from error


@models.command("rollback")
def roll_back_model(
    version: Annotated[
        str, typer.Argument(help="Only if it is this version that goes; default: whichever goes now.")
    ] = "",
    *,
    reason: Reason = "",
    json: JsonFlag = False,
) -> None:
    """End the rollout that is under way; where none is, bring the champion before back."""
    registry = registry_of(Settings.from_env())
    entry = registry.roll_back(resolve(registry, version) if version else "", reason=reason)
    if json:
        emit(entry)
        return
    console().print(f"[bold]{entry.version}[/bold] was rolled back; {_where(entry.lineup)}")


@models.command("audit")
def audit_models(
    *,
    at: Annotated[str, typer.Option(help="What served then: RFC 3339, or an age such as 6h.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=MAX_SHOWN, help="How many of the last entries.")] = 50,
    json: JsonFlag = False,
) -> None:
    """Who changed what, when and why; with --at, what served at a moment."""
    from cli.dlq import moment

    registry = registry_of(Settings.from_env())
    if at:
        entry = registry.at(moment(at, datetime.now(UTC).timestamp()))
        if entry is None:
            raise NotFoundError("nothing served then: the journal begins later")
        if json:
            emit(entry)
            return
        said = f"since {entry.at:%Y-%m-%d %H:%M:%S} UTC, by {entry.actor}"
        console().print(f"{_where(entry.lineup)} ({said}: {entry.action.value} {entry.version})")
        return
    entries = registry.journal()[-limit:]
    if json:
        emit({"entries": entries})
        return
    if not entries:
        console().print("nothing was done yet; `tocsin train` makes a model")
        return
    console().print(_audit_table(entries))


def resolve(registry: Registry, name: str) -> str:
    """A version from its name or its part.

    Raises:
        NotFoundError: nobody has that part, or there is no such version.
    """
    if name not in {"champion", "challenger", "previous"}:
        return registry.stored(name)
    found = str(getattr(registry.head().lineup, name))
    if not found:
        raise NotFoundError(f"there is no {name}", hint="`tocsin models list` shows all versions")
    return found


def percentages(text: str) -> tuple[float, ...]:
    """`5,25,50` as shares.

    Raises:
        InvalidRecordError: they do not rise from above 0 to below 100.
    """
    try:
        found = tuple(float(part) / 100 for part in text.split(","))
    except ValueError:
        found = ()
    if not found or len(found) > 10 or sorted(set(found)) != list(found) or not 0 < found[0] <= found[-1] < 1:
        raise InvalidRecordError(
            f"{text[:64]!r} are no steps",
            field="--shares",
            hint="up to 10 of them, rising, above 0 and below 100",
        )
    return found


def duration_s(text: str) -> float:
    """`90s`, `30m`, `6h` or `2d` in seconds.

    Raises:
        InvalidRecordError: it is none.
    """
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86_400}.get(text[-1:])
    if seconds is None or not text[:-1].isascii() or not text[:-1].isdigit() or len(text) > 7:
        raise InvalidRecordError(f"{text[:64]!r} is no duration", hint="as 90s, 30m, 6h or 2d")
    if (found := float(text[:-1]) * seconds) > 365 * 86_400:
        raise InvalidRecordError(f"{text[:64]!r} is too long", hint="365d at the most")
    return found


def _row(registry: Registry, version: str, lineup: Lineup) -> dict[str, Any]:
    known = {"version": version, "part": part_of(version, lineup)}
    try:
        metadata = registry.metadata(version)
    except ModelUnavailableError as error:  # the others are of interest all the same
        return {**known, "problem": error.message}
    card = metadata.card
    return {
        **known,
        "algorithm": card.algorithm,
        "auc": card.evaluation.model.auc,
        "brier": card.evaluation.model.brier,
        "rows": card.training_rows,
        "trained": card.training_cutoffs,
        "tested": card.test_cutoffs,
        "made_by": metadata.made_by,
        "code_revision": metadata.code_revision,
        "feature_schema": metadata.feature_schema,
    }


def part_of(version: str, lineup: Lineup) -> str:
    """Champion, challenger (and how far it is), previous, or nothing."""
    if version == lineup.champion:
        return "champion"
    if version == lineup.challenger:
        share = f" {lineup.share:.0%}" if lineup.share else ""
        return f"challenger, {lineup.stage}{share}" if lineup.under_way else "challenger"
    return "previous" if version == lineup.previous else ""


def _said(settings: Settings, lineup: Lineup) -> str:
    """What the guard said in the last minute; the list is of use without it."""
    import asyncio

    from models.rollout.observation_store import ObservationStore
    from tocsin.storage.connect import SERVE_TIMEOUT_S, connect, resolve_url

    async def ask() -> str:
        client = connect(resolve_url(settings), timeout_s=SERVE_TIMEOUT_S)
        try:
            return await ObservationStore(client, namespace=settings.namespace).said(lineup.trial)
        finally:
            await client.aclose()

    try:
        return asyncio.run(ask()) or "nothing: it is not at work"
    except (ConfigurationError, StorageUnavailableError):
        return ""


def _where(lineup: Lineup) -> str:
    if not lineup.champion:
        return "no model serves yet"
    said = f"{lineup.champion} serves"
    if lineup.under_way:
        share = f" for {lineup.share:.0%} of advertisers" if lineup.share else ""
        return f"{said}; {lineup.challenger} is in {lineup.stage}{share}"
    return f"{said}, watched against {lineup.previous}" if lineup.judged else said


def _facts(metadata: Metadata) -> dict[str, str]:
    from models.evaluation.leakage import blocking

    card = metadata.card
    trained, tested = (
        " to ".join(f"{moment:%Y-%m-%d}" for moment in window)
        for window in (card.training_cutoffs, card.test_cutoffs)
    )
    measured = msgspec.to_builtins(card.evaluation.model)
    return {
        "algorithm": card.algorithm,
        "trained on": f"{card.training_rows:,} rows, cutoffs {trained}",
        "tested on": f"cutoffs {tested}",
        **{
            name.replace("_", " "): _number(value)
            for name, value in measured.items()
            if isinstance(value, float)
        },
        **{f'answers "{one.decision}"': certified(one) for one in card.certificates},
        "calibrated to": f"{card.calibrated_at:%Y-%m-%d}" if card.calibrated_at else "",
        "leakage gate": ", ".join(finding.name for finding in blocking(card.findings)) or "open",
        "base rate": _number(card.base_rate),
        "features": f"{len(card.feature_names)}, schema {metadata.feature_schema}",
        "scikit-learn": card.sklearn_version,
        "code": metadata.code_revision,
        "made by": metadata.made_by,
        "made": f"{card.created_at:%Y-%m-%d %H:%M:%S} UTC",
    }


def _audit_table(entries: list[JournalEntry]) -> Table:
    table = Table("#", "at (UTC)", "who", "what", "version", "then", "why", box=box.SIMPLE)
    for entry in entries:
        table.add_row(
            str(entry.number),
            f"{entry.at:%Y-%m-%d %H:%M:%S}",
            entry.actor,
            entry.action.value.replace("_", " "),
            entry.version,
            _where(entry.lineup),
            entry.reason,
        )
    return table


def _number(value: float) -> str:
    return f"{value:.4f}"
