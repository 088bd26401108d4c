"""The result of a read: the vectors of many entities as one matrix, each view with its age and status.

    bodies, joined ──► matrix, a row an entity ──► columns, matrix, stale: all entities at once
                                └──────────────► reads: the views of one entity, made when asked for

A row that no stored vector answers for is overridden (`Answer.override`).

| status  | means |
|---------|-------|
| present | known up to at most the view's TTL ago |
| stale   | known, but older, or storage was down and memory answered |
| missing | the advertiser is known, the value is not defined as of that moment |
| never   | nothing was ever recorded about this advertiser |
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
    """How far a value can be relied on."""

    PRESENT = "present"
    STALE = "stale"
    MISSING = "missing"
    NEVER = "never"


# PRESENT or STALE, and seconds; None: no watermark was ever written.
Age = tuple[Status, float | None]


class VectorRead(Struct, gc=False):
    """One view of one entity as read."""

    status: Status
    age_s: float | None  # None: no watermark was ever written
    event_time: float | None  # epoch seconds, of the newest event that counted
    values: tuple[float, ...]  # in the view's order; NaN: not defined


NEVER: Final = tuple(
    VectorRead(Status.NEVER, None, None, (float("nan"),) * packer.count) for packer in PACKERS
)
MISSING: Final = tuple(VectorRead(Status.MISSING, None, None, read.values) for read in NEVER)

_WORD_OF: Final = {
    name: word
    for packer in PACKERS
    for name, word in zip(packer.view.names, range(packer.values.start, packer.values.stop), strict=True)
}
_VALUES: Final = np.array(list(_WORD_OF.values()))


@lru_cache(maxsize=256)
def _columns(names: tuple[str, ...]) -> npt.NDArray[np.intp]:
    return np.array([_WORD_OF[name] for name in names], dtype=np.intp)


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
        matrix: The same joined, shape `(entities, ENTITY_WORDS)`; `override` writes to it.
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
        self.overrides: dict[int, list[VectorRead]] = {}  # by index of the entity
        self.wanted: list[str] = []  # whose vectors should be materialized again
        self.schema_mismatches: Counter[str] = Counter()  # vectors of other definitions, by view
        self._matrix = matrix
        self._partitions = partitions
        self._owners: list[int] | None = None

    @property
    def owners(self) -> Sequence[int]:
        """The partition of each entity."""
        if self._owners is None:
            self._owners = [partition_of(name, self._partitions) for name in self.advertiser_ids]
        return self._owners

    def ages_of(self, index: int) -> Sequence[Age]:
        """Status and age of each view of one entity, by its partition's watermark."""
        return self.ages[self.owners[index]]

    def override(self, index: int, reads: Sequence[VectorRead]) -> None:
        """Replace the views of one entity, in the order of `VIEWS`."""
        self.overrides[index] = list(reads)
        row = self._matrix[index]
        for packer, read in zip(PACKERS, reads, strict=True):
            row[packer.values] = read.values

    # ------------------------------------------------------------------ one entity

    def reads(self, index: int) -> list[VectorRead]:
        """All views of one entity, in the order of `VIEWS`."""
        override = self.overrides.get(index)
        if override is not None:
            return override
        return reads_of(self._matrix[index].tolist(), self.ages_of(index))

    def vector(self, index: int) -> tuple[float, ...]:
        """The values of one entity over all views, in the order of `FEATURES`."""
        return tuple(self._matrix[index].take(_VALUES).tolist())

    def statuses(self, index: int) -> list[Status]:
        """The status of each view of one entity, in the order of `VIEWS`."""
        return [read.status for read in self.reads(index)]

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
        """The age of each entity's oldest view, seconds; None: not known."""
        by_owner = {owner: _oldest(age_s for _, age_s in ages) for owner, ages in self.ages.items()}
        found = [by_owner[owner] for owner in self.owners]
        for index, reads in self.overrides.items():
            found[index] = _oldest(read.age_s for read in reads)
        return found

    def stale(self) -> Bools:
        """Where any view is stale, shape `(entities,)`."""
        stale_owners = {
            owner for owner, ages in self.ages.items() if any(status is Status.STALE for status, _ in ages)
        }
        found = np.zeros(len(self.advertiser_ids), dtype=np.bool_)
        if stale_owners:
            found[:] = [owner in stale_owners for owner in self.owners]
        for index, reads in self.overrides.items():
            found[index] = any(read.status is Status.STALE for read in reads)
        return found


def _oldest(ages_s: Iterable[float | None]) -> float | None:
    known = [age_s for age_s in ages_s if age_s is not None]
    return max(known, default=None)
