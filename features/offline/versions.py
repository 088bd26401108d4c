"""From a table of events to its versions: sorted columns, and from when to when each version was known."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.event_table import activities_of
from features.offline.timelines import Campaigns, Floats, Ints, Versions
from features.tiles import campaign_hash, content

_WORD: Final = 8
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)  # odd, bits well mixed: 2^64 by the golden ratio


def versions_of(events: pa.Table) -> tuple[Versions, pa.Array]:
    """The versions in a table of events, and the advertisers' ids by their number in it.

    A version repeated with the same content counts as known from when it was first.
    """
    table = events.unify_dictionaries().combine_chunks()
    advertisers = _encoded(table["advertiser_id"])
    campaign, campaigns = _campaigns(_encoded(table["campaign_id"]))
    advertiser = _indices(advertisers)
    time = table["event_time"].to_numpy()
    arrival = table["arrival"].to_numpy()
    known_from = np.where(table["backdated"].to_numpy(), np.minimum(time, arrival), arrival)
    superseded_at = np.full(len(time), np.inf)
    keep = _settle(table, advertiser, known_from, superseded_at)
    order = _by_time(advertiser, time)
    order = order if keep is None else order[keep[order]]
    versions = Versions(
        advertiser=advertiser[order],
        time=time[order],
        known_from=known_from[order],
        superseded_at=superseded_at[order],
        amount=table["amount"].to_numpy()[order],
        campaign=campaign[order],
        campaigns=campaigns,
    )
    return versions, advertisers.dictionary


def _encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], whole.type)
    return whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()


def _indices(column: pa.DictionaryArray) -> Ints:
    found: Ints = column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _campaigns(column: pa.DictionaryArray) -> tuple[Ints, Campaigns]:
    """Each event's campaign by the rank of its hash, -1 for none; and the campaigns."""
    names = column.dictionary.to_pylist()
    by_name = np.array([campaign_hash(name) for name in names], dtype=np.uint64)
    hashes, first, rank = np.unique(by_name, return_index=True, return_inverse=True)
    number = np.where([bool(name) for name in names], rank, -1).astype(np.int64)
    found = number[_indices(column)] if names else np.zeros(0, dtype=np.int64)
    return found, Campaigns(hashes, [names[at] for at in first.tolist()])


def _by_time(advertiser: Ints, time: Floats) -> Ints:
    """The order by advertiser and event time; one sort of integers where whole seconds decide."""
    if not len(time):
        return np.zeros(0, dtype=np.int64)
    second = np.floor(time).astype(np.int64)
    second -= second.min()
    key = advertiser * (int(second.max()) + 1) + second
    order = np.argsort(key)
    key, time = key[order], time[order]
    if np.any((key[1:] == key[:-1]) & (time[1:] < time[:-1])):
        order = order[np.lexsort((time, key))]
    found: Ints = order
    return found


def _settle(
    table: pa.Table, advertiser: Ints, known_from: Floats, superseded_at: Floats
) -> npt.NDArray[np.bool_] | None:
    """Set `known_from` and `superseded_at` of events with several versions; returns the mask of rows to keep.

    None: no event has two versions, the usual case, which fingerprints alone show.
    """
    prints = fingerprints(table["event_id"]) ^ (advertiser.astype(np.uint64) * _MIX)
    ordered = np.sort(prints)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return None
    suspects = np.flatnonzero(np.isin(prints, twice))
    by_event: dict[tuple[str, str], list[tuple[int, Any]]] = defaultdict(list)
    for at, activity in zip(suspects.tolist(), activities_of(table.take(suspects)), strict=True):
        by_event[activity.advertiser_id, activity.event_id].append((at, activity))
    keep = np.ones(len(advertiser), dtype=np.bool_)
    for versions in by_event.values():
        versions.sort(key=lambda version: (version[1].arrival, content(version[1]), version[1].backdated))
        last = versions[0]
        for version in versions[1:]:
            if content(version[1]) == content(last[1]):
                keep[version[0]] = False
                continue
            known_from[version[0]] = superseded_at[last[0]] = version[1].arrival
            last = version
    return keep


def fingerprints(texts: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each text, to find texts that may be equal: equal texts have equal hashes."""
    column = texts.combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.string())
    if not len(column):
        return np.zeros(0, dtype=np.uint64)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int32)[column.offset : column.offset + len(column) + 1].astype(
        np.int64
    )
    # Every 8 bytes at any position as one word; the last ones reach into zeros.
    padded = np.zeros((data.size if data is not None else 0) + _WORD, dtype=np.uint8)
    if data is not None:
        padded[: data.size] = np.frombuffer(data, dtype=np.uint8)
    words = np.ndarray((len(padded) - _WORD + 1,), dtype="<u8", buffer=padded.data, strides=(1,))
    start, length = bounds[:-1], np.diff(bounds)
    found = length.astype(np.uint64)
    for at in range(0, int(length.max()), _WORD):
        left = np.clip(length - at, 0, _WORD)
        mask = np.where(
            left >= _WORD,
            ~np.uint64(0),
            (np.uint64(1) << (8 * np.minimum(left, 7)).astype(np.uint64)) - np.uint64(1),
        )
        word = words[np.minimum(start + at, len(words) - 1)] & mask
        found = (found ^ word) * _MIX
        found ^= found >> np.uint64(29)
    return found
