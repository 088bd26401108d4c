"""Feature vectors as a model takes them: many advertisers in one read, and from memory while storage is down.

storage ──one read──► rows
└──down──► what was read recently, or what the shards remember: the same rows, stale
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from features.online.result import Answer
from models.dataset.inputs import INPUTS
from models.dataset.matrix import Floats
from serve_deployments.serving.feature_reader import FeatureReader
from tocsin.errors import StorageUnavailableError

RECENCY = INPUTS.index("days_since_last_campaign")


@dataclass(frozen=True, slots=True)
class Rows:
    """Vectors of the advertisers that are known, in the order asked."""

    advertiser_ids: list[str]
    raw: Floats  # (advertisers, inputs); NaN: not defined
    stale: npt.NDArray[np.bool_]  # (advertisers,): older than their views allow, or from memory
    age_s: list[float | None]  # how old what is known of each is; None: not known
    as_of: float  # epoch seconds
    unknown: list[str] = field(default_factory=list)
    reason: str = ""  # why they are from memory, if they are

    def some(self, places: Sequence[int]) -> Rows:
        """Only the advertisers at these places."""
        chosen = np.asarray(places, dtype=np.intp)
        names = [self.advertiser_ids[place] for place in places]
        ages_s = [self.age_s[place] for place in places]
        return Rows(names, self.raw[chosen], self.stale[chosen], ages_s, self.as_of, reason=self.reason)


class VectorReader:
    """Reads vectors within a second, or remembers them.

    Args:
        reader: Features by advertiser.
    """

    def __init__(self, reader: FeatureReader) -> None:
        self._reader = reader

    async def read(self, advertiser_ids: Sequence[str], asked: float | None) -> Rows:
        """The vectors of advertisers, each given once.

        Args:
            advertiser_ids: Whose.
            asked: As of when, epoch seconds; None: now.

        Raises:
            StorageUnavailableError: storage is down and none of them is remembered.
        """
        try:
            return _rows(await self._reader.read(advertiser_ids, asked), "")
        except StorageUnavailableError as error:
            return _rows(await self._reader.recall(advertiser_ids, asked), error.message)

    async def active(self, since_s: float, limit: int) -> list[str]:
        """Advertisers with activity in the last `since_s` seconds, the most recently active first.

        Raises:
            StorageUnavailableError: storage does not answer.
        """
        as_of = await self._reader.moment(None)
        return await self._reader.store.active(as_of - since_s, limit=limit)


def _rows(answer: Answer, reason: str) -> Rows:
    """Those that did something before that moment."""
    raw, stale, names = answer.matrix(INPUTS), answer.stale(), answer.advertiser_ids
    ages_s = answer.ages_s()
    known = ~np.isnan(raw[:, RECENCY])
    if known.all():
        return Rows(list(names), raw, stale, ages_s, answer.as_of, reason=reason)
    kept = [name for name, ok in zip(names, known, strict=True) if ok]
    unknown = [name for name, ok in zip(names, known, strict=True) if not ok]
    ages_s = [age_s for age_s, ok in zip(ages_s, known, strict=True) if ok]
    return Rows(kept, raw[known], stale[known], ages_s, answer.as_of, unknown, reason)
