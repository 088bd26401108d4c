"""What a read found: the vectors of many entities as one matrix, each view with its age and status.

    bodies, joined ──► matrix, a row an entity ──► columns, matrix, stale: all entities at once
                                └──────────────► reads: the views of one entity, made when asked for

Rows that no stored vector answers for are told one by one (`Answer.override`).

| status  | means |
|---------|-------|
| present | known up to at most the view's TTL ago |
| stale   | known, but older, or storage was down and memory answered |
| missing | the advertiser is known, the value is not defined as of that moment |
| never   | nobody told us of this advertiser |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from features.online.packing import PACKERS
from tocsin.streams.records import partition_of

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Status(StrEnum):
    """What a value is worth."""

    PRESENT = "present"
    STALE = "stale"
    MISSING = "missing"
    NEVER = "never"


Age = tuple[
    Status, float | None
]  # PRESENT or STALE, and seconds; None where no shard ever said how far it is


class VectorRead(Struct, gc=False):
    """One view of one entity as read. `age_s` is None where no shard ever said how far it is."""

    status: Status
    age_s: float | None
    event_time: float | None  # of the newest event that counted
    values: tuple[float, ...]  # in the view's order; NaN: not defined


NEVER: Final = tuple(
    VectorRead(Status.NEVER, None, None, (float("nan"),) * packer.count) for packer in PACKERS
)
MISSING: Final = tuple(VectorRead(Status.MISSING, None, None, read.values) for read in NEVER)

_PLACES: Final = {
    name: place
    for packer in PACKERS
    for name, place in zip(packer.view.names, range(packer.values.start, packer.values.stop), strict=True)
}
_VALUES: Final = np.array(list(_PLACES.values()))


@lru_cache(maxsize=256)
def _columns(names: tuple[str, ...]) -> npt.NDArray[np.intp]:
    return np.array([_PLACES[name] for name in names], dtype=np.intp)


def reads_of(row: Sequence[float], ages: Sequence[Age]) -> list[VectorRead]:
    """The views of one entity from its `ENTITY_WORDS` numbers, all of which fit."""
    return [
        VectorRead(status, age_s, row[packer.newest], tuple(row[packer.values]))
        for packer, (status, age_s) in zip(PACKERS, ages, strict=True)
    ]


class Answer:
    """All views of the entities asked for, in the order asked.

    Args:
        advertiser_ids: The entities.
        as_of: The moment asked for.
        bodies: Their stored values, all of `ENTITY_BYTES`.
        matrix: The same joined, shape `(entities, ENTITY_WORDS)`; rows that are told are written to.
        ages: Of each view, by partition.
        partitions: How many the activity lane has.
    """

    def __init__(
        self,
        advertiser_ids: Sequence[str],
        as_of: float,
        *,
        bodies: Sequence[bytes],
        matrix: Floats,
        ages: Mapping[int, Sequence[Age]],
        partitions: int,
    ) -> None:
        self.advertiser_ids = advertiser_ids
        self.as_of = as_of
        self.bodies = bodies
        self.ages = ages
        self.told: dict[int, list[VectorRead]] = {}  # entities that no stored vectors answer for
        self.wanted: list[str] = []  # whose vectors should be computed again
        self.unfit: Counter[str] = Counter()  # vectors of other definitions, by view
        self._matrix = matrix
        self._partitions = partitions
        self._owners: list[int] | None = None

    @property
    def owners(self) -> Sequence[int]:
        """The partition of each entity."""
        if self._owners is None:
            self._owners = [partition_of(name, self._partitions) for name in self.advertiser_ids]
        return self._owners

    def ages_of(self, place: int) -> Sequence[Age]:
        """How old the knowledge of one entity is, by view."""
        return self.ages[self.owners[place]]

    def override(self, place: int, reads: Sequence[VectorRead]) -> None:
        """Set the views of one entity, in the order of `VIEWS`."""
        self.told[place] = list(reads)
        row = self._matrix[place]
        for packer, read in zip(PACKERS, reads, strict=True):
            row[packer.values] = read.values

    # ------------------------------------------------------------------ one entity

    def reads(self, place: int) -> list[VectorRead]:
        """All views of one entity, in the order of `VIEWS`."""
        told = self.told.get(place)
        if told is not None:
            return told
        return reads_of(self._matrix[place].tolist(), self.ages_of(place))

    def vector(self, place: int) -> tuple[float, ...]:
        """The values of one entity over all views, in the order of `FEATURES`."""
        return tuple(self._matrix[place].take(_VALUES).tolist())

    def statuses(self, place: int) -> list[Status]:
        """Of each view of one entity."""
        return [read.status for read in self.reads(place)]

    # ------------------------------------------------------------------ all entities

    def matrix(self, names: Sequence[str]) -> Floats:
        """Some features of all entities, shape `(entities, len(names))`; NaN where not defined.

        Raises:
            KeyError: a name is not a stored feature.
        """
        return self._matrix.take(_columns(tuple(names)), axis=1)

    def columns(self, names: Sequence[str]) -> dict[str, list[float]]:
        """The same as columns over the entities.

        Raises:
            KeyError: a name is not a stored feature.
        """
        return dict(zip(names, self.matrix(names).T.tolist(), strict=True))

    def ages_s(self) -> list[float | None]:
        """How old the knowledge of each entity is, seconds, by its oldest view; None: not known."""
        by_owner = {owner: _oldest(age_s for _, age_s in ages) for owner, ages in self.ages.items()}
        found = [by_owner[owner] for owner in self.owners]
        for place, reads in self.told.items():
            found[place] = _oldest(read.age_s for read in reads)
        return found

    def stale(self) -> Bools:
        """Where any view is stale, shape `(entities,)`."""
        behind = {
            owner for owner, ages in self.ages.items() if any(status is Status.STALE for status, _ in ages)
        }
        found = np.zeros(len(self.advertiser_ids), dtype=np.bool_)
        if behind:
            found[:] = [owner in behind for owner in self.owners]
        for place, reads in self.told.items():
            found[place] = any(read.status is Status.STALE for read in reads)
        return found


def _oldest(ages_s: Iterable[float | None]) -> float | None:
    known = [age_s for age_s in ages_s if age_s is not None]
    return max(known, default=None)
