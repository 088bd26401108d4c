"""The `log` channel: one JSON line a notification, in a file of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from routing.channels import ChannelResult, Deliverable, Failure, FailureReason, LocalChannel
from tocsin.clock import Clock, to_datetime
from tocsin.wire.notifications import Attempt

MAX_BYTES = 64 * 1024 * 1024
KEEP = 3


class LogChannel(LocalChannel):
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

    async def deliver(self, batch: Sequence[Deliverable]) -> Sequence[ChannelResult]:
        """Write a line each, in one go; they are in the kernel's hands when this returns."""
        now = self._clock.now()
        at = to_datetime(now)
        lines = bytearray()
        for item in batch:
            note = item.notification
            lines += self._encode(
                {
                    "at": at,
                    "id": item.id,
                    "source": note.source,
                    "recipient": note.recipient,
                    "type": note.type,
                    "title": note.title,
                    "body": note.body,
                }
            )
            lines += b"\n"
        try:
            if self._size > self._max_bytes:
                self._rotate()
            self._size += self._file.write(lines) or 0
        except OSError as error:
            failure = Failure(FailureReason.INTERNAL, f"cannot write {self._path.name}: {error.strerror}")
            return [ChannelResult((failure.attempt(self.name, now, 0.0),))] * len(batch)
        took_ms = round((self._clock.now() - now) * 1000, 3)
        return [ChannelResult((Attempt(now, self.name, ok=True, duration_ms=took_ms),))] * len(batch)

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
