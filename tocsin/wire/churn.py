"""`/v1/churn`: questions and answers as they go over the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from tocsin.wire.limits import MAX_CHURN_IDS, AwareDatetime, Identifier


class Driver(Struct, frozen=True, kw_only=True):
    """How much one feature moves the prediction, against what is typical.

    Effects add up: `base_probability`, those of the drivers listed and `other_effect` make `probability`.
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
