"""The histories a shard keeps in memory, and whether they are still those the server holds.

    unknown ──handle──► staged (computed, perhaps written) ──the server holds its token──► confirmed
       ▲                                                                                    │
       └────────────── the server holds another token: another shard wrote ────────────────┘

Each write of a partition's state leaves a random token on the server. A history cached under the same token is
therefore what the server holds, whether or not its answer ever arrived.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from msgspec import Struct, field

from features.tiles import History

MAX_TILES = 500_000  # some 100 MB
NO_TOKEN = b""


class _Partition(Struct):
    """One partition: its histories with the token they are valid under, and the staged ones with theirs."""

    token: bytes = NO_TOKEN
    histories: OrderedDict[str, History] = field(default_factory=OrderedDict)
    next_token: bytes = NO_TOKEN
    next_histories: Mapping[str, History] = {}


class HistoryCache:
    """Bounded; the least recently used is evicted first.

    Args:
        max_tiles: The bound, in tiles over all partitions.
    """

    def __init__(self, *, max_tiles: int = MAX_TILES) -> None:
        self.tiles = 0
        self._max_tiles = max_tiles
        self._partitions: dict[int, _Partition] = {}

    def confirm(self, partition: int, token: bytes) -> None:
        """Take the token the server holds: histories under another one are dropped, staged ones under it confirmed."""
        found = self._partitions.setdefault(partition, _Partition())
        if found.next_token and token == found.next_token:
            for advertiser_id, history in found.next_histories.items():
                self._put(found, advertiser_id, history)
            found.token = token
        elif token != found.token or not token:
            self.tiles -= sum(map(_size, found.histories.values()))
            found.histories.clear()
            found.token = token
        found.next_token, found.next_histories = NO_TOKEN, {}

    def get(self, partition: int, advertiser_id: str) -> History | None:
        """The confirmed history of an advertiser."""
        found = self._partitions.get(partition)
        history = found.histories.get(advertiser_id) if found else None
        if found and history:
            found.histories.move_to_end(advertiser_id)
        return history

    def add(self, partition: int, advertiser_id: str, history: History) -> None:
        """Keep a history read from the server under the present token."""
        self._put(self._partitions.setdefault(partition, _Partition()), advertiser_id, history)

    def stage(self, partition: int, token: bytes, histories: Mapping[str, History]) -> None:
        """Hold histories back until the server holds `token`."""
        found = self._partitions.setdefault(partition, _Partition())
        found.next_token, found.next_histories = token, histories

    def trim(self) -> None:
        """Evict down to the bound; not while histories of a unit are still in use."""
        while self.tiles > self._max_tiles:
            fullest = max(self._partitions.values(), key=lambda found: len(found.histories))
            _, history = fullest.histories.popitem(last=False)
            self.tiles -= _size(history)

    def last_known(self, partition: int, advertiser_id: str) -> History | None:
        """The newest history, staged or confirmed, for when storage is down. Safe to call from another thread."""
        found = self._partitions.get(partition)
        if found is None:
            return None
        return found.next_histories.get(advertiser_id) or found.histories.get(advertiser_id)

    def __len__(self) -> int:
        return sum(len(found.histories) for found in self._partitions.values())

    def _put(self, found: _Partition, advertiser_id: str, history: History) -> None:
        known = found.histories.pop(advertiser_id, None)
        self.tiles += _size(history) - (_size(known) if known else 0)
        found.histories[advertiser_id] = history


def _size(history: History) -> int:
    return len(history.days) + len(history.hours) + len(history.weeks)
