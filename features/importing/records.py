"""One row of a table, checked and converted to an activity; each rule names the field and the limit."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

from features.definitions import DAY_S
from features.importing.event_id import derive_event_id
from tocsin.errors import InvalidRecordError
from tocsin.wire.activity import Activity
from tocsin.wire.limits import MAX_AMOUNT, MAX_CLOCK_SKEW_S

MAX_ID_CHARS = 128
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC).timestamp()
KINDS = ("spend", "campaign")
WEEK_S = 7 * DAY_S
MILLISECONDS = "ms"

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_NOT_UTF8: Final = re.compile(r"[\ud800-\udfff]")
_SHOWN_CHARS = 40


@dataclass(frozen=True, slots=True)
class Times:
    """How times are read, and which are accepted; all moments in epoch seconds.

    `written` is a pattern of `strptime` (UTC where it has no `%z`), or `ms` for milliseconds since 1970; empty: RFC
    3339, or seconds since 1970.
    """

    now: float
    earliest: float = EARLIEST
    written: str = ""


def activity_of(values: Mapping[str, Any], columns: Mapping[str, str], times: Times) -> Activity:
    """The activity a row of any table describes; `columns` maps each field to its column.

    Without an event id, one is derived from the rest; without an arrival it is 0. Raises InvalidRecordError.
    """

    def cell(field: str) -> Any:
        return values.get(columns[field]) if field in columns else None

    advertiser_id = identifier(cell("advertiser_id"), "advertiser_id")
    event_time = within_time(moment(cell("event_time"), "event_time", times.written), "event_time", times)
    kind = kind_of(cell("kind"))
    unpaid = "amount" not in columns or (kind == "campaign" and _blank(cell("amount")))
    spend = 0.0 if unpaid else amount(cell("amount"), "amount")
    campaign_id = "" if _blank(cell("campaign_id")) else identifier(cell("campaign_id"), "campaign_id")
    currency = "" if _blank(cell("currency")) else currency_of(cell("currency"))
    given = cell("event_id")
    event_id = (
        derive_event_id(advertiser_id, event_time, spend, kind, campaign_id, currency)
        if _blank(given)
        else identifier(given, "event_id")
    )
    arrival = 0.0
    if not _blank(cell("arrival")):
        arrival = within_time(moment(cell("arrival"), "arrival", times.written), "arrival", times)
    return Activity(advertiser_id, event_time, spend, kind, event_id, campaign_id, currency, arrival)


def weekly_activity_of(values: Mapping[str, Any], times: Times) -> Activity:
    """The activity one row of Google's weekly spend describes.

    The row sums up a week and cannot be known before that week is over, so its time is the week's last second:
    a cutoff at the next midnight sees it, an earlier one does not. Its id is the week: a restated week replaces
    the old one. Of the currencies only `Spend_USD` is read, the others being conversions of the same money.
    Raises InvalidRecordError.
    """
    advertiser_id = identifier(values.get("Advertiser_ID"), "Advertiser_ID")
    start = moment(values.get("Week_Start_Date"), "Week_Start_Date") // DAY_S * DAY_S
    end = start + WEEK_S - 1
    if end > times.now + MAX_CLOCK_SKEW_S:
        raise _invalid("Week_Start_Date", "the week is not over yet", "ends at most 1 day from now")
    within_time(start, "Week_Start_Date", times)
    spend = amount(values.get("Spend_USD"), "Spend_USD")
    week = datetime.fromtimestamp(start, tz=UTC).date().isoformat()
    return Activity(advertiser_id, end, spend, "spend", f"week:{week}")


def identifier(value: Any, field: str) -> str:
    """An id: 1 to 128 characters, no control characters. Raises InvalidRecordError."""
    if _blank(value):
        raise _invalid(field, "is blank", f"1 to {MAX_ID_CHARS} characters")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # integers with gaps come as floats
    try:
        text = value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        raise _invalid(field, "is not UTF-8", "UTF-8 text") from None
    if _NOT_UTF8.search(text):
        raise _invalid(field, "is not UTF-8", "UTF-8 text")
    if len(text) > MAX_ID_CHARS:
        raise _invalid(field, f"has {len(text)} characters", f"at most {MAX_ID_CHARS}")
    if _CONTROL.search(text):
        raise _invalid(field, "has control characters", "none allowed")
    return text


def moment(value: Any, field: str, written: str = "") -> float:
    """Epoch seconds of a date or time, UTC where it names no zone, or of a number of seconds; `written` as in `Times`.

    Raises InvalidRecordError.
    """
    if _blank(value):
        raise _invalid(field, "is blank", "a date or time")
    try:
        seconds = _seconds(value, written)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise _invalid(field, f"{_shown(value)} is not a date or time", _written(written))
    return seconds


def within_time(event_time: float, field: str, times: Times) -> float:
    """The same time, where it lies within `times`. Raises InvalidRecordError."""
    if event_time < times.earliest:
        year = datetime.fromtimestamp(times.earliest, tz=UTC).year
        raise _invalid(field, f"is before the year {year}", f"{year}-01-01 or later")
    if event_time > times.now + MAX_CLOCK_SKEW_S:
        raise _invalid(field, "is in the future", "at most 1 day from now; numbers are seconds")
    return event_time


def amount(value: Any, field: str) -> float:
    """A sum of money from 0 to 1e12. Raises InvalidRecordError."""
    if _blank(value):
        raise _invalid(field, "is blank", "a number")
    number = _number(value)
    if number is None:
        raise _invalid(field, f"{_shown(value)} is not a number", "digits and a decimal point")
    if not math.isfinite(number):
        raise _invalid(field, f"is {number}", "a finite number")
    if number < 0:
        raise _invalid(field, f"is negative ({number:g})", "at least 0")
    if number > MAX_AMOUNT:
        raise _invalid(field, f"is {number:g}", f"at most {MAX_AMOUNT:g}")
    return number + 0.0  # -0.0 and 0.0 are one amount, and so one derived id


def kind_of(value: Any) -> str:
    """The kind of an activity; blank is spend. Raises InvalidRecordError."""
    if _blank(value):
        return "spend"
    if value not in KINDS:
        raise _invalid("kind", f"{_shown(value)} is unknown", f"one of {', '.join(KINDS)}")
    return str(value)


def currency_of(value: Any) -> str:
    """An ISO 4217 code. Raises InvalidRecordError."""
    if not isinstance(value, str) or not _CURRENCY.fullmatch(value):
        raise _invalid("currency", f"{_shown(value)} is unknown", "three capital letters, as in EUR")
    return value


def _seconds(value: Any, written: str) -> float:
    if written and not isinstance(value, date):
        value = _as_written(value, written)
    elif isinstance(value, str):
        value = _parsed(value.strip())
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return math.nan if isinstance(value, bool) else float(value)


def _parsed(text: str) -> datetime | float:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return float(text)


def _as_written(value: Any, written: str) -> datetime | float:
    if written == MILLISECONDS:
        return float(value) / 1_000.0
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # integers with gaps come as floats
    return datetime.strptime(str(value).strip(), written)  # noqa: DTZ007 - `_seconds` takes UTC where there is no zone


def _written(written: str) -> str:
    if written == MILLISECONDS:
        return "milliseconds since 1970"
    return f"written as {written}" if written else "RFC 3339, or seconds since 1970"


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str | bytes) and not value.strip())


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def _invalid(field: str, problem: str, limit: str) -> InvalidRecordError:
    return InvalidRecordError(f"{field} {problem}: {limit}", field=field, limit=limit)
