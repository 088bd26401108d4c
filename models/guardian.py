"""The guard's hand: looks at what was observed, moves the rollout on or back, and has somebody told.

    every second: registry ──lineup──► counts ──judge──┬── BREACH ──► journal: roll back ──► alert until it is accepted
                                                       ├── GO and the stage's time is up ──► journal: advance
                                                       └── else ──► wait

One of them is at work in a platform; a second one would do no harm, as every step is taken on top of what was judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from models.guard import Decision, GuardPolicy, GuardState, Verdict, epoch_of, judge
from models.journal import Action, Entry
from models.observed import Observed
from models.registry import Registry
from tocsin.clock import Clock, to_epoch
from tocsin.errors import ConflictError, ModelUnavailableError, TocsinError

log = logging.getLogger(__name__)

ACTOR = "guard"
LOOK_EVERY_S = 1.0
ALERT_AGAIN_S = 43_200.0  # so fresh a rollback may not have been told of, if the guard was restarted

Alert = Callable[[Entry], Awaitable[None]]


class Guardian:
    """Watches one platform's rollout.

    Args:
        registry: With `actor` set to the guard.
        observed: What replicas saw.
        alert: Tells somebody of a rollback; may be called again for the same entry.
        moment: The "now" of features, for labels.
        clock: Time.
        policy: Limits.
    """

    def __init__(
        self,
        registry: Registry,
        observed: Observed,
        alert: Alert,
        moment: Callable[[], Awaitable[float]],
        clock: Clock,
        policy: GuardPolicy | None = None,
    ) -> None:
        self.policy = policy or GuardPolicy()
        self.last: Verdict | None = None
        self._registry = registry
        self._observed = observed
        self._alert = alert
        self._moment = moment
        self._clock = clock
        self._trial = ""
        self._state = GuardState()
        self._untold: list[Entry] | None = None

    async def run(self, stopping: asyncio.Event, every_s: float = LOOK_EVERY_S) -> None:
        """Look over and over, until told to stop."""
        while not stopping.is_set():
            try:
                await self.look()
            except ConflictError as error:
                log.info("guard: %s; looking again", error)
            except TocsinError as error:
                log.warning("guard: %s; the rollout stays as it is", error)
            except (
                Exception
            ):  # a full disk, an object store that hangs up: tomorrow somebody has to watch, too
                log.exception("guard: a look failed; the rollout stays as it is")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), every_s)

    async def look(self) -> Verdict | None:
        """One look; None where nothing is on trial.

        Raises:
            TocsinError: storage or registry do not answer, or somebody else moved the rollout meanwhile.
        """
        await self._tell()
        head = await asyncio.to_thread(self._registry.head)
        lineup = head.lineup
        if not (lineup.judged and lineup.reference):
            self.last = None
            return None
        if lineup.trial != self._trial:
            self._trial, self._state = lineup.trial, GuardState()
        now = self._clock.now()
        epoch = epoch_of(lineup.since, now, self.policy)
        await self._observed.mature(lineup.trial, await self._moment())
        counts, labels = await self._observed.read(lineup.trial, epoch)
        verdict, self._state = judge(
            counts, labels, lineup.stage, epoch, self._state, self.policy, lineup.expected
        )
        if self.last is None or self.last.decision is not verdict.decision:
            log.info("guard: %s in %s: %s, %s", lineup.judged, lineup.stage, verdict.decision, verdict.reason)
        self.last = verdict
        await self._observed.say(lineup.trial, f"{verdict.decision}: {verdict.reason}")
        if verdict.decision is Decision.BREACH:
            entry = await asyncio.to_thread(
                self._registry.roll_back, on=head.number, reason=verdict.reason, story=verdict.story()
            )
            log.warning("churn model %s rolled back: %s", entry.version, entry.reason)
            await self._tell(entry)
        elif verdict.decision is Decision.GO and lineup.is_due(now):
            await asyncio.to_thread(
                self._registry.advance, on=head.number, reason=verdict.reason, story=verdict.story()
            )
        return verdict

    async def _tell(self, *happened: Entry) -> None:
        """Alert of every rollback not told yet; what fails is told at the next look."""
        if self._untold is None:
            self._untold = [entry for entry in await self._recalled() if self._is_fresh(entry)]
        self._untold += happened
        while self._untold:
            try:
                await self._alert(self._untold[0])
            except (TocsinError, OSError) as error:
                log.warning("guard: the rollback could not be told yet: %s", error)
                return
            self._untold.pop(0)

    async def _recalled(self) -> list[Entry]:
        """The journal; nothing where a line of it is damaged, which is no reason not to watch."""
        try:
            return await asyncio.to_thread(self._registry.journal)
        except ModelUnavailableError as error:
            log.warning("guard: whether a rollback was told cannot be seen: %s", error)
            return []

    def _is_fresh(self, entry: Entry) -> bool:
        return (
            entry.action is Action.ROLL_BACK
            and entry.actor == ACTOR
            and self._clock.now() - to_epoch(entry.at) < ALERT_AGAIN_S
        )
