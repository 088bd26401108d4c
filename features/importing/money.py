"""Amounts as people write them: `1,200.50`, `1.234,50`, `$12`, `12,50 EUR`, `(12.00)`.

a comma and a point      the last of them is the decimal mark
one mark, other than three digits behind it      it is the decimal mark
one mark several times   it groups thousands
`1,200`                  says nothing by itself: `DecimalMark` looks at the first rows of the column
`1.200`                  is 1.2, unless those rows show a decimal comma, or the columns are split at semicolons
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from features.importing.faults import invalid, is_blank, shown
from tocsin.wire.limits import MAX_AMOUNT

_SIGNS: Final = {
    "€": "EUR",
    "£": "GBP",
    "US$": "USD",
    "$": "",
    "¥": "",
    "₹": "INR",
    "₽": "RUB",
    "₩": "KRW",
    "zł": "PLN",
}
_MARKS: Final = "|".join([*(re.escape(sign) for sign in _SIGNS), "[A-Z]{3}"])
_SIGN: Final = re.compile(rf"(?P<before>{_MARKS})?\s*(?P<number>[\d.,'\u2019\s]+)\s*(?P<after>{_MARKS})?")
_NUMBER: Final = re.compile(
    r"\d+|\d*[.,]\d+|\d+[.,]|\d{1,3}(?P<group>[.,])(?:\d{2,3}(?P=group))*\d{3}(?:(?!(?P=group))[.,]\d*)?"
)
_GROUPS: Final = re.compile(r"\d{1,3}(?:[\s'\u2019]\d{3})+(?=\D|$)")
_GROUP_DIGITS: Final = 3


class Money(NamedTuple):
    """An amount, and the currency where it is written with one."""

    amount: float
    currency: str = ""


class DecimalMark(NamedTuple):
    """What is known of the decimal mark of a column: the mark, empty where nothing shows it, and whether a point
    alone may be trusted to be one.
    """

    mark: str = ""
    trust_point: bool = True


def decimal_mark(cells: Iterable[Any], *, delimiter: str) -> DecimalMark:
    """The decimal mark of a column, by its first cells; empty where none shows it, or they contradict each other."""
    found: set[str] = set()
    for cell in cells:
        if isinstance(cell, str):
            found.add(_shows(cell))
    found.discard("")
    return DecimalMark(found.pop() if len(found) == 1 else "", trust_point=delimiter != ";")


def amount(value: Any, field: str, mark: DecimalMark = DecimalMark()) -> Money:  # noqa: B008 - it is immutable
    """A sum of money from 0 to 1e12. Raises InvalidRecordError."""
    if type(value) is not float and is_blank(value):
        raise invalid(field, "is blank", "a number")
    found = money(value, field, mark)
    number = found.amount
    if 0.0 < number <= MAX_AMOUNT:
        return found
    if not math.isfinite(number):
        raise invalid(field, f"is {number}", "a finite number")
    if number < 0:
        raise invalid(field, f"is negative ({number:g})", "at least 0")
    if number > MAX_AMOUNT:
        raise invalid(field, f"is {number:g}", f"at most {MAX_AMOUNT:g}")
    return Money(0.0, found.currency)  # -0.0 and 0.0 are one amount, and so one derived id


def money(value: Any, field: str, mark: DecimalMark) -> Money:
    """A number as people write sums of money, of any size and sign. Raises InvalidRecordError."""
    if not isinstance(value, (str, bytes)):
        number = _plain(value)
        if number is None:
            raise invalid(field, f"{shown(value)} is not a number", "digits and a decimal point")
        return Money(number)
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if mark.mark != "," and (mark.trust_point or "." not in text):
        number = _plain(text)
        if number is not None:
            return Money(number)
    return _written(text.strip(), field, mark)


def _plain(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _written(text: str, field: str, mark: DecimalMark) -> Money:
    bare, negative = _unsigned(text)
    match = _SIGN.fullmatch(bare)
    if match is None or (match["before"] and match["after"]):
        number = _plain(text)
        if number is not None:
            return Money(number)  # 1e3, nan, inf
        raise invalid(field, f"{shown(text)} is not a number", "digits and a decimal point or comma")
    sign = match["before"] or match["after"] or ""
    digits = _ungrouped(match["number"].strip())
    if not _NUMBER.fullmatch(digits):
        raise invalid(field, f"{shown(text)} is not a number", "digits and a decimal point or comma")
    decimal = _mark_of(digits) or mark.mark
    only = "," if "," in digits else "." if "." in digits else ""
    if only and not decimal:
        if only == "," or not mark.trust_point:
            raise invalid(field, f"{shown(text)} may be two amounts", "--decimal , or --decimal . says which")
        decimal = only
    if mark.mark and only and not _fits(digits, mark.mark):
        raise invalid(
            field, f"{shown(text)} does not fit the decimal mark {mark.mark!r}", "--decimal says which"
        )
    plain = digits.replace("," if decimal == "." else ".", "").replace(decimal or ",", ".")
    number = float(plain)
    return Money(-number if negative else number, _SIGNS.get(sign, sign))


def _unsigned(text: str) -> tuple[str, bool]:
    """The text without its sign, and whether it is below zero: `-12`, `12-`, `(12)`, `$-12`."""
    plain = text.replace("\u2212", "-")
    if plain.startswith("(") and plain.endswith(")"):
        return plain[1:-1].strip(), True
    if plain.count("-") == 1 and not plain.strip("-").count("-"):
        return plain.strip("-").strip(), True
    inner = re.sub(r"^([^\d\s-]{1,3}\s*)-", r"\1", plain)
    if inner != plain:
        return inner, True
    return plain.removeprefix("+").strip(), False


def _ungrouped(digits: str) -> str:
    """Without blanks and apostrophes between groups of three digits."""
    if match := _GROUPS.match(digits):
        head = match.group()
        return re.sub(r"[\s'\u2019]", "", head) + digits[len(head) :]
    return digits


def _mark_of(digits: str) -> str:
    """The decimal mark that a number shows by itself; empty where it has none, or could be read both ways."""
    commas, points = digits.count(","), digits.count(".")
    if commas and points:
        return "," if digits.rindex(",") > digits.rindex(".") else "."
    if commas + points == 0:
        return ""
    only = "," if commas else "."
    if commas + points > 1:
        return "." if only == "," else ","  # it groups, so the other one would be the mark
    before, _, after = digits.partition(only)
    grouped = len(after) == _GROUP_DIGITS and 1 <= len(before) <= _GROUP_DIGITS and before != "0"
    return "" if grouped else only


def _fits(digits: str, mark: str) -> bool:
    found = _mark_of(digits)
    return not found or found == mark


def _shows(cell: str) -> str:
    match = _SIGN.fullmatch(_unsigned(cell.strip())[0])
    if match is None:
        return ""
    digits = _ungrouped(match["number"].strip())
    return _mark_of(digits) if _NUMBER.fullmatch(digits) else ""
