"""The wire of `/v1/recipients`: how somebody wants to be told, as a caller sends it and as it is kept.

A recipient without a record here is told as each notification says. What is in one never keeps a p0 from being
told: mutes, quiet hours and the limit an hour are for p1 and p2. Addresses in `targets` may be secret: they are
masked in answers, and neither they nor the webhook's URL show in a repr.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import fields

from tocsin.wire.lanes import LaneName
from tocsin.wire.limits import URL_PATTERN
from tocsin.wire.masking import MASK
from tocsin.wire.notifications import ChannelName

MAX_ID = 256
MAX_PER_HOUR = 1000
MAX_CONTACTS = 5
MAX_TARGETS = 8
SECRETS = frozenset({"targets", "webhook_url"})

RecipientId = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]
Channels = Annotated[tuple[ChannelName, ...], Meta(max_length=8)]
ClockTime = Annotated[
    str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", max_length=5, examples=["22:00", "07:00"])
]
Muted = Annotated[str, Meta(min_length=1, max_length=128)]
TargetName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]*$", max_length=32)]
Target = Annotated[str, Meta(min_length=1, max_length=2048)]


class ChannelChoice(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The channels of each lane, in their order; empty: as the notification says."""

    p0: Channels = ()
    p1: Channels = ()
    p2: Channels = ()

    def of(self, lane: LaneName) -> tuple[str, ...]:
        """The choice for a lane of notifications."""
        chosen: tuple[str, ...] = getattr(self, lane.value)
        return chosen


class QuietSpan(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A span of each day, by the clock on the recipient's wall; one that ends before it starts spans midnight.

    One that ends when it starts is empty: nothing is held back.
    """

    start: ClockTime
    end: ClockTime
    timezone: Annotated[
        str, Meta(min_length=1, max_length=64, description="IANA name", examples=["Europe/Berlin"])
    ] = "UTC"


class RecipientRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one recipient wants. It replaces what was kept before; a field left out is as if never set."""

    channels: Annotated[ChannelChoice, Meta(description="Which channels, by lane")] = ChannelChoice()
    muted_types: Annotated[
        tuple[Muted, ...],
        Meta(max_length=64, description="Not told on p1 and p2: by `type` or `alert_type`, case aside"),
    ] = ()
    muted_sources: Annotated[
        tuple[Muted, ...], Meta(max_length=64, description="Not told on p1 and p2: by `source`, case aside")
    ] = ()
    quiet_hours: Annotated[
        QuietSpan | None, Meta(description="What p1 and p2 bring in these hours waits until they end")
    ] = None
    max_per_hour: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_PER_HOUR)] | None,
        Meta(
            description="At most so many in any 60 minutes on p1, and as many on p2; the rest is suppressed"
        ),
    ] = None
    webhook_url: Annotated[
        Annotated[str, Meta(min_length=8, max_length=2048, extra_json_schema={"pattern": URL_PATTERN})]
        | None,
        Meta(
            description="Target of the `webhook` channel when a notification names none. Answered with its host "
            f"alone, as `https://example.org/{MASK}`; sending that keeps the URL as it was"
        ),
    ] = None
    fallback_contacts: Annotated[
        tuple[RecipientId, ...],
        Meta(
            max_length=MAX_CONTACTS,
            description="Recipients to turn to when a p0 does not get through",
            extra_json_schema={"uniqueItems": True},
        ),
    ] = ()
    targets: Annotated[
        dict[TargetName, Target],
        Meta(
            max_length=MAX_TARGETS,
            description=f"Addresses by channel. Answered as `{MASK}`; sending `{MASK}` keeps an address as it was",
        ),
    ] = {}

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Names and values for people, secrets masked."""
        shown = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [(name, MASK if name in SECRETS and value else value) for name, value in shown]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"


class Recipient(RecipientRequest, frozen=True, forbid_unknown_fields=False, kw_only=True):
    """A recipient as it is kept, and as it is answered with its targets masked.

    Unknown fields are let pass: a newer platform may have written it.
    """

    id: str
    updated_at: datetime


class RecipientPage(Struct, frozen=True, kw_only=True):
    """Recipients in the order of their ids."""

    total: int
    items: list[Recipient]
    next: str = ""  # ask for the page after this id; empty: there is none


class RecipientRemoved(Struct, frozen=True, kw_only=True):
    """The answer to a removal, the same for a repeated call, except for `removed`."""

    id: str
    removed: bool  # false: there was none
