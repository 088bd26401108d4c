"""Is it only me? The change of spend of one advertiser among those of its size.

Size is what is spent in an active week. Advertisers in order of size are cut into bands of equal count; peers are
those of the same band that spent in the 28 days before the last 28, so that a change can be seen.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from models.dataset.matrix import Vector

_SIZE = "weekly_spend_mean"


@dataclass(frozen=True, slots=True)
class PeerPolicy:
    """How many bands, and from how many members a band says anything."""

    bands: int = 4
    min_peers: int = 20  # at least 1


@dataclass(frozen=True, slots=True)
class PeerComparison:
    """One advertiser among its peers, itself not counted."""

    peers: int
    median_change: float
    percentile: float | None  # share of peers that changed less, 0 to 1; None without an own change


def previous_28d(vector: Vector) -> float | None:
    """Spend of the 28 days before the last 28; None where it is not known."""
    recent, both = vector.get("spend_28d"), vector.get("spend_56d")
    return None if recent is None or both is None else max(0.0, both - recent)


def change_28d(vector: Vector) -> float | None:
    """Spend of the last 28 days over that of the 28 before, minus 1; None where those saw none."""
    recent, previous = vector.get("spend_28d"), previous_28d(vector)
    return None if recent is None or not previous else recent / previous - 1.0


class PeerTable:
    """The changes of many advertisers, by band of size. Make it with `build`; it does not change after."""

    def __init__(
        self,
        edges: tuple[float, ...],
        changes: tuple[list[float], ...],
        own: dict[str, float],
        min_peers: int,
    ) -> None:
        self._edges = edges  # lower bounds of the bands above the first, ascending
        self._changes = changes  # by band, ascending
        self._own = own
        self._min_peers = min_peers

    @classmethod
    def build(cls, vectors: Mapping[str, Vector], policy: PeerPolicy | None = None) -> PeerTable:
        """The table of all advertisers that have a size and a change.

        Args:
            vectors: Feature vectors by advertiser id.
            policy: Bands; there are fewer where they would be left with too few members.
        """
        policy = policy or PeerPolicy()
        known = [
            (size, change, advertiser_id)
            for advertiser_id, vector in vectors.items()
            if (size := vector.get(_SIZE)) is not None and (change := change_28d(vector)) is not None
        ]
        sizes = sorted(size for size, _, _ in known)
        # One member more than the minimum: an advertiser is not its own peer.
        bands = max(1, min(policy.bands, len(known) // (policy.min_peers + 1)))
        edges = tuple(sizes[len(sizes) * band // bands] for band in range(1, bands))
        changes: tuple[list[float], ...] = tuple([] for _ in range(bands))
        for size, change, _ in known:
            changes[bisect_right(edges, size)].append(change)
        for band in changes:
            band.sort()
        return cls(edges, changes, {name: change for _, change, name in known}, max(1, policy.min_peers))

    def __len__(self) -> int:
        return len(self._own)

    def compare(self, advertiser_id: str, vector: Vector) -> PeerComparison | None:
        """Where one advertiser stands; None where its size is not known or its peers are too few."""
        size = vector.get(_SIZE)
        if size is None:
            return None
        band = self._changes[bisect_right(self._edges, size)]
        own = self._own.get(advertiser_id)
        itself = len(band) if own is None else bisect_left(band, own)
        if itself < len(band) and band[itself] != own:
            itself = len(band)  # its size has moved it to another band since the table was built
        peers = len(band) - (itself < len(band))
        if peers < self._min_peers:
            return None
        middle = ((peers - 1) // 2, peers // 2)
        change = change_28d(vector)
        share = None
        if change is not None:
            below = bisect_left(band, change)
            share = (below - (itself < below)) / peers
        return PeerComparison(
            peers=peers,
            median_change=sum(band[at + (at >= itself)] for at in middle) / 2.0,
            percentile=share,
        )
