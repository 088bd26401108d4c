"""What Schemathesis cannot know of this API, loaded into its process; the reasons why a check is helped are here.

- NDJSON: OpenAPI 3.1 has no schema for lines, and Schemathesis no writer; so it gets the schema of the array, and one.
- Times that are bounded by the clock: an event is at most a day ahead, an expiry at most 366 days. No JSON schema can
  say so, as it would be wrong the day after; so times that are well formed are moved into those bounds before the call.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import schemathesis

BOUNDED = {"event_time": timedelta(days=-3), "arrival": timedelta(days=-2), "expires_at": timedelta(days=30)}


NDJSON = "application/x-ndjson"


@schemathesis.hook
def before_load_schema(_context: schemathesis.HookContext, document: dict[str, Any]) -> None:
    """Describe lines as the array that the same operation takes."""
    for path in document["paths"].values():
        for operation in path.values():
            content = operation.get("requestBody", {}).get("content", {})
            if NDJSON in content:
                content[NDJSON]["schema"] = content["application/json"]["schema"]["oneOf"][1]


@schemathesis.serializer(NDJSON)
def write_lines(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    """One JSON value a line."""
    lines = value if isinstance(value, list) else [value]
    return "\n".join(map(json.dumps, lines)).encode()


@schemathesis.hook
def before_call(
    _context: schemathesis.HookContext, case: schemathesis.Case[Any], _kwargs: dict[str, Any]
) -> None:
    """Move the times of records into what the clock allows."""
    records = case.body if isinstance(case.body, list) else [case.body]
    for record in records:
        if isinstance(record, dict):
            for name, ahead in BOUNDED.items():
                if is_time(record.get(name)):
                    record[name] = (datetime.now(UTC) + ahead).isoformat()


def is_time(value: object) -> bool:
    """Whether a value is RFC 3339 with an offset."""
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False
