"""What the checker is given: promises, evidence, final states and fault windows. Plain values, no connections.

Times are seconds since the epoch, read from one machine's clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

FINAL_STATES = ("delivered", "suppressed", "expired", "dead")
LOG = "log"
WEBHOOK = "webhook"


class Promise(msgspec.Struct, frozen=True, array_like=True):
    """One receipt as its sender kept it, with what the sender had asked for."""

    id: str
    lane: str
    recipient: str
    ref: str  # the sender's own name of the notification; travels as its title
    channels: tuple[str, ...]
    dedup_key: str = ""


class Arrival(msgspec.Struct, frozen=True, array_like=True):
    """One arrival at a channel: a line of a delivery log, or a POST a provider saw."""

    at: float
    id: str
    recipient: str
    ref: str
    channel: str
    source: str  # the pool member whose log it is; empty where the channel does not say
    ok: bool = True  # false: the provider did not take it


class Final(msgspec.Struct, frozen=True):
    """What the platform says became of a notification. `tries`: attempts it knows of, by channel."""

    state: str
    tries: dict[str, int]


class FaultKind(StrEnum):
    """The faults that can be injected."""

    ROUTER_KILL = "router_kill"
    STORAGE_KILL = "storage_kill"
    STORAGE_PAUSE = "storage_pause"
    CONNECTION_CUT = "connection_cut"
    AOF_REWRITE = "aof_rewrite"
    SENDER_KILL = "sender_kill"
    PROVIDER_FAIL = "provider_fail"
    PROVIDER_HANG = "provider_hang"
    PROVIDER_SLOW = "provider_slow"


EXPLAINING = frozenset(
    {
        FaultKind.ROUTER_KILL,
        FaultKind.STORAGE_KILL,
        FaultKind.STORAGE_PAUSE,
        FaultKind.CONNECTION_CUT,
    }
)
"""Faults that may fall between a delivery and its acknowledgement. The others excuse no duplicate."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """When a fault was felt. With a lane or a member, it excuses only what these did."""

    kind: FaultKind
    start: float
    end: float
    lane: str = ""
    member: str = ""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the verdict is based on."""

    promises: Sequence[Promise]
    arrivals: Sequence[Arrival]
    finals: Mapping[str, Final | None]  # None: the platform does not know the id
    letters: frozenset[str]  # ids with a dead letter
    letters_total: int  # dead letters the platform holds in all
    windows: Sequence[Window]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The counts. `Verdict.good` says which must be zero."""

    accepted: int
    delivered: int
    suppressed: int
    expired: int
    dead: int
    lost: int
    duplicates: int
    unexplained_duplicates: int
    order_violations: int
    order_violations_by_lane: dict[str, int]
    webhook_overtaken: int  # a figure: POSTs in flight together arrive in any order
    unaccounted: int  # arrivals without a receipt
    forged: int  # receipts that cannot be the platform's, or contradict each other
    misdelivered: int  # arrivals at another recipient, or of another content, than promised
    contradictions: int  # states that disagree with the evidence or the dead letters
    problems: tuple[str, ...]  # the first few, in words

    @property
    def good(self) -> bool:
        """Whether the proof holds."""
        wrong = (
            self.lost,
            self.unexplained_duplicates,
            self.order_violations,
            self.unaccounted,
            self.forged,
            self.misdelivered,
            self.contradictions,
        )
        return self.accepted > 0 and not any(wrong)
