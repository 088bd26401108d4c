"""What is changed in an urgent notification, rather than refuse it: a life is worth more than a byte.

    refused as it came ──► texts cleaned and cut ──► still P0 by the rules? ──yes──► accepted, and its receipt says so
                                                          │ no
                                                          └──► refused, for what was wrong with it as it came

Mended are the texts that people read, `title`, `body`, `alert_type` and the values of `data`, and a `severity` or
`priority` that is none. Never what says who is told, where, or that it is the same: `type`, `recipient`, `source`,
`channels`, `webhook_url`, `dedup_key`, `expires_at`, the names in `data`; a guess there would tell the wrong person.
P1 and P2 are refused, so that their senders learn of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, get_args

import msgspec

from routing.intake.priority import Classifier
from routing.intake.text import clean, clip
from tocsin.wire.classification import RequestedPriority
from tocsin.wire.decoding import Mended
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import FieldChange, NotificationRequest, Severity

SEVERITIES: Mapping[str, str] = MappingProxyType({word.casefold(): word for word in get_args(Severity)})
UNKNOWN = "Unknown"
PRIORITIES: frozenset[str] = frozenset(get_args(RequestedPriority))


def longest(kind: type[msgspec.Struct], name: str) -> int:
    """How many characters a text of a struct may have, or a value of a mapping of texts."""
    found: Any = next(field for field in msgspec.inspect.type_info(kind).fields if field.name == name).type  # type: ignore[attr-defined]
    while isinstance(found, msgspec.inspect.Metadata):
        found = found.type
    if isinstance(found, msgspec.inspect.DictType):
        found = found.value_type
    limit: int = found.max_length
    return limit


def fit(name: str, text: str, limit: int) -> tuple[str, list[FieldChange]]:
    """A text cleaned and cut, with what was done to it."""
    changes = []
    cleaned = clean(text)
    if cleaned != text:
        removed = "control characters or broken text removed"
        changes.append(FieldChange(field=name, change="cleaned", detail=removed))
    fitting = clip(cleaned, limit)
    if fitting != cleaned:
        detail = f"{len(cleaned):,} characters, cut to {limit:,}"
        changes.append(FieldChange(field=name, change="cut", detail=detail))
    return fitting, changes


class NotificationMender:
    """Makes a P0 acceptable that would be refused for its texts.

    Args:
        classifier: The priority rules.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._limits = {name: longest(NotificationRequest, name) for name in ("alert_type", "title", "body")}
        self._data_limit = longest(NotificationRequest, "data")

    def __call__(self, given: Mapping[str, Any]) -> Mended | None:
        """The fields as they can be accepted, and what was changed; None: it is no P0."""
        fields, changes = dict(given), []
        for name, limit in self._limits.items():
            if isinstance(fields.get(name), str):
                fields[name], done = fit(name, fields[name], limit)
                changes += done
        changes += _mend_severity(fields)
        changes += _mend_priority(fields)
        words = [fields.get(name, "") for name in ("type", "alert_type", "severity", "title", "priority")]
        if not all(isinstance(word, str) for word in words):
            return None
        if self._classifier.lane(*words) is not LaneName.P0:
            return None
        if isinstance(fields.get("title"), str) and not fields["title"].strip():
            fields["title"] = words[1] or words[0]
            changes.append(FieldChange(field="title", change="replaced", detail="it was empty"))
        changes += self._mend_data(fields)
        return fields, tuple(changes)

    def _mend_data(self, fields: dict[str, Any]) -> list[FieldChange]:
        data = fields.get("data")
        if not isinstance(data, dict):
            return []
        changes: list[FieldChange] = []
        fields["data"] = mended = dict(data)
        for name, value in data.items():
            if isinstance(value, str):
                mended[name], done = fit(f"data.{name}", value, self._data_limit)
                changes += done
        return changes


def _mend_priority(fields: dict[str, Any]) -> list[FieldChange]:
    asked = fields.get("priority")
    if not isinstance(asked, str) or asked in PRIORITIES:
        return []
    known = clean(asked).strip().casefold()
    fields["priority"] = known if known in PRIORITIES else ""
    detail = f"read as {fields['priority'] or 'none'}"
    return [FieldChange(field="priority", change="replaced", detail=detail)]


def _mend_severity(fields: dict[str, Any]) -> list[FieldChange]:
    severity = fields.get("severity")
    if not isinstance(severity, str) or severity in SEVERITIES.values():
        return []
    fields["severity"] = SEVERITIES.get(clean(severity).strip().casefold(), UNKNOWN)
    detail = f"read as {fields['severity']}"
    return [FieldChange(field="severity", change="replaced", detail=detail)]
