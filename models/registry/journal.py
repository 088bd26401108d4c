"""The journal's entries: what was done to a churn model, by whom, and who had which part after it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct

from models.registry.lineup import Lineup
from tocsin.errors import ModelUnavailableError


class Action(StrEnum):
    """What an entry of the journal says."""

    REGISTER = "register"
    BEGIN = "begin"
    ADVANCE = "advance"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    RETIRE = "retire"


class JournalEntry(Struct, frozen=True, kw_only=True):
    """One line of the journal. `lineup` is who had which part after it."""

    number: int
    at: datetime
    actor: str
    action: Action
    version: str  # whom it was done to
    reason: str = ""
    story: dict[str, Any] = {}  # what was measured, where something was
    lineup: Lineup


class Head(Struct, frozen=True):
    """The end of the journal: how many entries there are, and what they add up to."""

    number: int = 0
    lineup: Lineup = Lineup()


def entry_of(number: int, line: bytes) -> JournalEntry:
    """The entry in a line.

    Raises:
        ModelUnavailableError: it is damaged.
    """
    try:
        return msgspec.json.decode(line, type=JournalEntry)
    except msgspec.DecodeError as error:
        raise _unreadable(number, str(error)) from error


def whole(lines: Sequence[bytes]) -> list[JournalEntry]:
    """All entries, none missing and none added.

    Raises:
        ModelUnavailableError: a line is damaged, or is not the one that belongs there.
    """
    entries = [entry_of(number, line) for number, line in enumerate(lines, start=1)]
    for number, entry in enumerate(entries, start=1):
        if entry.number != number:
            raise _unreadable(number, f"it says it is entry {entry.number}: lines are missing, or were added")
    return entries


def _unreadable(number: int, problem: str) -> ModelUnavailableError:
    return ModelUnavailableError(
        f"the journal of the model registry is not readable: line {number}: {problem}",
        hint="restore it from a copy; until then the models in service stay in service",
    )
