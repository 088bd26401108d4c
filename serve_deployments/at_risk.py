"""Who is most likely to leave: a ranking of everybody active, made when asked for and kept for a minute."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from serve_deployments.serving.predictor import Predictor
from tocsin.clock import Clock, to_datetime
from tocsin.wire.churn import AtRiskAnswer, ChurnAnswer

ACTIVE_S = 28 * 86_400.0
MAX_SCORED = 10_000  # the most recently active of them
PAGE = 250
RANKED = 1_000  # kept, the most that can be asked for
RANKING_TTL_S = 60.0


class _Ranking(msgspec.Struct, frozen=True):
    names: list[str]
    scored: int
    as_of: float  # epoch seconds
    made_at: float  # on the stopwatch


class AtRisk:
    """Ranks the active advertisers of one platform.

    Args:
        predictor: Who scores them.
        clock: Time.
    """

    def __init__(self, predictor: Predictor, clock: Clock) -> None:
        self._predictor = predictor
        self._clock = clock
        self._making = asyncio.Lock()  # one at a time, however many ask
        self._ranking: _Ranking | None = None

    async def answer(self, limit: int) -> AtRiskAnswer:
        """The first of the ranking, each predicted again with its drivers.

        Raises:
            StorageUnavailableError: storage does not answer, and there is no ranking yet.
        """
        ranking = await self._fresh()
        known, _ = await self._predictor.predict(ranking.names[:limit], None) if ranking.names else ([], [])
        known.sort(key=_order)
        return AtRiskAnswer(
            predictions=known,
            scored=ranking.scored,
            as_of=to_datetime(ranking.as_of),
            age_s=round(self._clock.monotonic() - ranking.made_at, 3),
            degraded=any(answer.degraded for answer in known),
        )

    async def _fresh(self) -> _Ranking:
        async with self._making:
            kept = self._ranking
            if kept is None or not kept.names or self._clock.monotonic() - kept.made_at > RANKING_TTL_S:
                self._ranking = kept = await self._make()
            return kept

    async def _make(self) -> _Ranking:
        """Page by page, so that other requests get their turn."""
        as_of = await self._predictor.reader.moment(None)
        names = await self._predictor.vectors.active(ACTIVE_S, MAX_SCORED)
        found: list[ChurnAnswer] = []
        for start in range(0, len(names), PAGE):
            known, _ = await self._predictor.predict(names[start : start + PAGE], None, explain=False)
            found += known
        return _Ranking(_ranked(found), len(found), as_of, self._clock.monotonic())


def _ranked(answers: Sequence[ChurnAnswer]) -> list[str]:
    return [answer.advertiser_id for answer in sorted(answers, key=_order)[:RANKED]]


def _order(answer: ChurnAnswer) -> tuple[float, str]:
    """The likeliest first, ties by name."""
    return -answer.probability, answer.advertiser_id
