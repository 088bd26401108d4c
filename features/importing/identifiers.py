"""The id of an account, an event or a campaign in a cell: one id has one text, in whichever kind of file it stands."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from features.importing.faults import invalid, is_blank, shown
from features.missing import EXACT_FLOAT, stands_for_nothing

MAX_ID_CHARS = 128

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NOT_UTF8: Final = re.compile(r"[\ud800-\udfff]")
_FLOAT: Final = re.compile(r"(0|[1-9]\d*)\.0")  # how a whole number is written that once was a float
_EXPONENT: Final = re.compile(r"\d(?:[.,]\d+)?E\+\d+", re.IGNORECASE)
_WHAT: Final = "text or a whole number"


def missing(value: Any) -> bool:
    """Whether a cell holds nothing: blank, null, NaN, or what tools write for it."""
    if value is None:
        return True
    if isinstance(value, str):
        return stands_for_nothing(value)
    return is_blank(value) or (isinstance(value, float | Decimal) and math.isnan(value))


def identifier(value: Any, field: str) -> str:
    """An id: 1 to 128 characters, no control characters, without blanks around it.

    A whole number is its digits: `17850`, `17850.0` and the float 17850.0 are one id, `007` and `7` are two. Raises
    InvalidRecordError.
    """
    if type(value) is not str:
        value = _text(value, field)
    text: str = value.strip()
    if not text:
        raise invalid(field, "is blank", f"1 to {MAX_ID_CHARS} characters")
    if text[-2:] == ".0" and _FLOAT.fullmatch(text):
        return text[:-2]
    if stands_for_nothing(text):
        raise invalid(field, f"is {text!r}, which stands for nothing", f"1 to {MAX_ID_CHARS} characters")
    if _NOT_UTF8.search(text):
        raise invalid(field, "is not UTF-8", "UTF-8 text, or --encoding says which, such as latin-1")
    if len(text) > MAX_ID_CHARS:
        raise invalid(field, f"has {len(text)} characters", f"at most {MAX_ID_CHARS}")
    if _CONTROL.search(text):
        raise invalid(field, "has control characters", "none allowed")
    if "+" in text and _EXPONENT.fullmatch(text):
        raise invalid(field, f"is {text}: a spreadsheet has cut its digits", "the column as text")
    return text


def _text(value: Any, field: str) -> str:
    if isinstance(value, bool):
        raise invalid(field, f"is the boolean {value}", _WHAT)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | Decimal):
        return _whole(value, field)
    if missing(value):
        raise invalid(field, "is blank", f"1 to {MAX_ID_CHARS} characters")
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise invalid(field, "is not UTF-8", "UTF-8 text") from None
    if isinstance(value, UUID):
        return str(value)
    raise invalid(field, f"is of the type {type(value).__name__} ({shown(value)})", _WHAT)


def _whole(value: float | Decimal, field: str) -> str:
    if math.isnan(value):
        raise invalid(field, "is blank", f"1 to {MAX_ID_CHARS} characters")
    if not math.isfinite(value):
        raise invalid(field, f"is {value}", _WHAT)
    if value != int(value):
        return str(value)
    if isinstance(value, float) and abs(value) > EXACT_FLOAT:
        raise invalid(field, f"is the float {value:g}, which has lost digits", _WHAT)
    return str(int(value))
