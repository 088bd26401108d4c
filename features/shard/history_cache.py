"""The histories a shard remembers, and whether it may still believe them.

    unknown ──handle──► pending (worked out, perhaps written) ──the server holds its token──► believed
       ▲                                                                                        │
       └────────────── the server holds another token: somebody else wrote ─────────────────────┘

Each write of a partition's state leaves a token on the server that nobody else can have written. What stands under
the same token is therefore what the server holds, whether or not its answer ever arrived.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from msgspec import Struct, field

from features.tiles import History

MAX_TILES = 500_000  # some 100 MB
NO_TOKEN = b""


class _Partition(Struct):
    """One partition: the token its histories stand under, and what was worked out after it."""

    token: bytes = NO_TOKEN
    histories: OrderedDict[str, History] = field(default_factory=OrderedDict)
    next_token: bytes = NO_TOKEN
    next_histories: Mapping[str, History] = {}


class HistoryCache:
    """Bounded; what was used longest ago goes first.

    Args:
        max_tiles: The bound, in tiles over all partitions.
    """

    def __init__(self, *, max_tiles: int = MAX_TILES) -> None:
        self.tiles = 0
        self._max_tiles = max_tiles
        self._partitions: dict[int, _Partition] = {}

    def believe(self, partition: int, token: bytes) -> None:
        """Tell what token the server holds: what stands under another is forgotten."""
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
        """What is believed of an advertiser."""
        found = self._partitions.get(partition)
        history = found.histories.get(advertiser_id) if found else None
        if found and history:
            found.histories.move_to_end(advertiser_id)
        return history

    def learn(self, partition: int, advertiser_id: str, history: History) -> None:
        """Keep what was read from the server under the token believed now."""
        self._put(self._partitions.setdefault(partition, _Partition()), advertiser_id, history)

    def expect(self, partition: int, token: bytes, histories: Mapping[str, History]) -> None:
        """What will be believed once the server holds `token`."""
        found = self._partitions.setdefault(partition, _Partition())
        found.next_token, found.next_histories = token, histories

    def trim(self) -> None:
        """Forget down to the bound; not while what was looked up is still in use."""
        while self.tiles > self._max_tiles:
            fullest = max(self._partitions.values(), key=lambda found: len(found.histories))
            _, history = fullest.histories.popitem(last=False)
            self.tiles -= _size(history)

    def last_known(self, partition: int, advertiser_id: str) -> History | None:
        """For when the server cannot be asked: the best there is. Safe to call from another thread."""
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
