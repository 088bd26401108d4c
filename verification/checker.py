"""The checker: from receipts, arrivals, final states and fault windows to a verdict. Pure.

    receipts ──► promised ids ──┬── final state + arrivals ──► delivered | suppressed | expired | dead | lost
                                ├── arrivals beyond the attempts on record ──► explained by a fault, or not
                                └── first arrivals a recipient and lane ──► in the order of acceptance, or not

A state alone proves nothing: `delivered` counts only where every channel asked for has the notification, and
`dead` only where its dead letter exists.

A duplicate is an arrival that was taken (`ok`) beyond the first, on the same channel. It is *explained* where a
tried call failed on the platform's side and is on record as failed (a provider that answered too late), or where a
fault fell between the two arrivals: the first was made, its acknowledgement was not. A kill of a router excuses only
the arrivals that this router made, and in the webhook's case, which does not tell routers apart, those of its lane.

The order is that of first arrivals at the `log` channel, a recipient and lane. One that was overtaken is a violation,
and no fault excuses it. POSTs of the webhook channel go over several connections at once: their order is a figure.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from tocsin.errors import InvalidRecordError
from tocsin.streams.records import Position
from verification.facts import (
    EXPLAINING,
    FINAL_STATES,
    LOG,
    WEBHOOK,
    Arrival,
    Evidence,
    Final,
    Promise,
    Verdict,
    Window,
)

SLACK_S = 0.002  # arrivals are stamped to the millisecond
MAX_PROBLEMS = 12

Tracks = Mapping[str, Mapping[str, Sequence[Arrival]]]  # by id, then by channel, in time
Place = tuple[int, int, int]  # ms and number of the entry, index in it
NOWHERE: Place = (-1, -1, -1)


class _Tally:
    """Counts by name, and the first few cases in words."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []

    def add(self, name: str, case: str, number: int = 1) -> None:
        """Count a problem."""
        self.counts[name] += number
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(f"{name}: {case}")


def check(evidence: Evidence) -> Verdict:
    """Account for every receipt."""
    tally = _Tally()
    promised = _promised(evidence.promises, tally)
    tracks = _tracks(evidence.arrivals, promised, tally)
    states: Counter[str] = Counter()
    duplicates = 0
    windows = [window for window in evidence.windows if window.kind in EXPLAINING]
    for promise in promised.values():
        found, final = tracks.get(promise.id, {}), evidence.finals.get(promise.id)
        state = _state(promise, final, found, evidence.letters, tally)
        states[state] += 1
        duplicates += sum(max(0, sum(arrival.ok for arrival in arrivals) - 1) for arrivals in found.values())
        if final is not None:
            _explain(promise, final, found, windows, tally)
    _check_letters(evidence, states["dead"], tally)
    overtaken = _overtaken(promised, tracks, LOG)
    for name in overtaken:
        tally.add("order_violations", f"{name} came after one accepted later")
    return Verdict(
        accepted=len(promised),
        delivered=states["delivered"],
        suppressed=states["suppressed"],
        expired=states["expired"],
        dead=states["dead"],
        lost=states["lost"],
        duplicates=duplicates,
        unexplained_duplicates=tally.counts["unexplained_duplicates"],
        order_violations=len(overtaken),
        order_violations_by_lane=dict(sorted(Counter(promised[name].lane for name in overtaken).items())),
        webhook_overtaken=len(_overtaken(promised, tracks, WEBHOOK)),
        unaccounted=tally.counts["unaccounted"],
        forged=tally.counts["forged"],
        misdelivered=tally.counts["misdelivered"],
        contradictions=tally.counts["contradictions"],
        problems=tuple(tally.problems),
    )


def _promised(promises: Iterable[Promise], tally: _Tally) -> dict[str, Promise]:
    """One promise an id. The same id twice is right for the same notification or the same dedup key only."""
    found: dict[str, Promise] = {}
    for promise in promises:
        first = found.setdefault(promise.id, promise)
        if first is promise:
            if not _is_position(promise):
                tally.add("forged", f"{promise.id} cannot be an id of lane {promise.lane}")
        elif first.ref != promise.ref and not (first.dedup_key and first.dedup_key == promise.dedup_key):
            tally.add("forged", f"{promise.id} was given for {first.ref} and for {promise.ref}")
    return found


def _is_position(promise: Promise) -> bool:
    try:
        return Position.parse(promise.id).lane == promise.lane
    except InvalidRecordError:
        return False


def _tracks(arrivals: Iterable[Arrival], promised: Mapping[str, Promise], tally: _Tally) -> Tracks:
    """Arrivals by id and channel. Files hold them in time already; sorting puts those of several files together."""
    tracks: dict[str, dict[str, list[Arrival]]] = {}
    for arrival in sorted(arrivals, key=lambda arrival: arrival.at):
        promise = promised.get(arrival.id)
        if promise is None:
            tally.add(
                "unaccounted",
                f"{arrival.id} reached {arrival.recipient} by {arrival.channel}; it has no receipt",
            )
            continue
        if (arrival.recipient, arrival.ref) != (promise.recipient, promise.ref):
            tally.add("misdelivered", f"{arrival.id} reached {arrival.recipient} as {arrival.ref}")
        tracks.setdefault(arrival.id, {}).setdefault(arrival.channel, []).append(arrival)
    return tracks


def _state(
    promise: Promise,
    final: Final | None,
    found: Mapping[str, Sequence[Arrival]],
    letters: frozenset[str],
    tally: _Tally,
) -> str:
    """The proven state; `lost` where there is none."""
    if final is None or final.state not in FINAL_STATES:
        tally.add("lost", f"{promise.id} is {final.state if final else 'unknown to the platform'}")
        return "lost"
    if final.state == "delivered":
        for channel in promise.channels:
            if not any(arrival.ok for arrival in found.get(channel, ())):
                tally.add("lost", f"{promise.id} is said to be delivered, but {channel} never had it")
                return "lost"
    if final.state == "dead" and promise.id not in letters:
        tally.add("lost", f"{promise.id} is said to be dead, but has no dead letter")
        return "lost"
    return final.state


def _check_letters(evidence: Evidence, dead: int, tally: _Tally) -> None:
    for name in sorted(evidence.letters):
        final = evidence.finals.get(name)
        if final is not None and final.state != "dead":
            tally.add("contradictions", f"{name} is {final.state} and has a dead letter")
    if evidence.letters_total != dead:
        tally.add("contradictions", f"{dead} ended dead, {evidence.letters_total} dead letters exist")


def _explain(
    promise: Promise,
    final: Final,
    found: Mapping[str, Sequence[Arrival]],
    windows: Sequence[Window],
    tally: _Tally,
) -> None:
    """Every arrival beyond the attempts on record needs a fault between it and the arrival before."""
    for channel, arrivals in found.items():
        # What was delivered and then expired or was suppressed was handled twice, so it needs a fault as well.
        extra = len(arrivals) - final.tries.get(channel, 0)
        if extra <= 0:
            continue
        ends = [arrival.at for arrival in arrivals[1:]]
        if len(ends) < extra:
            ends.append(float("inf"))  # the handling after the last arrival left no trace on the channel
        explained = sum(
            any(_covers(window, promise, arrival, until) for window in windows)
            for arrival, until in zip(arrivals, ends, strict=False)
        )
        if explained < extra:
            case = f"{promise.id} reached {channel} {len(arrivals)} times, {final.tries.get(channel, 0)} on record"
            tally.add("unexplained_duplicates", case, extra - explained)


def _covers(window: Window, promise: Promise, arrival: Arrival, until: float) -> bool:
    """Whether a fault fell between an arrival and the next, where it could be felt."""
    if window.lane and window.lane != promise.lane:
        return False
    if window.member and arrival.source and window.member != arrival.source:
        return False
    return window.start <= until + SLACK_S and window.end >= arrival.at - SLACK_S


def _overtaken(promised: Mapping[str, Promise], tracks: Tracks, channel: str) -> list[str]:
    """Ids whose first arrival came after that of one accepted later, in the same lane for the same recipient."""
    firsts: dict[tuple[str, str], list[tuple[float, int, str]]] = defaultdict(list)
    for number, (name, found) in enumerate(tracks.items()):  # in the order of first arrivals
        if arrivals := found.get(channel):
            promise = promised[name]
            firsts[promise.lane, promise.recipient].append((arrivals[0].at, number, name))
    overtaken = []
    for ordered in firsts.values():
        furthest = NOWHERE
        for _, _, name in sorted(ordered):
            here = place(name)
            if here < furthest:
                overtaken.append(name)
            furthest = max(furthest, here)
    return overtaken


def place(notification_id: str) -> Place:
    """Where in its partition a record stands: the order of acceptance. Not an id: before everything."""
    try:
        position = Position.parse(notification_id)
    except InvalidRecordError:
        return NOWHERE
    ms, _, sequence = position.entry.partition("-")
    return int(ms), int(sequence), position.index
