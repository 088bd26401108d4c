"""Feature vectors as a model takes them: many advertisers in one read, and from memory while storage is down.

storage ──one read──► rows ──remembered──► while storage is down: the same rows, stale, with their age
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from features.definitions import FEATURE_NAMES
from features.tiles import AdvertiserHistory
from features.vectors import compute
from models.matrix import Floats, Vector, to_raw
from serve_deployments.reading import FeatureReader
from tocsin.errors import NotFoundError, StorageUnavailableError

INPUTS = FEATURE_NAMES  # what models see, in the order of their columns
RECENCY = INPUTS.index("days_since_last_campaign")
REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class Rows:
    """Vectors of the advertisers that are known, in the order asked."""

    advertiser_ids: list[str]
    raw: Floats  # (advertisers, inputs); NaN: not defined
    stale: npt.NDArray[np.bool_]  # (advertisers,): older than their views allow, or from memory
    as_of: float  # epoch seconds
    unknown: list[str] = field(default_factory=list)
    why: str = ""  # why they are from memory, if they are

    def some(self, places: Sequence[int]) -> Rows:
        """Only the advertisers at these places."""
        chosen = np.asarray(places, dtype=np.intp)
        names = [self.advertiser_ids[place] for place in places]
        return Rows(names, self.raw[chosen], self.stale[chosen], self.as_of, why=self.why)


class VectorReader:
    """Reads vectors within a second, or remembers them.

    Args:
        reader: Features by advertiser.
    """

    def __init__(self, reader: FeatureReader) -> None:
        self._reader = reader
        self._recent: OrderedDict[str, Floats] = OrderedDict()

    async def read(self, advertiser_ids: Sequence[str], asked: float | None) -> Rows:
        """The vectors of advertisers, each given once.

        Args:
            advertiser_ids: Whose.
            asked: As of when, epoch seconds; None: now.

        Raises:
            StorageUnavailableError: storage is down and none of them is remembered.
        """
        try:
            as_of = await self._reader.moment(asked)
            histories = await self._reader.histories(advertiser_ids)
        except StorageUnavailableError as error:
            if asked is not None:
                raise
            return await self._remembered(advertiser_ids, error)
        names, vectors, unknown = [], [], []
        for name, history in zip(advertiser_ids, histories, strict=True):
            vector = _vector(history, as_of)
            if vector is None:
                unknown.append(name)
                continue
            names.append(name)
            vectors.append(vector)
        raw = to_raw(vectors, INPUTS)
        if asked is None:
            self._remember(names, raw)
        return Rows(names, raw, np.zeros(len(names), dtype=np.bool_), as_of, unknown)

    async def active(self, since_s: float, limit: int) -> list[str]:
        """Advertisers with activity in the last `since_s` seconds, the most recently active first.

        Raises:
            StorageUnavailableError: storage does not answer.
        """
        as_of = await self._reader.moment(None)
        return await self._reader.store.active(as_of - since_s, limit=limit)

    def _remember(self, names: Sequence[str], raw: Floats) -> None:
        for name, row in zip(names, raw, strict=True):
            self._recent[name] = row
            self._recent.move_to_end(name)
        while len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)

    async def _remembered(self, advertiser_ids: Sequence[str], error: StorageUnavailableError) -> Rows:
        names = [name for name in advertiser_ids if name in self._recent]
        if not names:
            raise error
        as_of = await self._reader.moment(None)
        raw = np.array([self._recent[name] for name in names])
        rest = [name for name in advertiser_ids if name not in self._recent]
        return Rows(names, raw, np.ones(len(names), dtype=np.bool_), as_of, rest, error.message)


def _vector(history: AdvertiserHistory | None, as_of: float) -> Vector | None:
    """None where nothing is known of it before that moment."""
    try:
        return None if history is None else compute(history, as_of)
    except NotFoundError:
        return None
