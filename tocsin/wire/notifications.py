"""Notifications: what a caller sends, what travels in the lanes, what comes back.

*Requests and answers* are JSON objects, decoded strictly (unknown fields are errors), every length and range bounded
here. *Lane records* are MessagePack arrays (`array_like`): compact, versioned by `WIRE_VERSION` in each block; new
fields go at the end with a default. Times in JSON are RFC 3339 with an offset; in lane records they are seconds
since the epoch, UTC.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

from tocsin.wire.classification import RequestedPriority
from tocsin.wire.lanes import Durability, LaneName
from tocsin.wire.limits import URL_PATTERN, AwareDatetime, Identifier
from tocsin.wire.problems import RecordError

# The last six reach a recipient's address (`targets`) through the operator's accounts.
ChannelName = Literal["log", "webhook", "sink", "email", "sms", "voice", "push", "chat", "apprise"]


Severity = Literal["", "Extreme", "Severe", "Moderate", "Minor", "Unknown"]


class NotificationState(StrEnum):
    """Where a notification is. The last four are final.

    accepted ──► delivered | suppressed | expired
        └──► retrying ──► delivered | expired | dead
    """

    ACCEPTED = "accepted"
    RETRYING = "retrying"
    DELIVERED = "delivered"
    SUPPRESSED = "suppressed"
    EXPIRED = "expired"
    DEAD = "dead"


PLATFORM_SOURCE = "tocsin"  # of the platform's own notifications; nobody else's


class NotificationRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One notification as a caller sends it.

    Its priority need not be sent: the platform derives it from `type`, `alert_type` and `severity`.
    """

    type: Annotated[
        str, Meta(min_length=1, max_length=64, examples=["emergency", "device_alert", "reminder"])
    ]
    title: Annotated[str, Meta(min_length=1, max_length=256)]
    recipient: Annotated[
        str, Meta(min_length=1, max_length=256, description="Who is told: an opaque id of yours")
    ]
    alert_type: Annotated[str, Meta(max_length=128, examples=["smoke", "low_battery", "weather"])] = ""
    severity: Annotated[
        Severity,
        Meta(description="Common Alerting Protocol severity"),
    ] = ""
    body: Annotated[str, Meta(max_length=4096)] = ""
    source: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=64,
            description=f"The sending system or tenant; `{PLATFORM_SOURCE}` is the platform's own",
            extra_json_schema={"not": {"enum": [PLATFORM_SOURCE]}},
        ),
    ] = "default"
    channels: Annotated[
        tuple[ChannelName, ...],
        Meta(min_length=1, max_length=8, description="Where it goes; for a P0, all at once"),
    ] = ("log",)
    webhook_url: Annotated[
        Annotated[str, Meta(min_length=8, max_length=2048, extra_json_schema={"pattern": URL_PATTERN})]
        | None,
        Meta(
            description="Target of the `webhook` channel; else the platform's own. Answers show its host alone"
        ),
    ] = None
    expires_at: Annotated[
        AwareDatetime | None,
        Meta(description="A P2 not delivered by then is dropped; at most 366 days from now"),
    ] = None
    dedup_key: Annotated[
        Annotated[str, Meta(min_length=1, max_length=256)] | None,
        Meta(description="A repeat within 24 h returns the first receipt"),
    ] = None
    data: Annotated[dict[Identifier, Annotated[str, Meta(max_length=1024)]], Meta(max_length=32)] = {}
    priority: Annotated[
        RequestedPriority,
        Meta(
            description="Raises the derived priority; lowers it only where a rule of the operator's lets it"
        ),
    ] = ""


class FieldChange(Struct, frozen=True, kw_only=True):
    """What was changed in a P0, so that it need not be refused."""

    field: str
    change: Literal["cleaned", "cut", "replaced"]
    detail: str


class Receipt(Struct, frozen=True, kw_only=True):
    """The promise for one accepted notification: it is stored, and will end delivered or accounted for."""

    index: int  # position in the request
    id: str
    lane: LaneName
    accepted_at: datetime
    durability: Durability
    duplicate: bool = False  # true: seen before, this is the first receipt's id
    changed: tuple[FieldChange, ...] = ()  # of a P0: texts that were cleaned or cut rather than refused


class NotificationsAccepted(Struct, frozen=True, kw_only=True):
    """The answer to a send: a receipt for each accepted record, an error for each other one."""

    accepted: int
    rejected: int
    receipts: list[Receipt]
    errors: list[RecordError] = []


class Notification(Struct, frozen=True, array_like=True, gc=False):
    """One notification as it travels: classified, stamped and validated."""

    type: str
    title: str
    recipient: str
    alert_type: str
    severity: str
    body: str
    source: str
    channels: tuple[str, ...]
    webhook_url: str
    expires_at: float  # 0: never
    dedup_key: str
    data: dict[str, str]
    accepted_at: float
    traceparent: str = ""
    priority: str = ""  # as the sender asked for; empty: left to the rules


class Attempt(Struct, frozen=True, array_like=True, gc=False):
    """One try on one channel."""

    at: float
    channel: str
    ok: bool
    reason: str = ""  # a bounded label when not ok
    detail: str = ""
    duration_ms: float = 0.0
    provider: str = ""  # who served the channel; empty where the channel is the platform's own
    recipient: str = ""  # a fallback contact; empty: the notification's own recipient


class Envelope(Struct, frozen=True, array_like=True, gc=False):
    """A notification in a block, with what was tried already (retries and replays re-enter the lane).

    `id` is empty on the first pass: it is the position in the lane, known once the block is written.
    """

    notification: Notification
    id: str = ""
    attempts: tuple[Attempt, ...] = ()
    replays: int = 0  # how often it was put back from the dead letters
    earlier_attempts: int = 0  # made before the last replay; `attempts` began again with it
    deferred_s: float = 0.0  # how long it was put off on purpose: no latency of ours
    parked_at: float = 0.0  # since when no provider could be asked; 0: one was


class AttemptView(Struct, frozen=True, kw_only=True):
    """One try on one channel, for people."""

    at: datetime
    channel: str
    ok: bool
    reason: str
    detail: str
    duration_ms: float
    provider: str = ""
    recipient: str = ""  # a fallback contact that was told instead


class TimelineEvent(Struct, frozen=True, kw_only=True):
    """One thing that happened to a notification."""

    at: datetime
    event: str
    detail: str = ""


class NotificationStatus(Struct, frozen=True, kw_only=True):
    """State and history of one accepted notification."""

    id: str
    lane: LaneName
    state: NotificationState
    accepted_at: datetime
    reason: str
    attempts: list[AttemptView]
    timeline: list[TimelineEvent]
    notification: NotificationRequest | None = None  # while the lane or the dead letters still hold it
