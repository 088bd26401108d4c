"""One record of a log, whatever wrote its line: ours, Ray's or Serve's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

MAX_LINE = 16_384
MAX_MORE_LINES = 200  # of one record that goes on over several
LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
_SHORT = {"D": "DEBUG", "I": "INFO", "W": "WARNING", "E": "ERROR", "C": "CRITICAL", "F": "CRITICAL"}
_TIME = r"(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3})"
_FORMS = (
    re.compile(rf"^(?P<level>[A-Z]+) {_TIME} (?P<rest>.*)$"),  # Serve
    re.compile(rf"^\[{_TIME} (?P<level>[A-Z]) \d+ \d+\] (?P<rest>.*)$"),  # Ray's core
    re.compile(rf"^{_TIME}\s+(?P<level>[A-Z]+) (?P<rest>.*)$"),  # Ray's Python
)
_SERVE_REQUEST = re.compile(r"^\S+ \S+ (?P<id>[0-9a-f]{8}-[0-9a-f-]{27}) ")


class LogRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One record. `level` is empty where the line says none."""

    at: datetime
    part: str
    message: str
    level: str = ""
    request_id: str = ""
    logger: str = ""
    trace: str = ""
    pid: int = 0


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which records are shown: all that is empty is not asked for."""

    parts: tuple[str, ...] = ()  # a part or some of its words: `p0` is `router-p0-0` and `router-p0-1`
    level: str = ""
    since: datetime | None = None
    request_id: str = ""

    def shows(self, record: LogRecord) -> bool:
        """Whether a record is one of them. A line without a level counts as INFO."""
        return (
            (not self.parts or any(f"-{one}-" in f"-{record.part}-" for one in self.parts))
            and LEVELS.get(record.level, LEVELS["INFO"]) >= LEVELS.get(self.level, 0)
            and (self.since is None or record.at >= self.since)
            and (not self.request_id or record.request_id == self.request_id)
        )


def read_records(lines: Iterable[str], part: str, otherwise: datetime) -> Iterator[LogRecord]:
    """The records of some lines of one file, in order. A line that no form fits goes on the record before it.

    Args:
        lines: Complete or not, without their ends.
        part: Whose file it is, where a line does not say so.
        otherwise: The time of lines before the first that has one.
    """
    open_record: LogRecord | None = None
    more: list[str] = []
    for line in lines:
        text = line[:MAX_LINE]
        found = _ours(text) or _foreign(text, part)
        if found is None:
            if not text.strip():
                continue
            if open_record is None:
                open_record = LogRecord(at=otherwise, part=part, message=text)
            elif len(more) < MAX_MORE_LINES:
                more.append(text)
            continue
        if open_record is not None:
            yield _closed(open_record, more)
        open_record, more = found, []
    if open_record is not None:
        yield _closed(open_record, more)


def _closed(record: LogRecord, more: list[str]) -> LogRecord:
    return msgspec.structs.replace(record, message="\n".join((record.message, *more))) if more else record


_decode: Callable[[str], Any] = msgspec.json.Decoder(LogRecord).decode
_decode_any: Callable[[str], Any] = msgspec.json.Decoder(dict[str, Any]).decode


def _ours(line: str) -> LogRecord | None:
    if not line.startswith("{"):
        return None
    try:
        record: LogRecord = _decode(line)
    except msgspec.MsgspecError:
        return None
    return record if record.at.tzinfo else None


def _foreign(line: str, part: str) -> LogRecord | None:
    match = next((found for form in _FORMS if (found := form.match(line))), None)
    if match is None:
        return None
    try:  # Ray writes local time, without saying so
        at = datetime.strptime(match["at"], "%Y-%m-%d %H:%M:%S,%f").astimezone(UTC)
    except ValueError:
        return None
    request = _SERVE_REQUEST.match(match["rest"])
    level = _SHORT.get(match["level"], match["level"])
    return LogRecord(
        at=at,
        part=part,
        message=match["rest"],
        level=level if level in LEVELS else "",
        request_id=request["id"] if request else "",
    )
