"""An activity file as `tocsin evaluate` reads it: events as columns, and the refused rows, by reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from features.importing.importer import GOOGLE_COLUMNS, Reject, SourceFormat, detect, read_activity
from features.importing.options import ReadOptions
from features.importing.tables import count_rows
from tocsin.errors import ConfigurationError, UnreadableFileError

if TYPE_CHECKING:
    import pandas as pd


# Evaluating stores nothing, so a log may be of any time; other years are mistakes, as milliseconds read as seconds are.
EARLIEST = datetime(1980, 1, 1, tzinfo=UTC).timestamp()
LATEST = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
MAX_REFUSED = 0.5  # of the rows: beyond that, what is left says nothing about who stayed
_PROGRESS_EVERY = 20  # batches of 2,000 rows
_MAX_REASONS = 3  # in the sentence

_NEXT = {
    "event_time": "--time-format says how times are written: '%d.%m.%Y %H:%M', '%d/%m/%Y', ms for milliseconds",
    "amount": "amounts are numbers from 0 on, --decimal says which mark they have (a decimal point or comma); without "
    "amount in --map such rows count as activity",
    "currency": "currencies are codes such as USD; leave currency out of --map to do without",
    "kind": "leave kind out of --map to do without",
}


class ActivityFormat(StrEnum):
    """Which table an activity file is."""

    GOOGLE_ADS = "google-ads"  # Google's weekly spend: Advertiser_ID, Week_Start_Date, Spend_USD
    CSV = "csv"  # any transaction log, text or Parquet, with --map


@dataclass(slots=True)
class Refused:
    """Refused rows: their number, by field and limit, with the first of each kind."""

    rows: int = 0  # of the file
    refused: int = 0
    counts: dict[tuple[str, str], int] = field(default_factory=dict)  # by field and limit
    first: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, rejects: list[Reject]) -> None:
        """Count the rejects of a batch."""
        for reject in rejects:
            kind = reject.reason.partition(" ")[0], reject.reason.rpartition(": ")[2]
            self.counts[kind] = self.counts.get(kind, 0) + 1
            self.first.setdefault(kind, f"{reject.place}, {reject.reason}")
        self.refused += len(rejects)

    @property
    def reasons(self) -> dict[str, int]:
        """The number of rows by reason, the reason of the first such row; the most frequent first."""
        kinds = sorted(self.counts, key=lambda kind: -self.counts[kind])
        return {self.first[kind]: self.counts[kind] for kind in kinds}

    @property
    def text(self) -> str:
        """A sentence with the most frequent reasons; empty where nothing was refused."""
        if not self.refused:
            return ""
        reasons = [
            f"{count:,} such as {reason}" for reason, count in list(self.reasons.items())[:_MAX_REASONS]
        ]
        return f"{self.refused:,} of {self.rows:,} rows were refused: " + "; ".join(reasons)

    @property
    def hint(self) -> str:
        """The next step for the most frequent reason."""
        kinds = sorted(self.counts, key=lambda kind: -self.counts[kind])
        return next((_NEXT[name] for name, _ in kinds if name in _NEXT), "repair or remove these rows")


@dataclass(frozen=True, slots=True)
class Log:
    """A file's events, whether its rows are Google's weeks, and what was refused."""

    events: pd.DataFrame
    weekly: bool
    refused: Refused


def read_log(
    file: Path,
    file_format: ActivityFormat | None,
    mapping: Mapping[str, str] | None,
    options: ReadOptions,
    say: Callable[[str], None],
) -> Log:
    """Read a whole file.

    Raises:
        UnreadableFileError: not a table, columns missing, or more than half of its rows refused; says which and why.
        ConfigurationError: options that contradict each other.
    """
    import pyarrow as pa  # noqa: PLC0415 - heavy: the options alone need none of it

    from features.event_table import event_table  # noqa: PLC0415 - as above

    weekly = not mapping and detect(file, options) is SourceFormat.GOOGLE_WEEKLY_SPEND
    _check_format(file, file_format, mapping, weekly=weekly)
    if file_format is ActivityFormat.CSV and weekly:
        mapping, weekly = {"advertiser_id": "advertiser_id"}, False  # asked for: the columns by our own names
    total = count_rows(file, options)
    refused, parts = Refused(), []
    batches = read_activity(file, mapping, LATEST, earliest=EARLIEST, options=options)
    for number, batch in enumerate(batches):
        refused.rows += batch.rows
        refused.add(batch.rejects)
        parts.append(event_table(batch.activities))
        if number % _PROGRESS_EVERY == 0:
            say(f"reading {file.name}: {refused.rows:,} rows" + (f" of {total:,}" if total else ""))
    if refused.refused > MAX_REFUSED * refused.rows:
        raise UnreadableFileError(
            f"{file} cannot be judged by what is left: {refused.text}", hint=refused.hint
        )
    return Log(pa.concat_tables(parts).to_pandas(), weekly, refused)


def _check_format(
    file: Path, file_format: ActivityFormat | None, mapping: Mapping[str, str] | None, *, weekly: bool
) -> None:
    if file_format is not ActivityFormat.GOOGLE_ADS or weekly:
        return
    if mapping:
        raise ConfigurationError("--format google-ads needs no --map", hint="leave one of them out")
    raise UnreadableFileError(
        f"{file} is not Google's weekly spend: it needs {', '.join(GOOGLE_COLUMNS)}",
        hint="--format csv --map advertiser_id=… --map event_time=… reads any transaction log",
    )
