"""The platform's own log: each process writes JSON lines to a file of its own, `<folder>/<part>.<pid>.jsonl`.

A record is one line whatever it holds: `at`, `level`, `part`, `pid`, `logger`, `message`, and where they apply
`request_id` and `trace`. Neither secrets nor what a caller sent is ever in one: messages name kinds and counts, and of
an exception that is not ours the trace shows where it was raised, not what it says. `tocsin logs` reads the files.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import traceback
from contextvars import ContextVar
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from tocsin.clock import to_datetime
from tocsin.errors import TocsinError

PACKAGES = ("actors", "cli", "features", "launch", "models", "routing", "serve_deployments", "tocsin")
MAX_BYTES = 8 * 1024 * 1024
KEPT_FILES = 2  # of one process, besides the one it writes
MAX_FILES = 256  # in the folder
MAX_MESSAGE = 4_000
MAX_TRACE = 16_000
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9_-]+")

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The `X-Request-ID` of the request that is being worked on."""


def log_folder(data: Path) -> Path:
    """Where the processes of a platform write their logs, by its data folder."""
    return data / "logs"


def safe_request_id(given: str) -> str:
    """A request's id if it is fit for a log, else nothing: a caller may send any text as one."""
    return given if _REQUEST_ID.fullmatch(given) else ""


class JsonLines(logging.Formatter):
    """One JSON object a record.

    Args:
        part: Whose process it is.
    """

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part
        self._encode = msgspec.json.Encoder().encode

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "at": to_datetime(record.created),
            "level": record.levelname,
            "part": self._part,
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage()[:MAX_MESSAGE],
        }
        if one := request_id.get():
            line["request_id"] = one
        if record.exc_info and record.exc_info[1] is not None:
            line["trace"] = trace_of(record.exc_info[1], record.exc_info[2])[:MAX_TRACE]
        return self._encode(line).decode()


def trace_of(error: BaseException, trace: TracebackType | None) -> str:
    """An exception with its causes, oldest first. The words of one that is not ours are left out."""
    # Not `traceback.print_exception`: inside a Serve replica `print` is another, which writes tuples.
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    frames = trace
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        shown = f": {current.message}" if isinstance(current, TocsinError) else ""
        parts.append("".join(traceback.format_tb(frames)) + f"{type(current).__name__}{shown}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
        frames = current.__traceback__ if current is not None else None
    return "\nand because of it:\n".join(reversed(parts))


def write_logs(part: str, folder: Path, *, level: int = logging.INFO) -> None:
    """Send what our packages log in this process to its file. Called again, it replaces what it set up.

    A folder that cannot be written leaves everything as it was: a platform that cannot log still delivers.

    Args:
        part: `p0-1`, `supervisor`, `churn`: whose process it is.
        folder: Made where it is missing.
        level: The lowest that is written.
    """
    name = _NOT_A_NAME.sub("-", part).strip("-") or "part"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_oldest(folder)
        handler = RotatingFileHandler(
            folder / f"{name}.{os.getpid()}.jsonl", maxBytes=MAX_BYTES, backupCount=KEPT_FILES, delay=True
        )
    except OSError as error:
        logging.getLogger(__name__).warning("no log is written to the data folder: %s", error.strerror)
        return
    handler.setFormatter(JsonLines(part))
    for package in PACKAGES:
        logger = logging.getLogger(package)
        for old in [one for one in logger.handlers if isinstance(one, RotatingFileHandler)]:
            logger.removeHandler(old)
            old.close()
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False


def _remove_oldest(folder: Path) -> None:
    """Make room for one more file: members and replicas come and go, each with files of its own."""
    found: list[tuple[float, Path]] = []
    for path in folder.glob("*.jsonl*"):
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime, path))
    for _, path in sorted(found)[: max(0, len(found) - MAX_FILES + 1)]:
        path.unlink(missing_ok=True)
