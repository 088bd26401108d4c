"""The vectors last served, kept for when storage is down: as they were stored, with their age.

Bytes are kept, not decoded reads: most of them are never read again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from features.online.packing import PACKERS
from features.online.result import Age, Answer, Status, VectorRead, reads_of

_NO_READS: Final[Sequence[VectorRead]] = ()


class LastServed:
    """The vectors of the entities last served; the oldest are dropped first.

    Args:
        max_entities: How many entities are kept.
    """

    def __init__(self, max_entities: int) -> None:
        self._max_entities = max_entities
        # `as_of`; the views of an overridden entity, else none; its stored bytes; the age of each view.
        self._kept: OrderedDict[str, tuple[float, Sequence[VectorRead], bytes, Sequence[Age]]] = OrderedDict()

    def keep(self, answer: Answer) -> None:
        """Keep an answer as of now, in place of older ones. Entities of unknown age are left out."""
        kept, overrides, as_of = self._kept, answer.overrides, answer.as_of
        rows = zip(answer.advertiser_ids, answer.bodies, answer.owners, strict=True)
        for index, (name, body, owner) in enumerate(rows):
            reads = overrides.get(index, _NO_READS)
            ages = answer.ages[owner]
            if (reads[0].age_s if reads else ages[0][1]) is None:
                continue
            if (known := kept.get(name)) is not None and known[0] > as_of:
                continue  # that answer was asked for earlier, and took longer
            kept[name] = (as_of, reads, body, ages)
            kept.move_to_end(name)
        while len(kept) > self._max_entities:
            kept.popitem(last=False)

    def find(self, name: str, as_of: float) -> list[VectorRead] | None:
        """The views last served, marked stale, in the order of `VIEWS`; None where one is older than its TTL."""
        found = self._kept.get(name)
        if found is None:
            return None
        then, reads, body, ages = found
        if not reads:
            reads = reads_of(np.frombuffer(body, dtype="<f8").tolist(), ages)
        aged: list[VectorRead] = []
        for packer, read in zip(PACKERS, reads, strict=True):
            age_s = max(0.0, as_of - then) + (read.age_s or 0.0)
            if age_s > packer.view.ttl_s:
                return None
            aged.append(msgspec.structs.replace(read, status=Status.STALE, age_s=age_s))
        return aged
