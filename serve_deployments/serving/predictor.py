"""Predictions, step by step down a ladder, with a model on trial alongside the champion.

    rows ──► canary's share ──► model on trial ──fails, or too slow──┐
        └──► the others ──────► champion ◄───────────────────────────┘
                                   └──none, or fails──► the model before ──► recency, degraded

    features: live ──storage down──► as last read, degraded ──none──► the base rate, degraded

What a request cannot see: each answer's rows are offered to the trial (`models.rollout.shadow`), after the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial

import msgspec
import numpy as np

from models.prediction.churn import ChurnModel, recency_answers
from models.registry.lineup import RolloutStage
from models.registry.registry import Registry
from models.rollout.log_throttle import LogThrottle
from models.rollout.observation_store import ObservationStore
from models.rollout.shadow import Offer, Shadow, Trial
from serve_deployments.serving.feature_reader import FeatureReader
from serve_deployments.serving.loaded_models import BrokenModel, LoadedModel, LoadedModels
from serve_deployments.serving.vector_reader import RECENCY, Rows, VectorReader
from tocsin.clock import Clock, to_datetime
from tocsin.errors import StorageUnavailableError
from tocsin.settings import Settings
from tocsin.wire.churn import ChurnAnswer

INLINE_ROWS = 128  # with more, the model takes long enough to keep other requests waiting
CANARY_DEADLINE_S = 0.25
THREADS = 3

Answers = tuple[list[ChurnAnswer], list[str]]


class Predictor:
    """Answers for advertisers; knows no HTTP.

    Args:
        settings: Server, registry and the meaning of "now".
        clock: Time.
        registry: Instead of the settings' own.
    """

    def __init__(self, settings: Settings, clock: Clock, registry: Registry | None = None) -> None:
        self.reader = FeatureReader(settings, clock)
        self.vectors = VectorReader(self.reader)
        self.models = LoadedModels(registry or Registry(settings.models_location, clock=clock), clock)
        self._clock = clock
        self._complaints = LogThrottle(clock)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="models")
        observed = ObservationStore(self.reader.client, namespace=settings.namespace)
        self.shadow = Shadow(observed, self._threads, sample=settings.shadow_sample, clock=clock)
        self._followed = LoadedModel()
        self._slots = asyncio.Semaphore(THREADS - 1)  # one is left for shadow scoring

    async def follow(self) -> None:
        """Look what the registry says, and put on trial what it names."""
        now = await self.models.follow()
        if now is self._followed:
            return
        self._followed = now
        if now.judged is None or now.reference is None:
            self.shadow.watch(None)
            return
        horizon_s = (now.champion.card.horizon_days if now.champion else 28) * 86_400.0
        self.shadow.watch(Trial(now.lineup.trial, now.lineup.since, now.judged, now.reference, horizon_s))

    async def predict(
        self, advertiser_ids: Sequence[str], asked: float | None, *, explain: bool = True
    ) -> Answers:
        """Predictions in the order asked, and the ids that are not known.

        Raises:
            StorageUnavailableError: no features and no model: nothing can be said.
        """
        serving = await self.models.current()
        try:
            rows = await self.vectors.read(advertiser_ids, asked)
        except StorageUnavailableError as error:
            if serving.champion is None:
                raise
            return self._base_rates(serving.champion, advertiser_ids, error.message), []
        answers = await self._answer(serving, rows, explain=explain)
        unknown = rows.unknown
        if rows.reason:  # whether the rest is known cannot be determined now
            if serving.champion is not None:
                answers += self._base_rates(serving.champion, rows.unknown, rows.reason)
                unknown = []
            by_id = {answer.advertiser_id: answer for answer in answers}
            answers = [by_id[name] for name in advertiser_ids if name in by_id]
        elif asked is None and self._followed.lineup.judged:
            self._offer(serving, rows)
        return answers, unknown

    def _offer(self, serving: LoadedModel, rows: Rows) -> None:
        """To the trial: those who are active. Of others no model was taught anything, and what it says is chance."""
        active_days = serving.champion.card.active_window_days if serving.champion else 0
        active = np.flatnonzero(rows.raw[:, RECENCY] < active_days)
        if len(active):
            some = rows.some(active.tolist())
            self.shadow.offer(Offer(some.advertiser_ids, some.raw, some.stale, some.as_of))

    async def _answer(self, serving: LoadedModel, rows: Rows, *, explain: bool) -> list[ChurnAnswer]:
        """Answers in the order of the rows."""
        if not rows.advertiser_ids:
            return []
        lineup = serving.lineup
        if lineup.stage is not RolloutStage.CANARY or serving.judged is None:
            return await self._by_champion(serving, rows, explain=explain)
        ours = [lineup.answers(name) == lineup.champion for name in rows.advertiser_ids]
        kept = [place for place, own in enumerate(ours) if own]
        tried = [place for place, own in enumerate(ours) if not own]
        found: dict[int, ChurnAnswer] = {}
        if tried:
            answers = await self._by_judged(serving.judged, rows.some(tried), explain=explain)
            if answers is None:
                kept = list(range(len(ours)))
            else:
                found.update(zip(tried, answers, strict=True))
        if kept:
            answers = await self._by_champion(serving, rows.some(kept), explain=explain)
            found.update(zip(kept, answers, strict=True))
        return [found[place] for place in range(len(ours))]

    async def _by_judged(
        self, model: ChurnModel | BrokenModel, rows: Rows, *, explain: bool
    ) -> list[ChurnAnswer] | None:
        """By the model on trial, within its deadline; None: the champion has to."""
        if isinstance(model, BrokenModel):
            self.shadow.observations.answered(failed=True)
            return None
        try:
            async with asyncio.timeout(CANARY_DEADLINE_S):
                await self._slots.acquire()
        except TimeoutError:  # those that hold the threads are late, if it is slow
            return None
        work = asyncio.get_running_loop().run_in_executor(
            self._threads, partial(self._called, model, rows, explain=explain)
        )
        work.add_done_callback(self._tried)
        await asyncio.wait({work}, timeout=CANARY_DEADLINE_S)
        if not work.done():
            self.shadow.observations.answered(late=True)
            return None
        answers = work.result()
        self.shadow.observations.answered(failed=answers is None)
        return None if answers is None else _marked(answers, rows)

    def _tried(self, work: asyncio.Future[list[ChurnAnswer] | None]) -> None:
        self._slots.release()
        if not work.cancelled():
            work.exception()  # looked at: nobody waits for it after the deadline

    async def _by_champion(self, serving: LoadedModel, rows: Rows, *, explain: bool) -> list[ChurnAnswer]:
        """By the champion; where it fails, by the model before; where there is none, by recency."""
        reason = serving.reason
        spare = serving.reference if serving.lineup.stage is RolloutStage.WATCH else None
        for model in (serving.champion, spare):
            if not isinstance(model, ChurnModel):
                continue
            call = partial(self._called, model, rows, explain=explain)
            inline = len(rows.advertiser_ids) <= INLINE_ROWS
            answers = call() if inline else await asyncio.to_thread(call)
            if model is serving.judged:
                self.shadow.observations.answered(failed=answers is None)
            if answers is not None:
                return _marked(answers, rows)
            reason = f"model {model.version} fails"
        days = [None if np.isnan(value) else float(value) for value in rows.raw[:, RECENCY]]
        answers = recency_answers(rows.advertiser_ids, days, to_datetime(rows.as_of), reason)
        return [
            msgspec.structs.replace(answer, features_age_s=age_s)
            for answer, age_s in zip(answers, rows.age_s, strict=True)
        ]

    def _called(self, model: ChurnModel, rows: Rows, *, explain: bool) -> list[ChurnAnswer] | None:
        """A model's answers; None where it fails."""
        as_of: datetime = to_datetime(rows.as_of)
        try:
            return model.answer_rows(rows.advertiser_ids, rows.raw, as_of, explain=explain, ages_s=rows.age_s)
        except Exception as error:  # noqa: BLE001 (logged below; a model may raise anything)
            self._complaints.failed(model.version, error)
            return None

    def _base_rates(self, model: ChurnModel, advertiser_ids: Sequence[str], reason: str) -> list[ChurnAnswer]:
        as_of = to_datetime(self._clock.now())
        return [model.base_rate_answer(name, as_of, f"no live features: {reason}") for name in advertiser_ids]


def _marked(answers: list[ChurnAnswer], rows: Rows) -> list[ChurnAnswer]:
    """Answers on stale features say so."""
    if not rows.stale.any():
        return answers
    reason = (
        f"features as last read: {rows.reason}" if rows.reason else "features are older than they should be"
    )
    return [
        msgspec.structs.replace(answer, degraded=True, degraded_reason=reason) if stale else answer
        for answer, stale in zip(answers, rows.stale, strict=True)
    ]
