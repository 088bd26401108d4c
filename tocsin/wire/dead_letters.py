"""Dead letters as asked for: filters, requests and answers, shared by the platform, its client and its commands.

Times are RFC 3339 with an offset. A `cursor` is opaque: it says where a bounded look through the letters ended,
so that the next request goes on from there; letters that die again meanwhile are newer, and not met twice.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypedDict

from msgspec import Meta, Struct

from tocsin.wire.lanes import LaneName
from tocsin.wire.limits import AwareDatetime
from tocsin.wire.notifications import Attempt, AttemptView, Notification, NotificationRequest

MAX_HANDLED = 1000  # letters one request replays or purges
MAX_RATE = 1000.0  # letters a second
DEFAULT_RATE = 100.0

NotificationLane = Literal["p0", "p1", "p2"]
CURSOR_PATTERN = (
    r"^([0-9]{1,12}(\.[0-9]{1,9})?_[a-z0-9]{1,16}-[0-9]{1,6}-[0-9]{1,19}-[0-9]{1,19}-[0-9]{1,6})?$"
)
Cursor = Annotated[
    str,
    Meta(
        max_length=160,
        description="Go on from where an earlier answer ended",
        extra_json_schema={"pattern": CURSOR_PATTERN},
    ),
]
Limit = Annotated[int, Meta(ge=1, le=MAX_HANDLED, description="How many letters to handle at the most")]
DryRun = Annotated[bool, Meta(description="Only say what would be done")]


class DeadLetterFilter(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Which dead letters are meant. What is left out does not matter; what is given must all hold."""

    lane: Annotated[NotificationLane | None, Meta(description="Only this lane")] = None
    reason: Annotated[
        Annotated[str, Meta(min_length=1, max_length=64)] | None,
        Meta(description="Why it died, for instance `refused`"),
    ] = None
    source: Annotated[
        Annotated[str, Meta(min_length=1, max_length=64)] | None, Meta(description="The sending system")
    ] = None
    recipient: Annotated[
        Annotated[str, Meta(min_length=1, max_length=256)] | None, Meta(description="Who was to be told")
    ] = None
    since: Annotated[AwareDatetime | None, Meta(description="Died then or later")] = None
    until: Annotated[AwareDatetime | None, Meta(description="Died then or earlier")] = None
    text: Annotated[
        Annotated[str, Meta(min_length=1, max_length=256)] | None,
        Meta(description="Stands in the error; upper and lower case are the same"),
    ] = None


class Traits(TypedDict, total=False):
    """The fields of `DeadLetterFilter` but the lane, as the client's keyword arguments."""

    reason: str | None
    source: str | None
    recipient: str | None
    since: datetime | None
    until: datetime | None
    text: str | None


class Where(Traits, total=False):
    """All fields of `DeadLetterFilter`, as the client's keyword arguments."""

    lane: LaneName | str | None


class ReplayRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Put the letters that match back into their lanes."""

    filter: DeadLetterFilter = DeadLetterFilter()
    dry_run: DryRun = False
    rate: Annotated[float, Meta(ge=1, le=MAX_RATE, description="Letters a second")] = DEFAULT_RATE
    limit: Limit = MAX_HANDLED
    cursor: Cursor = ""


class PurgeRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Delete the letters that match, for good. To mean all of them, an empty filter must be given."""

    filter: DeadLetterFilter
    dry_run: DryRun = False
    limit: Limit = MAX_HANDLED
    cursor: Cursor = ""


class HandledLetters(Struct, frozen=True, kw_only=True):
    """What a replay or purge of many did, or with `dry_run` would do."""

    ids: list[str]  # put back or deleted; with dry_run: those that would be
    gone: int  # matched, but somebody else was quicker
    remaining: int  # matches seen after these and not handled
    scanned: int  # letters looked at
    cursor: str  # where to go on; empty: every letter was looked at
    dry_run: bool


class Purged(Struct, frozen=True, kw_only=True):
    """A dead letter that was deleted."""

    id: str
    lane: LaneName
    purged: bool


class DeadLetter(Struct, frozen=True, array_like=True):
    """A notification that could not be delivered, with all that is needed to understand and replay it."""

    id: str
    lane: str
    notification: Notification
    reason: str
    error: str
    failed_at: float
    attempts: tuple[Attempt, ...]
    replays: int = 0
    earlier_attempts: int = 0


class DeadLetterView(Struct, frozen=True, kw_only=True):
    """One dead letter, for people."""

    id: str
    lane: LaneName
    reason: str
    error: str
    accepted_at: datetime
    failed_at: datetime
    attempt_count: int  # over all replays
    attempts: list[AttemptView]  # since the last replay
    notification: NotificationRequest
    traceparent: str
    replays: int = 0


class DeadLetterPage(Struct, frozen=True, kw_only=True):
    """Dead letters, newest first."""

    total: int  # that the lanes asked for hold, whatever else the filter says
    items: list[DeadLetterView]
    cursor: str = ""  # where to go on; empty: these are all


class Replayed(Struct, frozen=True, kw_only=True):
    """What a replay put back into the lane."""

    id: str
    lane: LaneName
    replayed: bool
