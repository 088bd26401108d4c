"""What the checks of a cell share: when it is blank, how it is shown, how it is refused."""

from __future__ import annotations

from typing import Any

from tocsin.errors import InvalidRecordError

_SHOWN_CHARS = 40


def is_blank(value: Any) -> bool:
    """Whether a cell is null, or text of blanks only."""
    return value is None or (isinstance(value, str | bytes) and not value.strip())


def shown(value: Any) -> str:
    """A cell as it is quoted in a reason, cut."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def invalid(field: str, problem: str, limit: str) -> InvalidRecordError:
    """The error that refuses a row: the field, what is wrong with it, and what would be right."""
    return InvalidRecordError(f"{field} {problem}: {limit}", field=field, limit=limit)
