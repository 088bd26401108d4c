"""A model on trial and its reference on the same rows, alongside the requests: never in their way.

    request ──offer──► bounded queue ──► both score, in a thread ──► Observations ──each second──► Redis
                 └── full: dropped, and counted

An advertiser counts once in each run of the guard's tests: one that is asked about all day would be one opinion with
many votes.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from models.dataset.matrix import Floats
from models.evaluation.expected_difference import is_empty
from models.rollout.guard import GuardPolicy, epoch_of
from models.rollout.log_throttle import LogThrottle
from models.rollout.observation_store import ObservationStore, Prediction
from models.rollout.observations import Observations
from tocsin.background import repeat
from tocsin.clock import Clock
from tocsin.errors import TocsinError

log = logging.getLogger(__name__)

QUEUE_ROWS = 512
ROWS_AT_ONCE = 64
FLUSH_EVERY_S = 1.0
MAX_SEEN = 50_000
MAX_UNSENT = 5_000  # predictions that wait for storage


class Scorer(Protocol):
    """What is compared; `models.prediction.churn.ChurnModel`."""

    version: str

    @property
    def inputs(self) -> Sequence[str]:
        """Names of the columns."""
        ...

    def probabilities(self, raw: Floats) -> Floats:
        """Of rows of shape `(n, inputs)`."""
        ...


@dataclass(frozen=True, slots=True)
class Trial:
    """Two models, and which trial it is."""

    name: str
    since: float
    judged: Scorer
    reference: Scorer
    horizon_s: float


@dataclass(frozen=True, slots=True)
class Offer:
    """Rows of one request."""

    advertiser_ids: Sequence[str]
    raw: Floats
    stale: npt.NDArray[np.bool_]
    as_of: float


class Shadow:
    """Scores what is offered with both models, off the requests' path.

    Args:
        observed: Where observations go.
        executor: Where models are called.
        sample: The share of offers taken.
        clock: Time.
        policy: What is slow, and when tests begin again.
        replica: Its name among those that observe.
    """

    def __init__(
        self,
        observed: ObservationStore,
        executor: Executor,
        *,
        sample: float,
        clock: Clock,
        policy: GuardPolicy | None = None,
        replica: str = "",
    ) -> None:
        self.observations = Observations()
        self.policy = policy or GuardPolicy()
        self._observed = observed
        self._replica = replica or uuid4().hex
        self._executor = executor
        self._sample = sample
        self._clock = clock
        self._log = LogThrottle(clock)
        self._chance = random.Random()  # noqa: S311 (a sample, no secret)
        self._trial: Trial | None = None
        self._epoch = 0
        self._seen: set[str] = set()
        self._queue: deque[Offer] = deque()
        self._rows = 0
        self._more = asyncio.Event()
        self._sent: dict[str, int] = {}
        self._unsent: list[Prediction] = []

    def watch(self, trial: Trial | None) -> None:
        """What is on trial from now on; None: nothing. What was observed of another trial is dropped."""
        same = trial is not None and self._trial is not None and trial.name == self._trial.name
        self._trial = trial
        if same:  # a model of it was loaded again
            return
        self._begin(0)
        self._queue.clear()
        self._rows = 0
        self._unsent.clear()

    def offer(self, rows: Offer) -> None:
        """Rows of a request that was answered; returns at once."""
        if self._trial is None or self._chance.random() >= self._sample:
            return
        names = rows.advertiser_ids[:ROWS_AT_ONCE]
        if self._rows + len(names) > QUEUE_ROWS:
            self.observations.drop(len(names))
            return
        self._queue.append(Offer(names, rows.raw[: len(names)], rows.stale[: len(names)], rows.as_of))
        self._rows += len(names)
        self._more.set()

    async def run(self) -> None:
        """Score and send, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(repeat("scoring in shadow", self.score, wake=self._more, wait_first=True))
            group.create_task(
                repeat("sending observations", self.send, every_s=FLUSH_EVERY_S, wait_first=True)
            )

    async def score(self) -> None:
        """Score what waits."""
        loop = asyncio.get_running_loop()
        while self._queue and (trial := self._trial) is not None:
            offer = self._take(trial)
            if offer is None:
                continue
            observations = self.observations
            judged, reference = await loop.run_in_executor(self._executor, self._both, trial, offer.raw)
            if observations is self.observations:  # else another trial began, or its tests begin again
                self._note(trial, offer, judged, reference)

    def _take(self, trial: Trial) -> Offer | None:
        """The next rows, without advertisers that had their say."""
        offer = self._queue.popleft()
        self._rows -= len(offer.advertiser_ids)
        self._turn(trial)
        fresh = [place for place, name in enumerate(offer.advertiser_ids) if name not in self._seen]
        if not fresh:
            return None
        chosen = np.asarray(fresh, dtype=np.intp)
        names = [offer.advertiser_ids[place] for place in fresh]
        if len(self._seen) < MAX_SEEN:
            self._seen.update(names)
        return Offer(names, offer.raw[chosen], offer.stale[chosen], offer.as_of)

    def _turn(self, trial: Trial) -> None:
        """Begin again where the tests do."""
        epoch = epoch_of(trial.since, self._clock.now(), self.policy)
        if epoch != self._epoch:
            self._begin(epoch)

    def _begin(self, epoch: int) -> None:
        self._epoch = epoch
        self._seen.clear()
        self._sent = {}
        self.observations = Observations()

    def _note(self, trial: Trial, offer: Offer, judged: _Scored, reference: _Scored) -> None:
        self.observations.call(judged.took_ms, reference.took_ms, slow_ms=self.policy.slow_ms)
        if judged.found is None or reference.found is None:
            return
        self.observations.inputs(trial.judged.inputs, is_empty(offer.raw).sum(axis=0), len(offer.raw))
        found = zip(offer.advertiser_ids, judged.found, reference.found, offer.stale, strict=True)
        for name, one, other, stale in found:
            self.observations.pair(float(one), float(other), stale=bool(stale))
            if len(self._unsent) < MAX_UNSENT:
                self._unsent.append(Prediction(name, offer.as_of, float(one), float(other)))

    async def send(self) -> None:
        """Send what was observed; what fails is sent with the rest next time."""
        trial = self._trial
        if trial is None:
            return
        self._turn(trial)
        observations, epoch = self.observations, self._epoch
        counts = observations.counts()
        unsent, self._unsent = self._unsent, []
        try:
            if counts != self._sent:
                await self._observed.put(trial.name, epoch, self._replica, counts)
                if observations is self.observations:
                    self._sent = counts
            if unsent:
                await self._observed.wait_for(trial.name, unsent, trial.horizon_s)
        except TocsinError as error:
            log.warning("observations wait: %s", error)
            if self._trial is not None and trial.name == self._trial.name:
                self._unsent = (unsent + self._unsent)[:MAX_UNSENT]

    def _both(self, trial: Trial, raw: Floats) -> tuple[_Scored, _Scored]:
        return self._timed(trial.judged, raw), self._timed(trial.reference, raw)

    def _timed(self, model: Scorer, raw: Floats) -> _Scored:
        began = time.perf_counter()
        try:
            found = model.probabilities(raw)
        except Exception as error:  # noqa: BLE001 (logged below; a model may raise anything)
            self._log.failed(model.version, error)
            return _Scored(None, None)
        return _Scored(found, (time.perf_counter() - began) * 1000)


@dataclass(frozen=True, slots=True)
class _Scored:
    """Probabilities and how long they took; None where the model failed."""

    found: Floats | None
    took_ms: float | None
