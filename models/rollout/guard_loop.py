"""The loop of the guard: reads the observations, moves the rollout forward or back, and alerts the owner.

    every second: registry ──lineup──► counts ──judge──┬── BREACH ──► journal: roll back ──► alert until it is accepted
                                                       ├── GO and the stage's time is up ──► journal: advance
                                                       └── else ──► wait ──a day too long──► alert

One of them is at work in a platform; a second one would do no harm, as every step is taken on top of what was judged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Literal

from msgspec import Struct

from models.registry.journal import Action, JournalEntry
from models.registry.lineup import Lineup
from models.registry.registry import Registry
from models.rollout.guard import GuardDecision, GuardPolicy, GuardState, Verdict, epoch_of, judge
from models.rollout.observation_store import ObservationStore
from tocsin.background import repeat
from tocsin.clock import Clock, to_epoch
from tocsin.errors import ConflictError, ModelUnavailableError, TocsinError

log = logging.getLogger(__name__)

ACTOR = "guard"
LOOK_EVERY_S = 1.0
ALERT_AGAIN_S = 43_200.0  # so fresh a rollback may not have been alerted about, if the guard was restarted

HELD_TOO_LONG_S = 86_400.0  # beyond the end of a stage


class Alarm(Struct, frozen=True, kw_only=True):
    """An alert to send; equal alerts have the same `key`."""

    kind: Literal["rollback", "held"]
    key: str
    title: str
    body: str


Alert = Callable[[Alarm], Awaitable[None]]


class GuardLoop:
    """Watches one platform's rollout.

    Args:
        registry: With `actor` set to the guard.
        observed: What replicas saw.
        alert: Tells somebody; may be called again for the same alarm.
        moment: The "now" of features, for labels.
        clock: Time.
        policy: Limits.
    """

    def __init__(
        self,
        registry: Registry,
        observed: ObservationStore,
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
        self._unsent_alarms: list[Alarm] | None = None
        self._reported_hold = ""  # the trial that is held for too long

    async def run(self, stopping: asyncio.Event, every_s: float = LOOK_EVERY_S) -> None:
        """Repeat the look until stopped."""
        await repeat("guard: the rollout stays as it is", self._look_again, every_s=every_s, until=stopping)

    async def _look_again(self) -> None:
        try:
            await self.look()
        except ConflictError as error:  # somebody else moved it: no failure
            log.info("guard: %s; looking again", error)

    async def look(self) -> Verdict | None:
        """One look; None where nothing is on trial.

        Raises:
            TocsinError: storage or registry do not answer, or somebody else moved the rollout meanwhile.
        """
        await self._send_alarms()
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
        if verdict.decision is GuardDecision.BREACH:
            entry = await asyncio.to_thread(
                self._registry.roll_back, on=head.number, reason=verdict.reason, story=verdict.story()
            )
            log.warning("churn model %s rolled back: %s", entry.version, entry.reason)
            await self._send_alarms(_rolled_back(entry))
        elif verdict.decision is GuardDecision.GO and lineup.is_due(now):
            await asyncio.to_thread(
                self._registry.advance, on=head.number, reason=verdict.reason, story=verdict.story()
            )
        elif lineup.is_due(now - HELD_TOO_LONG_S) and self._reported_hold != lineup.trial:
            self._reported_hold = lineup.trial
            await self._send_alarms(_held(lineup, verdict))
        return verdict

    async def _send_alarms(self, *happened: Alarm) -> None:
        """Send every alert not sent yet; one that fails is sent at the next look."""
        if self._unsent_alarms is None:
            self._unsent_alarms = [
                _rolled_back(entry) for entry in await self._recalled() if self._is_fresh(entry)
            ]
        self._unsent_alarms += happened
        while self._unsent_alarms:
            try:
                await self._alert(self._unsent_alarms[0])
            except (TocsinError, OSError) as error:
                log.warning("guard: %s: could not be sent yet: %s", self._unsent_alarms[0].title, error)
                return
            self._unsent_alarms.pop(0)

    async def _recalled(self) -> list[JournalEntry]:
        """The journal; nothing where a line of it is damaged, which is no reason not to watch."""
        try:
            return await asyncio.to_thread(self._registry.journal)
        except ModelUnavailableError as error:
            log.warning("guard: whether a rollback was alerted cannot be read: %s", error)
            return []

    def _is_fresh(self, entry: JournalEntry) -> bool:
        return (
            entry.action is Action.ROLL_BACK
            and entry.actor == ACTOR
            and self._clock.now() - to_epoch(entry.at) < ALERT_AGAIN_S
        )


def _rolled_back(entry: JournalEntry) -> Alarm:
    return Alarm(
        kind="rollback",
        key=f"model-rollback-{entry.version}-{entry.number}",
        title=f"Churn model {entry.version} was rolled back",
        body=f"{entry.reason}. {entry.lineup.champion} serves. `tocsin models audit` has the whole story.",
    )


def _held(lineup: Lineup, verdict: Verdict) -> Alarm:
    return Alarm(
        kind="held",
        key=f"model-held-{lineup.trial}",
        title=f"Churn model {lineup.judged} waits in {lineup.stage}",
        body=(
            f"Its time was up a day ago: {verdict.reason}. {lineup.champion} serves. Look at both with `tocsin models "
            "compare`; then `tocsin models promote --now` or `tocsin models rollback`."
        ),
    )
