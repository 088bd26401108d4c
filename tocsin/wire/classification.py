"""What a notification would be taken for: asked without sending it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from tocsin.wire.lanes import LaneName

RequestedPriority = Literal["", "p0", "p1", "p2"]  # empty: left to the rules


class ClassificationRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The fields of a notification that its lane depends on."""

    type: Annotated[str, Meta(min_length=1, max_length=64, examples=["device_alert"])]
    alert_type: Annotated[str, Meta(max_length=128, examples=["gas_leak", "smoke detector low battery"])] = ""
    severity: Annotated[
        Literal["", "Extreme", "Severe", "Moderate", "Minor", "Unknown"],
        Meta(description="Common Alerting Protocol severity"),
    ] = ""
    title: Annotated[str, Meta(max_length=256)] = ""
    priority: RequestedPriority = ""


class Classification(Struct, frozen=True, kw_only=True):
    """The lane, and what decided."""

    lane: LaneName
    rule: Annotated[str, Meta(description="The rule that decided; with `operator_rule`, one of TOCSIN_RULES")]
    hazard: Annotated[
        str, Meta(description="The danger that is named: fire, gas, medical …; empty: none")
    ] = ""
    word: Annotated[str, Meta(description="The word or words that decided, as they were read")] = ""
    field: Annotated[str, Meta(description="Where they stand: type, alert_type or title")] = ""
    reading: Annotated[
        str,
        Meta(description="danger, drill, all_clear, upkeep, advisory, device, commercial or unknown"),
    ] = "unknown"
    because: Annotated[str, Meta(description="The word that turned it: `drill`, `cleared`, `sale`")] = ""
    drill: bool = False
    commercial: bool = False
    operator_rule: bool = False
    may_lower: Annotated[bool, Meta(description="Whether a sender's `priority` may be lower")] = False
