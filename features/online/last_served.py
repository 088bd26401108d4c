"""What was answered lately, kept for when storage is down: stored vectors as they were, and how old they were.

Bytes are kept, not reads: nearly all of what is kept is never asked for again.
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
    """The entities last answered for.

    Args:
        most: How many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # As of when; what no stored vectors answered for; else their bytes and ages.
        self._kept: OrderedDict[str, tuple[float, Sequence[VectorRead], bytes, Sequence[Age]]] = OrderedDict()

    def keep(self, answer: Answer) -> None:
        """An answer about now. Entities of unknown age are left out."""
        kept, told, as_of = self._kept, answer.told, answer.as_of
        rows = zip(answer.advertiser_ids, answer.bodies, answer.owners, strict=True)
        for place, (name, body, owner) in enumerate(rows):
            reads = told.get(place, _NO_READS)
            ages = answer.ages[owner]
            if (reads[0].age_s if reads else ages[0][1]) is None:
                continue
            kept[name] = (as_of, reads, body, ages)
            kept.move_to_end(name)
        while len(kept) > self._most:
            kept.popitem(last=False)

    def find(self, name: str, as_of: float) -> list[VectorRead] | None:
        """What was answered, as stale, where that is still within the time to live of each view."""
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
