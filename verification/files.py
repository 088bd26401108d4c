"""The files of a run: receipts, delivery logs and the provider's arrivals. A line torn by a kill is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from verification.facts import LOG, Arrival, Promise

ROTATED = 2  # a rotated log is `<member>.<number>.jsonl`


class Line(msgspec.Struct, frozen=True):
    """The part of a delivery log's line that is read."""

    at: datetime
    id: str
    recipient: str
    title: str


class Receipts(msgspec.Struct, frozen=True, array_like=True):
    """One request's receipts, as one line: a sender killed while writing it has none of them, and sends again."""

    key: str
    promises: list[Promise]


_line = msgspec.json.Decoder(Line)
_receipts = msgspec.json.Decoder(Receipts)
_arrival = msgspec.json.Decoder(Arrival)


def read_receipts(path: Path) -> list[Receipts]:
    """The receipts a sender kept; a torn last line is cut off, so that the next one is whole."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
    return [_receipts.decode(line) for line in content[:whole].splitlines()]


def read_provider_arrivals(path: Path) -> list[Arrival]:
    """The arrivals the provider recorded."""
    return [_arrival.decode(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def read_delivery_logs(folder: Path) -> tuple[list[Arrival], int]:
    """Every line of every delivery log, oldest first in each, and how many lines were torn."""
    arrivals: list[Arrival] = []
    torn = 0
    for path in sorted(folder.glob("*.jsonl"), key=_age):
        member = path.name.split(".")[0]
        for line, whole in _lines(path):
            torn += not whole
            if line is not None:
                arrivals.append(
                    Arrival(line.at.timestamp(), line.id, line.recipient, line.title, LOG, member)
                )
    return arrivals, torn


def _age(path: Path) -> tuple[str, int]:
    parts = path.name.split(".")
    return parts[0], -int(parts[1]) if len(parts) > ROTATED else 0


def _lines(path: Path) -> Iterator[tuple[Line | None, bool]]:
    """Lines, and whether each is whole: a write cut short by a kill is followed, on the same line, by the next."""
    with path.open("rb") as lines:
        for line in lines:
            try:
                yield _line.decode(line), True
            except msgspec.MsgspecError:
                yield _salvage(line), False


def _salvage(line: bytes) -> Line | None:
    start = line.rfind(b'{"at":')
    try:
        return _line.decode(line[start:]) if start > 0 else None
    except msgspec.MsgspecError:
        return None
