"""What became of a block, in few bytes: the fields of the outcome hashes.

    {entry in its span}            what most of a block became on its first pass   "2345-0"
    {entry in its span}-{index}    a record that ended otherwise, or was retried   "2345-0-17"

A hash holds the blocks that one partition accepted within `SPAN_MS`: few enough to stay in the server's compact
encoding (512 fields), and their number does not multiply keys. A value is a MessagePack array: times are kept as
microseconds from the entry's own time, and what has its default at the end of an array is left out. A block of 500
that was delivered takes some 28 bytes of the server's memory, key and all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import msgspec

from routing.deliveries import Delivery
from tocsin.keys import SPAN_MS
from tocsin.wire.notifications import Attempt, NotificationState

SHARED = frozenset({NotificationState.DELIVERED, NotificationState.SUPPRESSED, NotificationState.EXPIRED})
CODES = {
    NotificationState.DELIVERED: 0,
    NotificationState.SUPPRESSED: 1,
    NotificationState.EXPIRED: 2,
    NotificationState.RETRYING: 3,
    NotificationState.DEAD: 4,
}
_STATES = {code: state for state, code in CODES.items()}
_US = 1_000_000


class Outcome(msgspec.Struct, frozen=True):
    """What became of one record, or (`records` > 0) of every record of a block that has no outcome of its own."""

    state: NotificationState
    at: float
    attempts: tuple[Attempt, ...] = ()
    records: int = 0
    reason: str = ""
    retry_at: float = 0.0


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    """An outcome as it is kept; times in microseconds from the entry's. An attempt's is where its seconds were."""

    state: int
    at: int
    attempts: tuple[Attempt, ...] = ()
    records: int = 0
    reason: str = ""
    retry_at: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode


def field(entry: str, index: int | None = None) -> str:
    """The field of a block, or of one record of it."""
    ms, _, number = entry.partition("-")
    shared = f"{int(ms) % SPAN_MS}-{number}"
    return shared if index is None else f"{shared}-{index}"


def pack(outcome: Outcome, entry: str) -> bytes:
    """The value to keep for an outcome of the block written as `entry`."""
    began = _began(entry)
    attempts = tuple(
        _trimmed((round((a.at - began) * _US), *msgspec.structs.astuple(a)[1:]), Attempt)
        for a in outcome.attempts
    )
    retry_at = round((outcome.retry_at - began) * _US) if outcome.retry_at else 0
    at = round((outcome.at - began) * _US)
    return _encode(
        _trimmed(
            (CODES[outcome.state], at, attempts, outcome.records, str(outcome.reason), retry_at), _Packed
        )
    )


def unpack(value: bytes, entry: str) -> Outcome:
    """What `pack` was given, times to the microsecond."""
    began, packed = _began(entry), _decode(value)
    return Outcome(
        _STATES[packed.state],
        began + packed.at / _US,
        tuple(msgspec.structs.replace(a, at=began + a.at / _US) for a in packed.attempts),
        packed.records,
        packed.reason,
        began + packed.retry_at / _US if packed.retry_at else 0.0,
    )


def by_origin(deliveries: Iterable[Delivery]) -> dict[tuple[int, str], list[Delivery]]:
    """Deliveries by where they were accepted: partition and entry."""
    origins: dict[tuple[int, str], list[Delivery]] = defaultdict(list)
    for entry, together in groupby(deliveries, attrgetter("entry")):
        block = list(together)
        if entry is not None and {one.envelope.id for one in block} == {""}:  # a first pass
            origins[entry.partition, entry.entry] += block
            continue
        for one in block:
            origins[one.origin()[:2]].append(one)
    return origins


def fields(entry: str, block: Sequence[Delivery]) -> dict[Any, Any]:
    """What to keep of records of one block: the end that most of a first pass have once, others one by one."""
    first = block[0]
    alike = [
        one
        for one in block
        if one.attempts == first.attempts
        and one.state is first.state
        and one.reason is first.reason
        and one.decided_at == first.decided_at
    ]
    if len(alike) == len(block) and _ending(first) is not None:  # nearly always: they shared a call
        return {field(entry): pack(_outcome(first, records=len(block)), entry)}
    endings = [_ending(one) for one in block]
    most = Counter(end for end in endings if end is not None).most_common(1)
    common = most[0][0] if most else None
    found: dict[Any, Any] = {}
    for one, end in zip(block, endings, strict=True):
        if end is None or end != common:
            found[field(entry, one.origin()[2])] = pack(_outcome(one), entry)
    if common is not None:
        last = max(
            (one for one, end in zip(block, endings, strict=True) if end == common),
            key=attrgetter("decided_at"),
        )
        found[field(entry)] = pack(_outcome(last, records=len(block)), entry)
    return found


def _ending(one: Delivery) -> Hashable | None:
    """What records with the same end have in common, times aside; None for what may still change."""
    if one.envelope.id or one.state not in SHARED:
        return None
    return one.state, one.reason, tuple([(a.channel, a.ok, a.provider, a.recipient) for a in one.attempts])


def _outcome(one: Delivery, records: int = 0) -> Outcome:
    return Outcome(one.state, one.decided_at, one.attempts, records, one.reason, one.retry_at)


def _began(entry: str) -> float:
    return int(entry.partition("-")[0]) / 1000


def _trimmed(values: tuple[Any, ...], kind: type[msgspec.Struct]) -> tuple[Any, ...]:
    """Without the values at the end that are the defaults of their fields."""
    end = len(values)
    for value, default in zip(reversed(values), reversed(kind.__struct_defaults__), strict=False):
        if value != default:
            break
        end -= 1
    return values[:end]
