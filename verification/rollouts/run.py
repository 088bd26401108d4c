"""Bad models are found and rolled back, good ones are not; one line of JSON.

    Valkey ◄── shard ◄── simulated activity        main: trains, saves, begins rollouts, is the guard
       ▲                                                        │ registry
       └───────────── churn server (uvicorn) ◄── traffic ───────┘

Six faults, each in a rollout of its own over HTTP: registry, guard, server class and alert are the product's; only the
faults are planted (`verification.rollouts.planted`). Then twenty rollouts of a good model against a good champion
(A/A): of five models, each trained on accounts drawn again, every one against every other. Those go without HTTP,
through the shadow, Redis and the guard, which checks after every few rows.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from enum import StrEnum
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.harness.figures import machine
from benchmarks.harness.pool_member import member
from benchmarks.harness.processes import Worker
from benchmarks.harness.run import obeying_sigterm, reserved_stdout, say, workspace
from features.offline.point_in_time import event_frame
from features.simulator import simulate
from launch.owner_alert import OwnerAlert
from launch.storage import prepare
from models.registry.lineup import RolloutPolicy, RolloutStage
from models.registry.registry import Registry
from models.rollout.guard_loop import ACTOR, GuardLoop
from models.rollout.observation_store import ObservationStore
from models.rollout.shadow import Offer, Shadow, Trial
from models.training.card import TrainedModel
from models.training.training import train
from serve_deployments.serving.feature_reader import FeatureReader
from serve_deployments.serving.vector_reader import RECENCY, Rows, VectorReader
from tocsin.clock import Clock, SystemClock, to_datetime
from tocsin.settings import Settings
from tocsin.storage.embedded import EmbeddedServer
from tocsin.storage.servers import Servers
from tocsin.streams.lanes import Lane
from tocsin.streams.records import Record, partition_of
from tocsin.wire.activity import Activity
from tocsin.wire.lanes import LaneName
from verification.rollouts.planted import IN_CANARY, Fault, churn_server, spoiled
from verification.rollouts.traffic import Traffic

END = 1_760_000_000.0 // 86_400 * 86_400
WEEKS = 50
START_S = 60.0
FAULT_S = 60.0  # the most a fault may go unnoticed
CHECK_S = 0.1
FOLLOW_S = 2.5  # replicas follow the registry within that
BATCH_ROWS = 16  # rows between two checks of an A/A rollout
WEEKS_READ = 8  # weeks of which every advertiser's row is read; half of them go to the rollouts
ACTIVE_DAYS = 28
DAY_S = 86_400.0
STAGE_S = 60.0  # of an A/A rollout, on a clock that is moved
POLICY = RolloutPolicy(shares=(0.2, 0.5), shadow_s=2.0, canary_s=30.0, watch_s=600.0)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a run was asked for."""

    seed: int = 7
    aa_runs: int = 20
    faults: tuple[Fault, ...] = tuple(Fault)
    advertisers: int = 600  # some 250 of them active
    models: int = 5  # good ones


class Outcome(StrEnum):
    """What became of a good model."""

    THROUGH = "through"
    HELD = "held"  # still waiting when all rows of a stage were seen
    ROLLED_BACK = "rolled back"


QUICK = Options(aa_runs=2, faults=(Fault.LABELS_FLIPPED, Fault.ERRORING), advertisers=150, models=2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run once. Returns the exit status: 0 where every fault was found and no request failed."""
    parser = argparse.ArgumentParser(prog="python -m verification.rollouts", description=(__doc__ or "")[:90])
    parser.add_argument("--seed", type=int, default=Options().seed, help="of data and traffic")
    parser.add_argument("--quick", action="store_true", help="two faults and two A/A rollouts")
    found = parser.parse_args(argv)
    options = msgspec.structs.replace(QUICK if found.quick else Options(), seed=found.seed)
    with reserved_stdout() as out, obeying_sigterm(), workspace() as settings:
        figures = run(msgspec.structs.replace(settings, shadow_sample=1.0), options)
        out.write(msgspec.json.encode(figures).decode() + "\n")
    return 0 if is_good(figures) else 1


def is_good(figures: dict[str, Any]) -> bool:
    """Whether the proof holds."""
    found = all(one["rolled_back"] for one in figures["faults"].values())
    return bool(found and figures["failed_requests"] == 0 and figures["false_rollbacks"] <= 1)


def run(settings: Settings, options: Options) -> dict[str, Any]:
    """Everything from the start to the figures."""
    began = time.monotonic()
    with ExitStack() as stack:
        server = EmbeddedServer(settings.data_path)
        server.start()
        stack.callback(server.stop)
        asyncio.run(prepare(settings))
        shard = stack.enter_context(Worker(member, "shard-0", LaneName.ACTIVITY.value, settings))
        shard.receive(str, timeout_s=START_S)
        activities = simulate(options.advertisers, WEEKS, options.seed, end=END).activities
        asyncio.run(_import(settings, activities))
        say(f"{len(activities):,} activities imported; training {options.models} models")
        good = [_trained(activities, options.seed + number) for number in range(options.models)]
        names = sorted({activity.advertiser_id for activity in activities})
        churn = stack.enter_context(Worker(churn_server, settings))
        port = churn.receive(int, timeout_s=START_S)
        bench = Bench(settings, options, names)
        asyncio.run(bench.prepare(good))
        faults = asyncio.run(bench.faults(churn, port))
        say("A/A rollouts")
        runs = asyncio.run(bench.run_good())
    return {
        "faults": {name: {key: one[key] for key in KEPT} for name, one in faults.items()},
        "failed_requests": sum(one["failed"] for one in faults.values()),
        "aa_runs": len(runs),
        "false_rollbacks": runs.count(Outcome.ROLLED_BACK),
        "held": runs.count(Outcome.HELD),
        "alerts_on_p1": bench.alerts,
        "seconds": round(time.monotonic() - began, 1),
        "seed": options.seed,
        "machine": machine(),
    }


KEPT = ("rolled_back", "requests", "seconds", "stage", "reason", "slowest_ms")


async def _import(settings: Settings, activities: Sequence[Activity]) -> None:
    """Through the lane, until the shard has them."""
    servers = Servers(settings, timeout_s=10.0)
    lane = Lane.of(servers.of(LaneName.ACTIVITY), settings, LaneName.ACTIVITY)
    records = [
        Record(partition_of(one.advertiser_id, lane.partitions), msgspec.msgpack.encode(one))
        for one in activities
    ]
    for start in range(0, len(records), 5_000):
        await lane.append(records[start : start + 5_000])
    async with asyncio.timeout(START_S):
        while (await lane.depth()).blocks:  # noqa: ASYNC110 (another process works them off)
            await asyncio.sleep(0.05)
    await servers.aclose()


def _trained(activities: Sequence[Activity], seed: int) -> TrainedModel:
    """A model of accounts drawn again, with replacement: each draw of one account is an account of its own."""
    chance = random.Random(seed)  # noqa: S311 (seeded on purpose)
    by_name: dict[str, list[Activity]] = {}
    for one in activities:
        by_name.setdefault(one.advertiser_id, []).append(one)
    drawn = chance.choices(sorted(by_name), k=len(by_name))
    renamed = (
        msgspec.structs.replace(one, advertiser_id=f"{name}/{number}")
        for number, name in enumerate(drawn)
        for one in by_name[name]
    )
    return train(event_frame(renamed), now=END + seed)


class Bench:
    """What the rollouts of a run share.

    Args:
        settings: Of the platform.
        options: Of the run.
        names: All advertisers.
    """

    def __init__(self, settings: Settings, options: Options, names: Sequence[str]) -> None:
        self.alerts = 0
        self._settings = settings
        self._options = options
        self._names = names
        self._good: list[TrainedModel] = []
        self._rows: Rows

    async def prepare(self, good: Sequence[TrainedModel]) -> None:
        """Read the rows; `good` are models without fault, the first is the champion."""
        self._rows = await self._weeks()
        # Every other week's rows are what a model's rollout is held against, the weeks between are its requests.
        held = [
            place for place, name in enumerate(self._rows.advertiser_ids) if int(name.rpartition("@")[2]) % 2
        ]
        asked = [place for place in range(len(self._rows.advertiser_ids)) if place not in set(held)]
        self._good = [replace(one, reference=self._rows.some(held).raw) for one in good]
        self._rows = self._rows.some(asked)

    # ------------------------------------------------------------------ faults, over HTTP

    async def faults(self, churn: Worker, port: int) -> dict[str, dict[str, Any]]:
        """A rollout for each fault; what became of it."""
        registry = Registry(self._settings.models_location, actor=ACTOR)
        registry.promote(registry.save(self._good[0]))
        servers = Servers(self._settings, timeout_s=5.0)
        guard = self._guard_loop(registry, servers, SystemClock())
        found = {}
        for number, fault in enumerate(self._options.faults):
            challenger = spoiled(_dated(self._good[1], number), fault)
            version = registry.save(challenger)
            churn.send("" if fault in IN_CANARY else fault.value)
            await asyncio.sleep(FOLLOW_S)
            found[fault.value] = one = await self._fault(fault, version, registry, guard, churn, port)
            say(f"{fault}: {one}")
        lane = Lane.of(servers.of(LaneName.P1), self._settings, LaneName.P1)
        self.alerts = (await lane.depth()).blocks
        await servers.aclose()
        return found

    async def _fault(
        self, fault: Fault, version: str, registry: Registry, guard: GuardLoop, churn: Worker, port: int
    ) -> dict[str, Any]:
        async with Traffic(port, self._names, self._options.seed) as traffic:
            await asyncio.sleep(0.5)
            before, began = traffic.answered, time.monotonic()
            registry.begin(version, POLICY)
            armed, stage, rolled_back = fault not in IN_CANARY, RolloutStage.SHADOW, False
            while time.monotonic() - began < FAULT_S and not rolled_back:
                await asyncio.sleep(CHECK_S)
                await guard.look()
                lineup = registry.head().lineup
                rolled_back = version not in {lineup.challenger, lineup.champion}
                stage = lineup.stage if lineup.under_way else stage
                if lineup.stage is RolloutStage.CANARY and not armed:
                    armed = True
                    churn.send(fault.value)
            took_s, requests = time.monotonic() - began, traffic.answered - before
            if not rolled_back:  # so that the next fault starts from the champion
                registry.roll_back(version, reason="not found in time")
            await asyncio.sleep(FOLLOW_S)  # until replicas have gone back, too
        return {
            "rolled_back": rolled_back,
            "requests": requests,
            "seconds": round(took_s, 2),
            "stage": stage.value,
            "reason": registry.journal()[-1].reason,
            "failed": traffic.failed,
            "slowest_ms": round(traffic.slowest_ms, 1),
        }

    def _guard_loop(self, registry: Registry, servers: Servers, clock: Clock) -> GuardLoop:
        async def moment() -> float:
            return END  # no label matures within a run

        observations = ObservationStore(servers.main, namespace=self._settings.namespace)
        alert = OwnerAlert(self._settings, servers, clock)
        return GuardLoop(registry, observations, alert, moment, clock)

    # ------------------------------------------------------------------ good models

    async def run_good(self) -> list[Outcome]:
        """A/A rollouts; what became of each."""
        pairs = list(permutations(range(len(self._good)), 2))[: self._options.aa_runs]
        through = []
        for number, (champion, challenger) in enumerate(pairs):
            through.append(await self._run_pair(number, self._good[champion], self._good[challenger]))
            say(f"A/A {number + 1} of {len(pairs)}: {through[-1]}")
        return through

    async def _weeks(self) -> Rows:
        """Rows of everybody active as of some weeks, each week's a different advertiser."""
        vectors = VectorReader(FeatureReader(self._settings, SystemClock()))
        read = [await vectors.read(self._names, END - week * 7 * DAY_S) for week in range(WEEKS_READ)]
        names = [f"{name}@{week}" for week, rows in enumerate(read) for name in rows.advertiser_ids]
        raw = np.concatenate([rows.raw for rows in read])
        active = np.flatnonzero(raw[:, RECENCY] < ACTIVE_DAYS)
        order = np.random.default_rng(self._options.seed).permutation(active)
        fresh = np.zeros(len(order), dtype=np.bool_)
        return Rows([names[place] for place in order], raw[order], fresh, [0.0] * len(order), END)

    async def _run_pair(self, number: int, champion: TrainedModel, challenger: TrainedModel) -> Outcome:
        """From shadow to the end of the watch."""
        clock = ManualClock()
        registry = Registry(Path(self._settings.data_dir) / f"aa-{number}", clock=clock, actor=ACTOR)
        registry.promote(registry.save(champion))
        version = registry.save(challenger)
        registry.begin(version, RolloutPolicy(shadow_s=STAGE_S, canary_s=STAGE_S, watch_s=STAGE_S))
        judged, reference = registry.load(version), registry.load()
        servers = Servers(self._settings, timeout_s=5.0)
        guard = self._guard_loop(registry, servers, clock)
        observations = ObservationStore(servers.main, namespace=self._settings.namespace)
        with ThreadPoolExecutor(1) as threads:
            shadow = Shadow(observations, threads, sample=1.0, clock=clock)
            held = False
            while (lineup := registry.head().lineup).judged and not held:
                shadow.watch(Trial(lineup.trial, lineup.since, judged, reference, 28 * DAY_S))
                held = not await _one_stage(shadow, guard, registry, self._rows, clock)
        await servers.aclose()
        if held:
            return Outcome.HELD
        return Outcome.THROUGH if registry.champion() == version else Outcome.ROLLED_BACK


async def _one_stage(
    shadow: Shadow, guard: GuardLoop, registry: Registry, rows: Rows, clock: ManualClock
) -> bool:
    """Offer rows in batches, a check after each; the stage ends with the last. Returns whether it changed."""
    stage, names = registry.head().number, rows.advertiser_ids
    for start in range(0, len(names), BATCH_ROWS):
        some = rows.some(range(start, min(start + BATCH_ROWS, len(names))))
        shadow.offer(Offer(some.advertiser_ids, some.raw, some.stale, some.as_of))
        await shadow.score()
        await shadow.send()
        await guard.look()
        if registry.head().number != stage:
            return True  # rolled back
    clock.moment += STAGE_S
    verdict = await guard.look()
    if registry.head().number == stage:
        say(f"held at the end of its stage: {verdict.reason if verdict else ''}")
        return False
    return True


class ManualClock:
    """A clock that moves only when it is set."""

    moment = END

    def now(self) -> float:
        """Seconds since the epoch."""
        return self.moment

    def monotonic(self) -> float:
        """The same."""
        return self.moment


def _dated(trained: TrainedModel, number: int) -> TrainedModel:
    moment = to_datetime(END + 3_600.0 * (1 + number))
    return replace(trained, card=msgspec.structs.replace(trained.card, created_at=moment))
