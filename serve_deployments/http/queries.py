"""Parameters of a request: flags, numbers and times of its query, ids of its path. Each names its field and limit."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import msgspec
from starlette.requests import Request

from serve_deployments.http.application import Parameter
from tocsin.errors import InvalidRecordError
from tocsin.wire.limits import MAX_ID, TEXT_PATTERN

YEARS = range(2000, 2100)
_DAYS = (
    "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
)
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
_OFFSET = r"(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])"

AS_OF = Parameter(
    name="as_of",
    where="query",
    description="Answer as of this moment instead of now: RFC 3339 with an offset, 2000 to 2099",
    schema={
        "type": "string",
        "pattern": f"^20[0-9]{{2}}-{_DAYS}T{_CLOCK}{_OFFSET}$",
        "examples": ["2026-01-31T00:00:00Z"],
    },
)
NOTIFICATION_ID = Parameter(
    name="notification_id",
    where="path",
    description="The `id` of a receipt: lane, partition, milliseconds, sequence and index",
    schema={
        "type": "string",
        "pattern": "^(p0|p1|p2)-[0-9]{1,6}-[0-9]{1,19}-[0-9]{1,19}-[0-9]{1,6}$",
        "examples": ["p0-3-1764000000000-0-0"],
    },
)
_TEXT = re.compile(TEXT_PATTERN.removesuffix("$") + r"\Z")


def id_parameter(
    name: str, description: str, most: int = MAX_ID, *, pattern: str = TEXT_PATTERN
) -> Parameter:
    """A path's part that is an id of the caller's: any text but control characters. `path_id` reads it."""
    schema: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": most, "pattern": pattern}
    return Parameter(name=name, where="path", description=description, schema=schema)


def path_id(request: Request, name: str, most: int = MAX_ID) -> str:
    """An id in the path.

    Raises:
        InvalidRecordError: longer than `most` characters, or with a control character.
    """
    return _text(request.path_params[name], name, most)


def query_text(request: Request, name: str, most: int) -> str:
    """A text of the query; empty when absent.

    Raises:
        InvalidRecordError: longer than `most` characters, or with a control character.
    """
    return _text(request.query_params.get(name, ""), name, most)


def _text(text: str, name: str, most: int) -> str:
    if len(text) > most or not _TEXT.match(text):
        raise InvalidRecordError(
            f"`{name}` cannot be used",
            field=name,
            limit=f"at most {most} characters, no control characters but tab and newline",
        )
    return text


def query_flag(request: Request, name: str) -> bool:
    """A boolean query parameter; absent is false.

    Raises:
        InvalidRecordError: it is neither true nor false.
    """
    text = request.query_params.get(name, "false").lower()
    if text not in {"true", "false", "1", "0"}:
        raise InvalidRecordError(f"`{name}` is not a boolean", field=name, limit="true or false")
    return text in {"true", "1"}


def query_int(request: Request, name: str, default: int, *, least: int, most: int) -> int:
    """A whole-number query parameter within bounds.

    Raises:
        InvalidRecordError: it is not a whole number, or out of bounds.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"-?\d{1,12}", text) or not least <= int(text) <= most:
        raise InvalidRecordError(
            f"`{name}` is out of range", field=name, limit=f"a whole number, {least} to {most}"
        )
    return int(text)


def query_time(request: Request, name: str) -> float | None:
    """A time as a query parameter, in seconds since the epoch; None when absent.

    Raises:
        InvalidRecordError: it is not RFC 3339 with an offset, or its year is not 2000 to 2099.
    """
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        moment = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        moment = None
    if moment is None or moment.tzinfo is None or moment.year not in YEARS:
        raise InvalidRecordError(
            f"`{name}` is not a usable time",
            field=name,
            limit="RFC 3339 with an offset, 2000 to 2099, e.g. 2026-01-31T00:00:00Z",
        )
    return moment.timestamp()
