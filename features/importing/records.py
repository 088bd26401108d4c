"""One row of a table, checked and converted to an activity; each rule names the field and the limit."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

from features.definitions import DAY_S
from features.epochs import UNITS, epoch_of_number, epoch_of_text
from features.importing.event_id import derive_event_id
from features.importing.faults import invalid, is_blank, shown
from features.importing.identifiers import identifier, missing
from features.importing.money import DecimalMark, Money, amount
from tocsin.wire.activity import Activity
from tocsin.wire.limits import MAX_CLOCK_SKEW_S

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC).timestamp()
KINDS = ("spend", "campaign")
WEEK_S = 7 * DAY_S
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_YEAR_S = 366 * DAY_S


@dataclass(frozen=True, slots=True)
class Times:
    """How times are read, and which are accepted; all moments in epoch seconds.

    `written` is a pattern of `strptime` (UTC where it has no `%z`), or the unit of numbers since 1970 (s, ms, us, ns);
    empty: as `features.epochs` reads them.
    """

    now: float
    earliest: float = EARLIEST
    written: str = ""


def activity_of(
    values: Mapping[str, Any], columns: Mapping[str, str], times: Times, mark: DecimalMark
) -> Activity:
    """The activity a row of any table describes; `columns` maps each field to its column.

    Without an event id, one is derived from the rest; without an arrival it is 0. An amount written with a currency is
    in it. Raises InvalidRecordError.
    """

    def cell(field: str) -> Any:
        return values.get(columns[field]) if field in columns else None

    advertiser_id = identifier(cell("advertiser_id"), "advertiser_id")
    event_time = within_time(moment(cell("event_time"), "event_time", times.written), "event_time", times)
    kind = kind_of(cell("kind"))
    paid = cell("amount")
    unpaid = "amount" not in columns or (kind == "campaign" and missing(paid))
    spend, currency = Money(0.0) if unpaid else amount(paid, "amount", mark)
    campaign = cell("campaign_id")
    campaign_id = "" if missing(campaign) else identifier(campaign, "campaign_id")
    named = cell("currency")
    if not missing(named):
        if currency not in {"", currency_of(named)}:
            raise invalid("amount", f"is in {currency}", f"the currency of the row is {named}")
        currency = named
    given = cell("event_id")
    event_id = (
        derive_event_id(advertiser_id, event_time, spend, kind, campaign_id, currency)
        if missing(given)
        else identifier(given, "event_id")
    )
    known = cell("arrival")
    arrival = (
        0.0 if missing(known) else within_time(moment(known, "arrival", times.written), "arrival", times)
    )
    return Activity(advertiser_id, event_time, spend, kind, event_id, campaign_id, currency, arrival)


def weekly_activity_of(values: Mapping[str, Any], times: Times, mark: DecimalMark) -> Activity:
    """The activity one row of Google's weekly spend describes.

    The row sums up a week and cannot be known before that week is over, so its time is the week's last second:
    a cutoff at the next midnight sees it, an earlier one does not. Its id is the week: a restated week replaces
    the old one. Of the currencies only `Spend_USD` is read, the others being conversions of the same money.
    Raises InvalidRecordError.
    """
    advertiser_id = identifier(values.get("Advertiser_ID"), "Advertiser_ID")
    start = moment(values.get("Week_Start_Date"), "Week_Start_Date", times.written) // DAY_S * DAY_S
    end = start + WEEK_S - 1
    if end > times.now + MAX_CLOCK_SKEW_S:
        raise invalid("Week_Start_Date", "the week is not over yet", "ends at most 1 day from now")
    within_time(start, "Week_Start_Date", times)
    spend = amount(values.get("Spend_USD"), "Spend_USD", mark).amount
    week = datetime.fromtimestamp(start, tz=UTC).date().isoformat()
    return Activity(advertiser_id, end, spend, "spend", f"week:{week}")


def moment(value: Any, field: str, written: str = "") -> float:
    """Epoch seconds of a date or time, UTC where it names no zone, or of a number since 1970; `written` as in `Times`.

    Raises InvalidRecordError.
    """
    if is_blank(value):
        raise invalid(field, "is blank", "a date or time")
    try:
        seconds = _seconds(value, written)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise invalid(field, f"{shown(value)} is not a date or time", _written(written))
    return seconds


def within_time(event_time: float, field: str, times: Times) -> float:
    """The same time, where it lies within `times`. Raises InvalidRecordError."""
    if event_time < times.earliest:
        if 0 <= event_time < _YEAR_S:
            raise invalid(
                field,
                f"is the number {event_time:.15g}, too small for seconds since 1970",
                _written(times.written),
            )
        year = datetime.fromtimestamp(times.earliest, tz=UTC).year
        raise invalid(field, f"is before the year {year}", f"{year}-01-01 or later")
    if event_time > times.now + MAX_CLOCK_SKEW_S:
        raise invalid(field, "is in the future", "at most 1 day from now")
    return event_time


def kind_of(value: Any) -> str:
    """The kind of an activity; blank is spend. Raises InvalidRecordError."""
    if missing(value):
        return "spend"
    if value not in KINDS:
        raise invalid("kind", f"{shown(value)} is unknown", f"one of {', '.join(KINDS)}")
    return str(value)


def currency_of(value: Any) -> str:
    """An ISO 4217 code. Raises InvalidRecordError."""
    if not isinstance(value, str) or not _CURRENCY.fullmatch(value):
        raise invalid("currency", f"{shown(value)} is unknown", "three capital letters, as in EUR")
    return value


def _seconds(value: Any, written: str) -> float:
    if type(value) is str and not written:
        return epoch_of_text(value)
    if isinstance(value, bool):
        return math.nan
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()
    if written:
        return _as_written(value, written)
    return epoch_of_text(value.decode()) if isinstance(value, bytes) else epoch_of_number(value)


def _as_written(value: Any, written: str) -> float:
    if written in UNITS:
        return float(value) / UNITS[written]
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # integers with gaps come as floats
    found = datetime.strptime(str(value).strip(), written)  # noqa: DTZ007 - UTC follows where there is no zone
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _written(written: str) -> str:
    if written in UNITS:
        return f"numbers since 1970, in {written}"
    if written:
        return f"written as {written}"
    return "RFC 3339, or a number since 1970; --time-format says what else"
