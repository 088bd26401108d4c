"""`/v1/features`: the features of advertisers as they go over the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from tocsin.wire.limits import MAX_AMOUNT, MAX_FEATURE_IDS, AwareDatetime, Identifier

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
