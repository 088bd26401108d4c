"""The `log` channel: one JSON line a notification, in a file of bounded size."""

from __future__ import annotations

from pathlib import Path

import msgspec

from routing.channels import Failure, FailureReason
from tocsin.clock import Clock, to_datetime
from tocsin.schemas import Notification

MAX_BYTES = 64 * 1024 * 1024
KEEP = 3


class LogChannel:
    """Appends `{"at", "id", "recipient", "title", …}` to `path`; keeps the last three files of 64 MiB.

    One writer a file: each router gets a file of its own.
    """

    name = "log"

    def __init__(self, path: Path, clock: Clock, *, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._clock = clock
        self._max_bytes = max_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._size = self._file.tell()
        self._encode = msgspec.json.Encoder().encode

    async def deliver(self, notification_id: str, notification: Notification) -> Failure | None:
        """Write the line; it is in the kernel's hands when this returns."""
        line = self._encode(
            {
                "at": to_datetime(self._clock.now()),
                "id": notification_id,
                "source": notification.source,
                "recipient": notification.recipient,
                "type": notification.type,
                "title": notification.title,
                "body": notification.body,
            }
        )
        try:
            if self._size > self._max_bytes:
                self._rotate()
            self._size += self._file.write(line + b"\n") or 0
        except OSError as error:
            return Failure(FailureReason.INTERNAL, f"cannot write {self._path.name}: {error.strerror}")
        return None

    def _rotate(self) -> None:
        if self._path.exists():  # else the last rotation failed after this
            for number in range(KEEP - 1, 0, -1):
                older = self._path.with_suffix(f".{number}.jsonl")
                if older.exists():
                    older.replace(self._path.with_suffix(f".{number + 1}.jsonl"))
            self._path.replace(self._path.with_suffix(".1.jsonl"))
        full, self._file = self._file, self._path.open("ab", buffering=0)
        full.close()
        self._size = 0

    async def close(self) -> None:
        """Close the file."""
        self._file.close()
