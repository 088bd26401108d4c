"""Skew between serving and training: served samples, replayed from the archive; both must agree to the last bit.

    served sample (Redis) ──► advertiser, as of, values ─┐
    archive + log on Redis ──► point_in_time ────────────┴─► mismatches by feature

A sample holds the watermark (everything accepted before it is in the values) and, by its position in the stream, the
latest moment it can have been served. An event that arrived in between may be in it or not: the values must agree with
one of the states of knowledge of that span.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from redis import asyncio as aioredis

from features.definitions import FEATURE_NAMES, VIEWS
from features.event_table import event_table
from features.offline.archive import Archive
from features.offline.point_in_time import point_in_time
from features.offline.versions import versions_of
from features.online.usage import Served
from features.shard.event_log import activities_in, read_log
from tocsin.keys import FeatureKeys
from tocsin.storage.errors import translated
from tocsin.wire.activity import Activity

MAX_STATES: Final = 100  # of knowledge compared with one sample
MAX_EXAMPLES: Final = 20  # mismatches reported in full
PAGE_ENTRIES: Final = 1_000
_served: Final = msgspec.msgpack.Decoder(Served)


class Mismatch(msgspec.Struct, frozen=True, kw_only=True):
    """One value that was served and differs from every state replayed offline."""

    feature: str
    advertiser_id: str
    as_of: float
    served: float | None
    offline: float | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a replay."""

    samples: int
    compared: int
    other_schema: int  # served by other definitions: not compared
    unsettled: int  # more than MAX_STATES states while they were served: not compared
    mismatches: dict[str, int]  # by feature, only those that have any
    examples: list[Mismatch]

    @property
    def clean(self) -> bool:
        """Whether every compared value was the same."""
        return not self.mismatches


class ServedSample(msgspec.Struct, frozen=True):
    """One served vector, and the latest moment (epoch seconds) it can have been served."""

    served: Served
    recorded_at: float


async def read_samples(client: aioredis.Redis, keys: FeatureKeys, *, limit: int) -> list[ServedSample]:
    """The newest samples.

    Raises:
        StorageUnavailableError: the server does not answer.
    """
    with translated():
        found: Any = await client.xrevrange(keys.served, count=limit)
    return [
        ServedSample(_served.decode(values[b"b"]), int(entry.partition(b"-")[0]) / 1000)
        for entry, values in found
    ]


async def read_tail(client: aioredis.Redis, keys: FeatureKeys, partitions: int) -> list[Activity]:
    """The events that are logged and not archived. Read it before the archive, so that no event is in neither.

    Raises:
        StorageUnavailableError: the server does not answer.
    """
    events: list[Activity] = []
    for partition in range(partitions):
        after = "-"
        while entries := await read_log(client, keys, partition, after=after, count=PAGE_ENTRIES):
            for _, body in entries:
                events += activities_in(body) or ()
            after = f"({entries[-1][0]}"
    return events


def verify(samples: Sequence[ServedSample], tail: Sequence[Activity], archive: Archive) -> Report:
    """Replay samples offline and compare.

    Args:
        samples: From `read_samples`.
        tail: From `read_tail`.
        archive: Holds the archived events.

    Raises:
        SchemaMismatchError, UnreadableFileError: a file of the archive has other columns, or is damaged.
    """
    schema = b"".join(view.schema_hash for view in VIEWS)
    comparable = [sample for sample in samples if sample.served.schema == schema]
    names = {sample.served.advertiser_id for sample in comparable}
    by_name: dict[str, list[ServedSample]] = {}
    for sample in comparable:
        by_name.setdefault(sample.served.advertiser_id, []).append(sample)
    late = event_table([event for event in tail if event.advertiser_id in names])
    compared, unsettled = 0, 0
    counts: Counter[str] = Counter()
    examples: list[Mismatch] = []
    for table in _tables(archive, late, names):
        done, passed, found = _replay(table, by_name)
        compared += done
        unsettled += passed
        counts.update(mismatch.feature for mismatch in found)
        examples += found[: MAX_EXAMPLES - len(examples)]
    return Report(
        samples=len(samples),
        compared=compared,
        other_schema=len(samples) - len(comparable),
        unsettled=unsettled,
        mismatches=dict(counts),
        examples=examples,
    )


def _tables(archive: Archive, late: pa.Table, names: set[str]) -> Iterator[tuple[pa.Table, set[str]]]:
    """All events of the advertisers, whole advertisers at a time; those without any come last."""
    rest = set(names)
    for table in archive.read(advertisers=sorted(names)):
        there = set(table["advertiser_id"].unique().to_pylist()) & names
        rest -= there
        keep = pa.compute.is_in(late["advertiser_id"], pa.array(sorted(there), pa.string()))
        yield pa.concat_tables([table.cast(late.schema), late.filter(keep)]), there
    keep = pa.compute.is_in(late["advertiser_id"], pa.array(sorted(rest), pa.string()))
    yield late.filter(keep), rest


def _replay(
    found: tuple[pa.Table, set[str]], by_name: dict[str, list[ServedSample]]
) -> tuple[int, int, list[Mismatch]]:
    """The number of samples compared, the number with too many states, and the mismatches."""
    table, names = found
    moments = _moments(table)
    samples: list[ServedSample] = []
    rows: list[tuple[str, float, float]] = []
    ends: list[int] = []
    unsettled = 0
    for name in sorted(names):
        for sample in by_name[name]:
            states = _states(moments.get(name, ()), sample)
            if len(states) > MAX_STATES:
                unsettled += 1
                continue
            samples.append(sample)
            rows += [(name, sample.served.as_of, known_at) for known_at in states]
            ends.append(len(rows))
    if not rows:
        return 0, unsettled, []
    ids, as_of, known_at = zip(*rows, strict=True)
    entities = pa.table({"advertiser_id": pa.array(ids), "as_of": as_of, "known_at": known_at})
    answer = point_in_time(table, entities)
    values = np.stack([answer[name].to_numpy() for name in FEATURE_NAMES], axis=1)
    mismatches: list[Mismatch] = []
    start = 0
    for sample, end in zip(samples, ends, strict=True):
        mismatches += _differing(sample.served, values[start:end])
        start = end
    return len(samples), unsettled, mismatches


def _moments(table: pa.Table) -> dict[str, list[float]]:
    """The moments at which an event of each advertiser became known."""
    versions, names = versions_of(table)
    found: dict[str, list[float]] = {}
    ids = names.to_pylist()
    for number, moment in zip(versions.advertiser.tolist(), versions.known_from.tolist(), strict=True):
        found.setdefault(ids[number], []).append(moment)
    return found


def _states(moments: Sequence[float], sample: ServedSample) -> list[float]:
    """The moments whose knowledge the sample may hold: its watermark, and each later arrival."""
    first, last = min(sample.served.watermark, sample.recorded_at), sample.recorded_at
    return sorted({first, *(moment for moment in moments if first < moment <= last)})


def _differing(served: Served, states: Any) -> list[Mismatch]:
    """Empty where a state of knowledge agrees; else the mismatches with the latest."""
    values = np.array(served.values)
    same = (states == values) | (np.isnan(states) & np.isnan(values))
    if same.all(axis=1).any():
        return []
    return [
        Mismatch(
            feature=FEATURE_NAMES[at],
            advertiser_id=served.advertiser_id,
            as_of=served.as_of,
            served=_number(values[at]),
            offline=_number(states[-1, at]),
        )
        for at in np.flatnonzero(~same[-1]).tolist()
    ]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
