"""Moments as people write them, as epoch seconds: numbers of any unit, days as whole numbers, texts.

A number says its unit by its size, as the units do not meet between the years 1973 and 5138:

| a number below | is | from |
|---|---|---|
| 1e11 | seconds since 1970 | |
| 1e14 | milliseconds | 1973-03-03 |
| 1e17 | microseconds | 1973-03-03 |
| more | nanoseconds | 1973-03-03 |

`20260301` and `20260301083000` are a day and a second of the calendar: read as seconds or milliseconds they would be
of August 1970 or of the year 2612.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Final

SECONDS_BELOW: Final = 1e11
UNITS: Final = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}  # units a number may count in, by name
UNIT_STEP: Final = 1e3
MAX_DIGITS: Final = 20  # of a number that is a moment
DAYS_OF_CALENDAR: Final = (19_000_101, 21_001_231)
SECONDS_OF_CALENDAR: Final = (DAYS_OF_CALENDAR[0] * 1_000_000, DAYS_OF_CALENDAR[1] * 1_000_000 + 235_959)
_WEEK: Final = re.compile(r"\d{4}-?W\d{2}")
_LEAP: Final = re.compile(r"(?<=:\d\d:)60")
_UTC: Final = re.compile(r" ?(?:UTC|GMT|z)$")


def epoch_of_number(number: float) -> float:
    """Epoch seconds of a number: a unit by its size, or a day or second of the calendar. NaN stays NaN."""
    seconds = float(number)
    if -SECONDS_BELOW < seconds < SECONDS_BELOW and not DAYS_OF_CALENDAR[0] <= seconds <= DAYS_OF_CALENDAR[1]:
        return seconds
    found = of_calendar(number)
    if found is not None:
        return found
    for _ in range(3):
        if not abs(seconds) >= SECONDS_BELOW or math.isinf(seconds):
            break
        seconds /= UNIT_STEP
    return seconds


def epoch_of_text(text: str) -> float:
    """Epoch seconds of a date, a time (UTC where it names no zone), or a number as `epoch_of_number` takes them.

    Raises:
        ValueError: it is none of them; a week without a day is none.
    """
    text = text.strip()
    if text.isdigit():
        return epoch_of_number(int(text)) if len(text) <= MAX_DIGITS else math.nan
    if "W" in text and _WEEK.fullmatch(text):
        raise ValueError("a week is no date")
    try:
        return _epoch(datetime.fromisoformat(text))
    except ValueError:
        pass
    try:
        return epoch_of_number(float(text))
    except ValueError:
        plain, leaps = _LEAP.subn("59", _UTC.sub("+00:00", text))
        return _epoch(datetime.fromisoformat(plain)) + leaps


def of_calendar(number: float) -> float | None:
    """Epoch seconds of a day or a second of the calendar written as a whole number; None where it is neither."""
    if not (
        DAYS_OF_CALENDAR[0] <= number <= DAYS_OF_CALENDAR[1]
        or SECONDS_OF_CALENDAR[0] <= number <= SECONDS_OF_CALENDAR[1]
    ):
        return None
    if number % 1:
        return None
    text = str(int(number))
    try:
        # strptime takes one digit where two are meant: the length is fixed, so it cannot here.
        return _epoch(datetime.strptime(text, "%Y%m%d" if len(text) == 8 else "%Y%m%d%H%M%S"))  # noqa: DTZ007 - UTC follows
    except ValueError:
        return None


def _epoch(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
