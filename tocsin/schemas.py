"""The wire: what a caller sends, what travels in the lanes, what comes back.

Two families. *Requests and answers* are JSON objects, decoded strictly (unknown fields are errors) with every
length and range bounded here. *Lane records* are MessagePack arrays (`array_like`): compact, and versioned by
`WIRE_VERSION` in each block; new fields go at the end with a default.

Times in JSON are RFC 3339 with an offset; in lane records they are seconds since the epoch, UTC. Money is in
the currency of the source, as it came.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

WIRE_VERSION = 1

MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_BATCH_RECORDS = 10_000
MAX_CHURN_IDS = 1_000
MAX_FEATURE_IDS = 1_000
MAX_AMOUNT = 1e12
MAX_CLOCK_SKEW_S = 86_400.0  # an event may be dated this far ahead of our clock
MAX_EXPIRY_S = 366 * 86_400.0

Identifier = Annotated[str, Meta(min_length=1, max_length=128)]
AwareDatetime = Annotated[datetime, Meta(tz=True)]
# The last six reach a recipient's address (`targets`) through the operator's accounts.
ChannelName = Literal["log", "webhook", "sink", "email", "sms", "voice", "push", "chat", "apprise"]


class LaneName(StrEnum):
    """The durable queues. `p0` is most urgent."""

    P0 = "p0"
    P1 = "p1"
    P2 = "p2"
    ACTIVITY = "activity"


NOTIFICATION_LANES = (LaneName.P0, LaneName.P1, LaneName.P2)


class Durability(StrEnum):
    """What a receipt's server had done with the write when it answered."""

    FSYNCED = "fsynced"  # on disk
    EVERYSEC = "everysec"  # on disk within about a second
    MEMORY = "memory"  # no append-only file, or nobody knows when it is synced


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


# --------------------------------------------------------------------------- notifications, as sent


class NotificationRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One notification as a caller sends it.

    Its priority is not sent: the platform derives it from `type`, `alert_type` and `severity`.
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
        Literal["", "Extreme", "Severe", "Moderate", "Minor", "Unknown"],
        Meta(description="Common Alerting Protocol severity"),
    ] = ""
    body: Annotated[str, Meta(max_length=4096)] = ""
    source: Annotated[str, Meta(min_length=1, max_length=64, description="The sending system or tenant")] = (
        "default"
    )
    channels: Annotated[
        tuple[ChannelName, ...],
        Meta(min_length=1, max_length=8, description="Where it goes; for a P0, all at once"),
    ] = ("log",)
    webhook_url: Annotated[
        Annotated[str, Meta(min_length=8, max_length=2048)] | None,
        Meta(description="Target of the `webhook` channel; else the platform's own"),
    ] = None
    expires_at: Annotated[
        AwareDatetime | None, Meta(description="A P2 not delivered by then is dropped, and says so")
    ] = None
    dedup_key: Annotated[
        Annotated[str, Meta(min_length=1, max_length=256)] | None,
        Meta(description="A repeat within 24 h returns the first receipt"),
    ] = None
    data: Annotated[dict[Identifier, Annotated[str, Meta(max_length=1024)]], Meta(max_length=32)] = {}


class Receipt(Struct, frozen=True, kw_only=True):
    """The promise for one accepted notification: it is stored, and will end delivered or accounted for."""

    index: int  # position in the request
    id: str
    lane: LaneName
    accepted_at: datetime
    durability: Durability
    duplicate: bool = False  # true: seen before, this is the first receipt's id


class RecordError(Struct, frozen=True, kw_only=True):
    """Why one record of a request was not accepted."""

    index: int
    detail: str
    field: str = ""
    limit: str = ""
    code: str = (
        "invalid-record"  # `overloaded`, `storage-unavailable`: nothing is wrong with it, send it again
    )
    retry_after_s: float = 0.0  # when to


class NotificationsAccepted(Struct, frozen=True, kw_only=True):
    """The answer to a send: a receipt for each accepted record, an error for each other one."""

    accepted: int
    rejected: int
    receipts: list[Receipt]
    errors: list[RecordError] = []


# --------------------------------------------------------------------------- notifications, in the lane


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
    earlier_attempts: int = 0  # made before the last replay; `attempts` began anew with it
    deferred_s: float = 0.0  # how long it was put off on purpose: no latency of ours
    parked_at: float = 0.0  # since when no provider could be asked; 0: one was


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


# --------------------------------------------------------------------------- notifications, as asked for


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


# --------------------------------------------------------------------------- activity


class ActivityRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing an advertiser did, usually spend. A row is activity even when its amount is zero."""

    advertiser_id: Identifier
    event_time: Annotated[
        AwareDatetime, Meta(description="When it happened, or the end of the period it sums up")
    ]
    amount: Annotated[float, Meta(ge=0, le=MAX_AMOUNT, description="Spend, in the account's currency")] = 0.0
    kind: Literal["spend", "campaign"] = "spend"
    event_id: Annotated[
        Annotated[str, Meta(min_length=1, max_length=128)] | None,
        Meta(
            description="Identity of the event: the same id again replaces it. Default: derived from the rest"
        ),
    ] = None
    campaign_id: Annotated[str, Meta(max_length=128, description="The campaign it belongs to, if any")] = ""
    currency: Annotated[
        str, Meta(pattern="^([A-Z]{3})?$", description="ISO 4217; must be the platform's own. Default: it is")
    ] = ""
    arrival: Annotated[
        AwareDatetime | None,
        Meta(description="When this version became known, for records of the past. Default: now"),
    ] = None
    backdated: Annotated[
        bool, Meta(description="An import of the past: for training it counts as known when it happened")
    ] = False


class Activity(Struct, frozen=True, array_like=True, gc=False):
    """One activity as it travels in the lane and rests in the event log.

    `arrival` (epoch seconds) is when this version was accepted: of the versions of one event id the last to arrive
    counts, wherever they are met in which order. `backdated` marks an import of the past: for training, its first
    version counts as known at its own event time.
    """

    advertiser_id: str
    event_time: float
    amount: float
    kind: str
    event_id: str
    campaign_id: str = ""  # empty: none
    currency: str = ""  # empty: the store's
    arrival: float = 0.0
    backdated: bool = False


class ActivityAccepted(Struct, frozen=True, kw_only=True):
    """The answer to an activity upload."""

    accepted: int
    rejected: int
    durability: Durability
    errors: list[RecordError] = []


# --------------------------------------------------------------------------- features, churn, insights


FeatureStatus = Literal["present", "stale", "missing", "never"]


class FeatureValue(Struct, frozen=True, kw_only=True):
    """One feature with what is needed to trust it."""

    value: float | None  # null: not defined for this advertiser yet
    unit: str
    view: str
    status: FeatureStatus
    event_time: datetime | None  # of the newest event its view knows of
    age_s: float | None  # how long ago everything was known; null where nobody can say


class FeaturesAnswer(Struct, frozen=True, kw_only=True):
    """The features of one advertiser as of a moment; `on_demand` are those that stand on values of the question."""

    advertiser_id: str
    as_of: datetime
    features: dict[str, FeatureValue]
    on_demand: dict[str, float | None] = {}
    degraded: bool = False
    degraded_reason: str = ""


class FeaturesRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Up to 1,000 advertisers to read features of."""

    advertiser_ids: Annotated[list[Identifier], Meta(min_length=1, max_length=MAX_FEATURE_IDS)]
    features: Annotated[
        list[Identifier], Meta(max_length=256, description="Names of stored features; empty: all of them")
    ] = []
    values: Annotated[
        dict[Identifier, Annotated[float, Meta(ge=0, le=MAX_AMOUNT)]],
        Meta(max_length=16, description="Values of the question for on-demand features, as planned_budget"),
    ] = {}
    as_of: AwareDatetime | None = None


class ViewRead(Struct, frozen=True, kw_only=True):
    """What the values of one view are worth; a null value in it is missing."""

    status: FeatureStatus
    age_s: float | None
    event_time: datetime | None


class FeatureRow(Struct, frozen=True, kw_only=True):
    """One advertiser of a batch."""

    advertiser_id: str
    values: dict[str, float | None]
    views: dict[str, ViewRead]
    on_demand: dict[str, float | None] = {}


class FeaturesBatchAnswer(Struct, frozen=True, kw_only=True):
    """A row for each advertiser, in the order asked."""

    as_of: datetime
    rows: list[FeatureRow]
    degraded: bool = False
    degraded_reason: str = ""


class Driver(Struct, frozen=True, kw_only=True):
    """How much one feature moves the prediction, against what is typical.

    Effects add up: `base_probability`, those of the drivers told and `other_effect` make `probability`.
    """

    feature: str
    value: float | None
    typical: float | None
    effect: float  # its share of the difference to the typical advertiser's probability
    text: str


class ChurnAnswer(Struct, frozen=True, kw_only=True):
    """The chance that an active advertiser does nothing in the next 28 days, and what may be built on it.

    `decision` is an answer only where its precision is certified: of the advertisers it is given for, at least
    `certified_precision` do what it says, with 95% confidence. Elsewhere it abstains, and the probability is all there
    is. `coverage` is the share of advertisers that get a decision.
    """

    advertiser_id: str
    probability: float  # calibrated
    risk: Literal["low", "medium", "high"]
    drivers: list[Driver]
    as_of: datetime
    method: Literal["model", "recency", "base_rate"]
    model_version: str
    degraded: bool = False
    degraded_reason: str = ""
    decision: Literal["churn", "stays", "abstain"] = "abstain"
    threshold: float | None = None  # of the probability, from which on the decision is given; null: abstains
    certified_precision: float | None = None
    coverage: float = 0.0
    calibrated_at: datetime | None = None  # the newest week the probabilities were fitted to
    features_age_s: float | None = (
        None  # what is known is complete up to so long before `as_of`; null: not known
    )
    base_probability: float | None = None  # of the typical advertiser; null without drivers
    other_effect: float = 0.0  # of all features that are not among the drivers


class ChurnBatchRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Up to 1,000 advertisers to predict for."""

    advertiser_ids: Annotated[list[Identifier], Meta(min_length=1, max_length=MAX_CHURN_IDS)]
    as_of: AwareDatetime | None = None
    drivers: Annotated[bool, Meta(description="Whether to say what drives each prediction")] = False


class ChurnBatchAnswer(Struct, frozen=True, kw_only=True):
    """Predictions in the order asked, and the ids that are not known."""

    predictions: list[ChurnAnswer]
    unknown: list[str]
    degraded: bool = False


class AtRiskAnswer(Struct, frozen=True, kw_only=True):
    """The active advertisers most likely to leave, the likeliest first."""

    predictions: list[ChurnAnswer]
    scored: int  # active advertisers looked at
    as_of: datetime
    age_s: float = 0.0  # of the ranking
    degraded: bool = False


class SpendTrend(Struct, frozen=True, kw_only=True):
    """Spend of the last 28 days against the advertiser's own past and against its peers."""

    spend_28d: float
    previous_28d: float
    own_weekly_average: float
    change: float | None  # last 28 days / the 28 before, minus 1; null without a past
    peer_median_change: float | None
    peer_percentile: float | None  # share of peers that changed less
    peers: int


class Recommendation(Struct, frozen=True, kw_only=True):
    """What to do, and why."""

    action: str
    reason: str
    urgency: Literal["none", "low", "medium", "high"]


class InsightAnswer(Struct, frozen=True, kw_only=True):
    """What one should know about one advertiser now."""

    advertiser_id: str
    as_of: datetime
    headline: str
    churn: ChurnAnswer | None
    spend_trend: SpendTrend | None
    recommendation: Recommendation
    cached: bool = False
    age_s: float = 0.0
    degraded: bool = False
    degraded_reasons: list[str] = []


# --------------------------------------------------------------------------- errors over HTTP


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem detail (RFC 9457), served as `application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | UnsetType = UNSET
    field: str | UnsetType = UNSET
    limit: str | UnsetType = UNSET
    hint: str | UnsetType = UNSET
    errors: list[RecordError] | UnsetType = UNSET
