"""The journal's entries: what was done to a churn model, by whom, and who had which part after it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from msgspec import Struct

from models.rollout import Lineup


class Action(StrEnum):
    """What an entry of the journal tells."""

    REGISTER = "register"
    BEGIN = "begin"
    ADVANCE = "advance"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    RETIRE = "retire"


class Entry(Struct, frozen=True, kw_only=True):
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
