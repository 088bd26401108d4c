"""A rollout: which model answers whom, from the first look to the last. Pure; time is an argument.

                        ┌──────────── advance, once its time is up and the guard has enough ───────────┐
    register ──► idle ──┴─ begin ─► shadow ─► canary 5% ─► canary 25% ─► canary 50% ─► watch ─► idle (settled)
                  ▲                    │           │            │             │          │
                  └──── roll back ─────┴───────────┴────────────┴─────────────┘          │
                  │     the challenger is withdrawn, the champion never stopped          │
                  └──── roll back ───────────────────────────────────────────────────────┘
                        the champion before is the champion again

    promote (by hand, or the first model there is): straight to champion, then watch

| stage    | answers                                  | judged                  | against      |
|----------|------------------------------------------|-------------------------|--------------|
| `idle`   | the champion                             | nothing                 |              |
| `shadow` | the champion; the challenger scores alongside it, off the request's path | challenger | champion |
| `canary` | the challenger for its share of advertisers, always the same ones | challenger | champion |
| `watch`  | the new champion                         | champion                | the one before |

A transition that does not fit the stage raises `ConflictError`: of two people who promote at once, one gets it.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from models.evaluation.expected_difference import ExpectedDifference
from tocsin.errors import ConflictError

Share = Annotated[float, Meta(gt=0, lt=1)]
Duration = Annotated[float, Meta(ge=0, le=31_536_000)]
DAY_S = 86_400.0


class RolloutStage(StrEnum):
    """Where a rollout is."""

    IDLE = "idle"
    SHADOW = "shadow"
    CANARY = "canary"
    WATCH = "watch"


class RolloutPolicy(Struct, frozen=True, kw_only=True):
    """How fast a rollout goes. Each stage also needs the guard's consent."""

    shares: Annotated[tuple[Share, ...], Meta(min_length=1, max_length=10)] = (0.05, 0.25, 0.5)
    shadow_s: Duration = 3_600.0
    canary_s: Duration = 3_600.0  # each step
    watch_s: Duration = 35 * DAY_S  # until the first labels have matured


class Lineup(Struct, frozen=True, kw_only=True):
    """Who has which part. Empty: nobody. `since` (epoch seconds) is when the stage, or its step, began."""

    champion: str = ""
    previous: str = ""
    challenger: str = ""
    stage: RolloutStage = RolloutStage.IDLE
    step: int = 0
    since: float = 0.0
    policy: RolloutPolicy = RolloutPolicy()
    expected: ExpectedDifference = ExpectedDifference()  # of the one judged, against its reference

    @property
    def under_way(self) -> bool:
        """Whether a challenger is being tried."""
        return self.stage in {RolloutStage.SHADOW, RolloutStage.CANARY}

    @property
    def judged(self) -> str:
        """The version the guard watches; empty: none."""
        if self.stage is RolloutStage.WATCH:
            return self.champion
        return self.challenger if self.under_way else ""

    @property
    def reference(self) -> str:
        """The version it is judged against; empty: none."""
        if self.stage is RolloutStage.WATCH:
            return self.previous
        return self.champion if self.under_way else ""

    @property
    def goes(self) -> str:
        """The version that a rollback takes away: the challenger being tried, else the champion."""
        return self.challenger if self.under_way else self.champion

    @property
    def trial(self) -> str:
        """The name of the present stage of the present trial; empty: none."""
        return f"{self.judged}-{round(self.since * 1000)}" if self.judged else ""

    @property
    def share(self) -> float:
        """The share of advertisers the challenger answers."""
        return self.policy.shares[self.step] if self.stage is RolloutStage.CANARY else 0.0

    @property
    def stage_s(self) -> float:
        """How long the present stage lasts at least."""
        lasting = {RolloutStage.SHADOW: self.policy.shadow_s, RolloutStage.CANARY: self.policy.canary_s}
        return lasting.get(self.stage, self.policy.watch_s if self.stage is RolloutStage.WATCH else 0.0)

    def is_due(self, now: float) -> bool:
        """Whether the present stage has lasted long enough."""
        return self.stage is not RolloutStage.IDLE and now - self.since >= self.stage_s

    def answers(self, advertiser_id: str) -> str:
        """The version that answers for an advertiser."""
        return (
            self.challenger
            if self.share and place_of(self.challenger, advertiser_id) < self.share
            else self.champion
        )


def place_of(version: str, advertiser_id: str) -> float:
    """Where in [0, 1) an advertiser stands for a version: a larger share keeps those of a smaller one."""
    found = blake2b(f"{version}/{advertiser_id}".encode(), digest_size=8).digest()
    return int.from_bytes(found) / 2**64


def register(lineup: Lineup, version: str) -> Lineup:
    """A new version is the next challenger, unless one is being tried."""
    return lineup if lineup.under_way else replace(lineup, challenger=version)


def begin(
    lineup: Lineup,
    version: str,
    now: float,
    policy: RolloutPolicy,
    expected: ExpectedDifference | None = None,
) -> Lineup:
    """Try a version, first in shadow. Where there is no champion it becomes that.

    Raises:
        ConflictError: it is the champion, or another one is being tried.
    """
    if not lineup.champion:
        return promote(lineup, version, now, policy)
    _check_free(lineup, version)
    return replace(
        lineup,
        challenger=version,
        stage=RolloutStage.SHADOW,
        step=0,
        since=now,
        policy=policy,
        expected=expected or ExpectedDifference(),
    )


def promote(
    lineup: Lineup,
    version: str,
    now: float,
    policy: RolloutPolicy | None = None,
    expected: ExpectedDifference | None = None,
) -> Lineup:
    """Make a version the champion at once; the one before is kept to go back to.

    Raises:
        ConflictError: it is the champion, or another one is being tried.
    """
    if lineup.challenger != version or not lineup.under_way:
        _check_free(lineup, version)
    crowned = _crowned(lineup, version, now)
    return replace(crowned, policy=policy or RolloutPolicy(), expected=expected or ExpectedDifference())


def advance(lineup: Lineup, now: float) -> Lineup:
    """The next stage.

    Raises:
        ConflictError: no rollout is under way.
    """
    if lineup.stage is RolloutStage.SHADOW:
        return replace(lineup, stage=RolloutStage.CANARY, step=0, since=now)
    if lineup.stage is RolloutStage.CANARY and lineup.step + 1 < len(lineup.policy.shares):
        return replace(lineup, step=lineup.step + 1, since=now)
    if lineup.stage is RolloutStage.CANARY:
        return _crowned(lineup, lineup.challenger, now)
    if lineup.stage is RolloutStage.WATCH:
        return replace(lineup, stage=RolloutStage.IDLE, since=now)
    raise ConflictError("no rollout is under way", hint="`tocsin models promote` begins one")


def roll_back(lineup: Lineup, now: float, version: str = "") -> Lineup:
    """Withdraw the challenger being tried; where none is, the champion before is the champion again.

    Args:
        lineup: As it is.
        now: Epoch seconds.
        version: Only if it is this one that goes; empty: whichever. Somebody else may have rolled it back already, and
            then the next one must not go as well.

    Raises:
        ConflictError: there is nothing to go back to, or another one would go.
    """
    if version and version != lineup.goes:
        raise ConflictError(
            f"it is {lineup.goes or 'nobody'} that would be rolled back, not {version}",
            hint="`tocsin models audit` shows what happened",
        )
    if lineup.under_way:
        return replace(lineup, challenger="", stage=RolloutStage.IDLE, step=0, since=now)
    if not lineup.previous:
        raise ConflictError(
            "there is no previous champion to go back to", hint="`tocsin models list` shows all"
        )
    return replace(lineup, champion=lineup.previous, previous="", stage=RolloutStage.IDLE, step=0, since=now)


def _crowned(lineup: Lineup, version: str, now: float) -> Lineup:
    return replace(
        lineup,
        champion=version,
        previous=lineup.champion,
        challenger="" if lineup.challenger == version else lineup.challenger,
        stage=RolloutStage.WATCH if lineup.champion else RolloutStage.IDLE,
        step=0,
        since=now,
    )


def _check_free(lineup: Lineup, version: str) -> None:
    if version == lineup.champion:
        raise ConflictError(f"{version} is the champion already")
    if lineup.under_way:
        raise ConflictError(
            f"{lineup.challenger} is being tried ({lineup.stage})",
            hint="wait for it, or end it with `tocsin models rollback`",
        )
