"""Simulated advertisers with known churn: for tests, demonstrations and load, never as evidence of accuracy.

    joins ──► thriving ──► souring ──► churned
                 └─────────────────────────▲   (rare)

A thriving advertiser spends at its own cadence, level and season, with heavy tails between advertisers and noise
between weeks. Souring, its spend shrinks and its gaps grow from week to week, and so does its hazard of churn.
Decline is therefore visible before the end, and a model that reads it can beat recency alone.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from features.definitions import DAY_S
from tocsin.wire.activity import Activity

WEEK_S = 7 * DAY_S

_CADENCES = (0.95, 0.95, 0.6, 0.35)  # chances of activity in a week
_SOURING_A_WEEK = 0.035
_SPEND_LEFT_A_WEEK = 0.72  # of a souring advertiser
_CADENCE_LEFT_A_WEEK = 0.93
_HAZARD_THRIVING = 0.002
_HAZARD_SOURED = 0.35  # reached as spend nears nothing


@dataclass(frozen=True)
class Simulation:
    """Activities in time order, and when each advertiser churned (epoch seconds); None: still there at the end."""

    activities: list[Activity]
    churned_at: dict[str, float | None]


def simulate(advertisers: int = 400, weeks: int = 60, seed: int = 7, *, end: float) -> Simulation:
    """Simulate the `weeks` weeks up to `end` (epoch seconds). The same arguments give the same result.

    After `churned_at` an advertiser does nothing any more. Each active week is one activity, at its last second.
    """
    chance = random.Random(seed)  # noqa: S311 - a simulation, nothing secret
    activities: list[Activity] = []
    churned_at: dict[str, float | None] = {}
    for number in range(advertisers):
        advertiser_id = f"sim-{number:05d}"
        own, churned_at[advertiser_id] = _advertiser(chance, advertiser_id, weeks, end)
        activities += own
    activities.sort(key=lambda activity: (activity.event_time, activity.advertiser_id))
    return Simulation(activities, churned_at)


def _advertiser(
    chance: random.Random, advertiser_id: str, weeks: int, end: float
) -> tuple[list[Activity], float | None]:
    level = math.exp(chance.gauss(6.0, 1.5))
    cadence = chance.choice(_CADENCES)
    phase = chance.uniform(0, 2 * math.pi)
    joins = chance.randrange(max(1, weeks * 2 // 3))
    decline, souring = 1.0, False
    activities: list[Activity] = []
    for week in range(joins, weeks):
        opens = end - (weeks - week) * WEEK_S
        hazard = _HAZARD_THRIVING + (_HAZARD_SOURED - _HAZARD_THRIVING) * (1 - decline) ** 2
        if week > joins and chance.random() < hazard:
            return activities, opens
        souring = souring or chance.random() < _SOURING_A_WEEK
        if souring:
            decline *= _SPEND_LEFT_A_WEEK
            cadence *= _CADENCE_LEFT_A_WEEK
        if week == joins or chance.random() < cadence:
            season = 1 + 0.3 * math.sin(2 * math.pi * week / 52 + phase)
            spend = round(level * season * decline * math.exp(chance.gauss(0, 0.4)), 2)
            event_id = f"sim:{week:04d}"
            activities.append(Activity(advertiser_id, opens + WEEK_S - 1, spend, "spend", event_id))
    return activities, None
