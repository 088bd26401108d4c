"""Advertiser activity: what a caller sends, what travels in the lane, what comes back. Money is in the currency of
the source, as it came.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from tocsin.wire.lanes import Durability
from tocsin.wire.limits import MAX_AMOUNT, AwareDatetime, Identifier
from tocsin.wire.problems import RecordError


class ActivityRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing an advertiser did, usually spend. A row is activity even when its amount is zero."""

    advertiser_id: Identifier
    event_time: Annotated[
        AwareDatetime,
        Meta(description="When it happened, or the end of the period it sums up: 2000 to one day from now"),
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
