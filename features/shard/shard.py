"""The handler of the activity lane: keeps the event log, the tiles and the packed vectors of its partitions.

    blocks ──► which events are new, restated, repeated? ──► tiles ──► vectors
                                                                          │ one transaction, unless another shard wrote
      events · tiles · vectors · log · counts · token · acknowledgement ◄─┘

The state of a partition moves under a token (`features.shard.history_cache`): a shard that was slow, cut off or moved
away finds another token and repeats its work, so nothing is lost or counted twice, whichever shard holds the partition.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import msgspec
import numpy as np
from redis import asyncio as aioredis
from redis.asyncio.client import Pipeline

from features.newest import NewestEvents, newest_events
from features.online.as_of import fixed_as_of, latest_as_of
from features.online.packing import pack_views
from features.online.store import FeatureStore, decode_activity, read_history
from features.shard.history_cache import HistoryCache
from features.tiles import History, content, encode, fold, later, merge
from tocsin.clock import Clock
from tocsin.keys import LaneKeys
from tocsin.storage.errors import translated
from tocsin.storage.optimistic import Guarded
from tocsin.streams.ports import Hold
from tocsin.streams.quarantine import stage_quarantine
from tocsin.streams.records import Entry, Writes, pack_block, partition_of
from tocsin.telemetry.latency import tally
from tocsin.wire.activity import Activity
from tocsin.wire.lanes import WIRE_VERSION, LaneName

log = logging.getLogger(__name__)

MAX_LOG_ENTRIES = (
    100_000  # a partition; a backfill from the event logs restores what is trimmed before it is archived
)
MAX_PAIRS = 1_000  # in one command: at the memory limit Lua takes no more than 8,000 arguments
_block: Final = msgspec.msgpack.Decoder(list[Activity])
_encode: Final = msgspec.msgpack.Encoder().encode


class Change(msgspec.Struct, gc=False):
    """What a unit of blocks changes of one advertiser."""

    writes: dict[
        str, Activity
    ]  # to the event log, by event id: new, restated, or the same with a later arrival
    changed: list[Activity]  # of these, the new events, then the restated ones
    new_count: int  # how many of `changed` are new
    history: History | None = None
    bodies: dict[str, bytes] = {}  # `writes`, encoded


class AppliedUnit(msgspec.Struct):
    """Blocks sorted by advertiser; of several versions of an event the latest."""

    events: dict[int, dict[str, dict[str, Activity]]]  # by partition, advertiser and event id
    records: dict[str, int]  # how many, by entry
    unreadable: list[Entry]
    newest: float = 0.0  # event time

    def newest_by_advertiser(self) -> list[float]:
        """The time of each advertiser's newest event."""
        return [
            max(event.event_time for event in events.values())
            for advertisers in self.events.values()
            for events in advertisers.values()
        ]

    def times(self) -> Iterator[float]:
        """The time of every event."""
        for advertisers in self.events.values():
            for events in advertisers.values():
                yield from (event.event_time for event in events.values())


class Shard:
    """Keeps the features of the partitions whose blocks it handles.

    Args:
        client: The lane's server.
        lane_keys: The lane's keys.
        namespace: The prefix of all keys.
        partitions: How many partitions the lane has.
        as_of: The setting: `now`, `latest` or a time.
        clock: Time.
    """

    def __init__(
        self,
        client: aioredis.Redis,
        lane_keys: LaneKeys,
        *,
        namespace: str,
        partitions: int,
        as_of: str,
        clock: Clock,
    ) -> None:
        self.store = FeatureStore(client, namespace=namespace)
        self.history_cache = HistoryCache()
        self._keys = self.store.keys
        self._client = client
        self._lane_keys = lane_keys
        self._partitions = partitions
        self._latest = as_of == "latest"
        self._fixed = fixed_as_of(as_of)
        self._clock = clock

    def remembered(self, advertiser_ids: Sequence[str]) -> list[bytes | None]:
        """The last known history of each, encoded, None for one not cached: for readers while storage is down."""
        found = [self.history_cache.last_known(partition_of(i, self._partitions), i) for i in advertiser_ids]
        return [encode(history) if history else None for history in found]

    async def handle(self, entries: Sequence[Entry], hold: Hold | None = None) -> Writes:
        """Work out what the blocks change; what to write is settled together with their acknowledgement.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        unit = _sorted(hold.begin() if hold else entries)
        tokens, known, refold = await self._read(unit)
        data = await self.store.newest() if self._latest and unit.events else None
        changes: dict[str, Change] = {}
        for partition, advertisers in unit.events.items():
            for advertiser_id, events in advertisers.items():
                changes[advertiser_id] = change = _compare(events, known[advertiser_id])
                if change.new_count < len(change.changed):
                    refold.add(advertiser_id)
                elif change.changed:
                    history = fold(advertiser_id, change.changed)
                    before = self.history_cache.get(partition, advertiser_id)
                    change.history = merge(before, history) if before and history else history
                change.bodies = {event_id: _encode(event) for event_id, event in change.writes.items()}
        await self._refold(sorted(refold), changes)
        as_of = self._as_of(data, unit)
        next_tokens = {partition: secrets.token_bytes(12) for partition in unit.events}
        for partition, advertisers in unit.events.items():
            new = {name: found for name in advertisers if (found := changes[name].history)}
            self.history_cache.stage(partition, next_tokens[partition], new)
        self.history_cache.trim()

        def stage(pipe: Pipeline) -> None:
            self._stage_state(pipe, changes, as_of)
            self._stage_log(pipe, unit, changes)
            self._stage_counts(pipe, unit, changes)
            for partition, token in next_tokens.items():
                pipe.set(self._keys.applied(partition), token)

        return Guarded(stage, {self._keys.applied(partition): token for partition, token in tokens.items()})

    # ------------------------------------------------------------------ reading

    async def _read(
        self, unit: AppliedUnit
    ) -> tuple[dict[int, bytes], dict[str, dict[str, Activity]], set[str]]:
        """The tokens by partition, the known events by advertiser, the advertisers to refold.

        The tokens are read before what stands under them, so that settling detects a change in between.
        """
        partitions = list(unit.events)
        wanted = [(p, name) for p in partitions for name in unit.events[p]]
        unseen = [(p, name) for p, name in wanted if self.history_cache.get(p, name) is None]
        if not wanted:
            return {}, {}, set()
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.mget([self._keys.applied(partition) for partition in partitions])
            for partition, name in wanted:
                pipe.hmget(self._keys.events(name), list(unit.events[partition][name]))
            if unseen:
                pipe.mget([self._keys.history(name) for _, name in unseen])
            with translated():
                answers: list[Any] = await pipe.execute()
        tokens = {p: token or b"" for p, token in zip(partitions, answers[0], strict=True)}
        for partition, token in tokens.items():
            self.history_cache.confirm(partition, token)
        refold = self._learn(unseen, answers[-1]) if unseen else set()
        asked = set(unseen)
        lost = [at for at in wanted if at not in asked and self.history_cache.get(*at) is None]
        if lost:
            refold |= self._learn(lost, await self._bodies([name for _, name in lost]))
        known = {
            name: _logged(unit.events[partition][name], bodies)
            for (partition, name), bodies in zip(wanted, answers[1 : 1 + len(wanted)], strict=True)
        }
        return tokens, known, refold

    async def _bodies(self, advertiser_ids: Sequence[str]) -> list[bytes | None]:
        with translated():
            bodies: Any = await self._client.mget([self._keys.history(name) for name in advertiser_ids])
        return list(bodies)

    def _learn(self, wanted: Sequence[tuple[int, str]], bodies: Sequence[bytes | None]) -> set[str]:
        """Cache what was read; returns the advertisers whose history another version of the platform wrote."""
        old: set[str] = set()
        for (partition, name), body in zip(wanted, bodies, strict=True):
            history, refold = read_history(body)
            if history:
                self.history_cache.add(partition, name, history)
            if refold:
                old.add(name)
        return old

    async def _refold(self, advertiser_ids: Sequence[str], changes: Mapping[str, Change]) -> None:
        """Fold all events of these advertisers: minima and campaigns cannot be subtracted from tiles."""
        logs = await self.store.events_of(advertiser_ids)
        for name, events in zip(advertiser_ids, logs, strict=True):
            whole = {event.event_id: event for event in events} | changes[name].writes
            changes[name].history = fold(name, whole.values())

    def _as_of(self, data: NewestEvents | None, unit: AppliedUnit) -> float:
        """The moment vectors are packed for; for `latest`, what is being applied counts as what is stored does."""
        if self._fixed is not None:
            return self._fixed
        now = self._clock.now()
        if not self._latest:
            return now
        newest = unit.newest
        if data is None:  # the first events of all
            whole = newest_events(np.array(unit.newest_by_advertiser()))
            return latest_as_of(whole.moment if whole else now, now)
        if newest > data.bound:
            newest = max(time for time in [data.moment, *unit.times()] if time <= data.bound)
        return latest_as_of(max(data.moment, newest), now)

    # ------------------------------------------------------------------ writing

    def _stage_state(self, pipe: Pipeline, changes: Mapping[str, Change], as_of: float) -> None:
        """Events, tiles and vectors. A vector that holds an event dated at or after `as_of` is removed."""
        pairs: dict[Any, Any] = {}
        gone: list[str] = []
        newest: dict[Any, Any] = {}
        for name, change in changes.items():
            for part in _parts(change.bodies):
                pipe.hset(self._keys.events(name), mapping=part)
            if (history := change.history) is None:
                continue
            newest[name] = history.newest_event_time
            pairs[self._keys.history(name)] = encode(history)
            if history.newest_event_time < as_of:
                pairs[self._keys.vectors(name)] = pack_views(history, as_of)
            else:
                gone.append(self._keys.vectors(name))
        for part in _parts(pairs):
            pipe.mset(part)
        for part in _parts(newest):
            pipe.zadd(self._keys.advertisers, part)
        for start in range(0, len(gone), MAX_PAIRS):
            pipe.delete(*gone[start : start + MAX_PAIRS])

    def _stage_log(self, pipe: Pipeline, unit: AppliedUnit, changes: Mapping[str, Change]) -> None:
        for partition, advertisers in unit.events.items():
            bodies: list[bytes] = []
            for name in advertisers:
                change = changes[name]
                for number, event in enumerate(change.changed):
                    unchanged = not event.backdated or number >= change.new_count
                    bodies.append(
                        change.bodies[event.event_id] if unchanged else _encode(_as_imported(event))
                    )
            if bodies:
                fields: dict[Any, Any] = {"v": WIRE_VERSION, "b": pack_block(bodies)}
                pipe.xadd(self._keys.log(partition), fields, maxlen=MAX_LOG_ENTRIES)
                pipe.hincrby(self._keys.archive, f"logged:{partition}", len(bodies))

    def _stage_counts(self, pipe: Pipeline, unit: AppliedUnit, changes: Mapping[str, Change]) -> None:
        applied = sum(len(change.changed) for change in changes.values())
        total = sum(unit.records.values())
        for name, number in (("applied", applied), ("repeated", total - applied)):
            if number:
                pipe.hincrby(self._lane_keys.counts, name, number)
        now_ms = self._clock.now() * 1000
        waited: Counter[float] = Counter()
        for entry, records in unit.records.items():
            waited[max(now_ms - int(entry.partition("-")[0]), 0.0)] += records
        for key, spans in ((self._lane_keys.latency, waited), (self._keys.freshness, _ages(changes, now_ms))):
            for bucket, number in tally(spans).items():
                pipe.hincrby(key, str(bucket), number)
        stage_quarantine(pipe, self._lane_keys, unit.unreadable)


def _sorted(entries: Sequence[Entry]) -> AppliedUnit:
    unit = AppliedUnit(events=defaultdict(dict), records={}, unreadable=[])
    for entry in entries:
        try:
            activities = _block.decode(entry.block) if entry.version == WIRE_VERSION else None
        except msgspec.MsgspecError:
            activities = None
        if activities is None:
            log.error("%s block %s cannot be read; quarantined", LaneName.ACTIVITY, entry.entry)
            unit.unreadable.append(entry)
            continue
        unit.records[f"{entry.entry}-{entry.partition}"] = len(activities)
        advertisers = unit.events[entry.partition]
        for activity in activities:
            events = advertisers.get(activity.advertiser_id)
            if events is None:
                events = advertisers[activity.advertiser_id] = {}
            known = events.get(activity.event_id)
            events[activity.event_id] = activity if known is None else later(known, activity)
            unit.newest = max(unit.newest, activity.event_time)
    return unit


def _logged(events: Mapping[str, Activity], bodies: Sequence[bytes | None]) -> dict[str, Activity]:
    """Those of the events that are in the log, by event id."""
    return {
        event_id: decode_activity(body)
        for event_id, body in zip(events, bodies, strict=True)
        if body is not None
    }


def _compare(events: dict[str, Activity], known: Mapping[str, Activity]) -> Change:
    """The new and the restated events; the last version to arrive counts."""
    if not known:
        return Change(events, list(events.values()), len(events))
    new = {event_id: event for event_id, event in events.items() if event_id not in known}
    restated: list[Activity] = []
    writes = dict(new)
    for event_id, before in known.items():
        event = later(events[event_id], before)
        if event != before:
            writes[event_id] = event
            if content(event) != content(before):
                restated.append(event)
    return Change(writes, [*new.values(), *restated], len(new))


def _ages(changes: Mapping[str, Change], now_ms: float) -> Counter[float]:
    """How many new events happened how long ago (whole ms); imports of the past are left out."""
    return Counter(
        int(now_ms - event.event_time * 1000)
        for change in changes.values()
        for event in islice(change.changed, change.new_count)
        if not event.backdated
    )


def _as_imported(event: Activity) -> Activity:
    """An imported event with its own time as arrival: its first version counts as known when it happened."""
    return msgspec.structs.replace(event, arrival=event.event_time)


def _parts(pairs: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
    """Portions that one command may take at the memory limit."""
    if len(pairs) <= MAX_PAIRS:
        if pairs:
            yield pairs
        return
    items = iter(pairs.items())
    while part := dict(islice(items, MAX_PAIRS)):
        yield part
