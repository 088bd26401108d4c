"""The guard against a real server: counts from replicas, labels that mature, rollback, alert."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis import asyncio as aioredis

from launch.owner_alert import OwnerAlert
from models.evaluation.leakage import Finding
from models.registry.journal import Action
from models.registry.lineup import RolloutPolicy, RolloutStage
from models.registry.registry import Registry
from models.rollout.guard import GuardDecision, GuardPolicy, Verdict
from models.rollout.guard_loop import ACTOR, HELD_TOO_LONG_S, Alarm, GuardLoop
from models.rollout.observation_store import MAX_AWAITED, ObservationStore, Prediction
from models.rollout.observations import Observations, steps
from tests.fakes import ManualClock, wait_until
from tests.support import free_settings
from tocsin.errors import StorageUnavailableError
from tocsin.keys import FeatureKeys, LaneKeys
from tocsin.storage.servers import Servers
from tocsin.wire.notifications import Envelope

POLICY = RolloutPolicy(shares=(0.5,), shadow_s=60.0, canary_s=60.0, watch_s=600.0)
HORIZON_S = 28 * 86_400.0


class Versions(Registry):
    """A registry whose versions need no model."""

    def versions(self) -> list[str]:
        return ["20260101T000000Z-aaaaaa", "20260201T000000Z-bbbbbb"]

    def check_gate(self, version: str, findings: Iterable[Finding] = ()) -> dict[str, str]:  # noqa: ARG002 (no model, no gate)
        return {}


class Bench:
    """A champion, a challenger in shadow, and the guard over them."""

    def __init__(self, client: aioredis.Redis, namespace: str, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.registry = Versions(folder, clock=self.clock, actor=ACTOR)
        self.champion, self.challenger = self.registry.versions()
        self.observed = ObservationStore(client, namespace=namespace)
        self.alerts: list[Alarm] = []
        self.alert_fails = False
        self.now = 0.0
        self.guardian = self.guard()
        self.registry.promote(self.champion)
        self.registry.begin(self.challenger, POLICY)

    def guard(self) -> GuardLoop:
        return GuardLoop(self.registry, self.observed, self.alert, self.moment, self.clock, GuardPolicy())

    async def alert(self, alarm: Alarm) -> None:
        if self.alert_fails:
            raise StorageUnavailableError("down")
        self.alerts.append(alarm)

    async def moment(self) -> float:
        return self.now

    @property
    def trial(self) -> str:
        return self.registry.head().lineup.trial

    async def saw(self, *, by: float = 0.0, rows: int = 200) -> None:
        chance, seen = random.Random(5), Observations()  # noqa: S311 (seeded on purpose)
        for _ in range(rows):
            p = chance.uniform(0.05, 0.7)
            seen.pair(p + by, p, stale=False)
            seen.call(1.0, 1.0, slow_ms=50.0)
        await self.observed.put(self.trial, 1, "r", seen.counts())

    async def look(self) -> Verdict:
        verdict = await self.guardian.look()
        assert verdict is not None
        return verdict


@pytest.fixture
def bench(client: aioredis.Redis, namespace: str, tmp_path: Path) -> Bench:
    return Bench(client, namespace, tmp_path)


async def test_counts_of_replicas_add_up(bench: Bench) -> None:
    for _ in range(3):
        await bench.observed.put("a-1", 2, "one", {"fresh": 4, "diff:-3": 1})  # each time all it has
    await bench.observed.put("a-1", 2, "other", {"fresh": 8, "diff:-3": 2})
    assert await bench.observed.read("a-1", 2) == ({"fresh": 12, "diff:-3": 3}, {})
    assert await bench.observed.read("a-1", 1) == ({}, {})


async def test_a_good_challenger_goes_all_the_way(bench: Bench) -> None:
    seen = []
    for wait_s in (60.0, 60.0, 600.0):
        await bench.saw()
        assert (await bench.look()).decision is GuardDecision.GO  # not due yet
        bench.clock.advance(wait_s)
        await bench.look()
        lineup = bench.registry.head().lineup
        seen.append((lineup.stage, lineup.champion))
    assert seen == [
        (RolloutStage.CANARY, bench.champion),
        (RolloutStage.WATCH, bench.challenger),
        (RolloutStage.IDLE, bench.challenger),
    ]
    assert await bench.guardian.look() is None
    assert bench.alerts == []


async def test_nothing_advances_on_too_little(bench: Bench) -> None:
    bench.clock.advance(3_000.0)
    assert (await bench.look()).decision is GuardDecision.HOLD
    assert bench.registry.head().lineup.stage is RolloutStage.SHADOW
    assert (await bench.observed.said(bench.trial)).startswith("hold: too little seen: 0 rows of 50")


async def test_a_breach_rolls_back_tells_and_writes_the_story(bench: Bench) -> None:
    await bench.saw(by=0.25)
    await bench.look()
    assert (await bench.look()).decision is GuardDecision.BREACH
    lineup = bench.registry.head().lineup
    assert (lineup.champion, lineup.challenger, lineup.stage) == (bench.champion, "", RolloutStage.IDLE)
    entry = bench.registry.journal()[-1]
    assert (entry.action, entry.actor, entry.version) == (Action.ROLL_BACK, "guard", bench.challenger)
    assert entry.story["shift_up"]["mean"] == pytest.approx(0.25, abs=0.02)
    (alarm,) = bench.alerts
    assert (alarm.kind, alarm.key) == ("rollback", f"model-rollback-{bench.challenger}-{entry.number}")
    assert entry.reason in alarm.body


async def test_an_alert_that_fails_is_sent_later_also_after_a_restart(bench: Bench) -> None:
    bench.alert_fails = True
    await bench.saw(by=0.25)
    await bench.look()
    await bench.look()
    assert bench.alerts == []
    bench.alert_fails = False
    await bench.guard().look()
    await bench.guardian.look()
    assert len({alarm.key for alarm in bench.alerts}) == 1


async def test_a_rollout_that_waits_for_a_day_is_told_once(bench: Bench) -> None:
    bench.clock.advance(POLICY.shadow_s + HELD_TOO_LONG_S - 1.0)
    await bench.look()
    assert bench.alerts == []
    bench.clock.advance(2.0)
    for _ in range(3):
        assert (await bench.look()).decision is GuardDecision.HOLD
    (alarm,) = bench.alerts
    assert (alarm.kind, alarm.title) == ("held", f"Churn model {bench.challenger} waits in shadow")
    assert "too little seen" in alarm.body


async def test_somebody_else_who_moved_the_rollout_wins(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.saw(by=0.25)
    await bench.look()
    read = bench.observed.read

    async def meanwhile(trial: str, epoch: int) -> Any:
        found = await read(trial, epoch)
        bench.registry.promote(bench.challenger, reason="by hand")
        return found

    monkeypatch.setattr(bench.observed, "read", meanwhile)
    with pytest.raises(Exception, match="something else happened meanwhile"):
        await bench.guardian.look()
    assert bench.registry.champion() == bench.challenger


async def test_labels_mature_when_their_time_has_come(
    bench: Bench, client: aioredis.Redis, namespace: str
) -> None:
    as_of = 1_000_000.0
    await client.zadd(
        FeatureKeys(namespace).advertisers, {"stayed": as_of + 86_400.0, "left": as_of - 86_400.0}
    )
    predictions = [Prediction(name, as_of, 0.9, 0.1) for name in ("stayed", "left", "never heard of")]
    await bench.observed.wait_for(bench.trial, predictions, HORIZON_S)
    assert await bench.observed.mature(bench.trial, as_of + HORIZON_S - 1.0) == 0
    assert await bench.observed.mature(bench.trial, as_of + HORIZON_S) == 3
    assert await bench.observed.mature(bench.trial, as_of + HORIZON_S) == 0
    _, labels = await bench.observed.read(bench.trial, 1)
    assert dict(steps(labels, "label")) == {200: 1, -200: 1}  # 0.81 - 0.01 worse, and as much better


async def test_an_advertiser_has_one_label_in_a_trial(
    bench: Bench, client: aioredis.Redis, namespace: str
) -> None:
    await client.zadd(FeatureKeys(namespace).advertisers, {"left": 5.0})
    for as_of in (10.0, 20.0, 30.0):
        await bench.observed.wait_for(bench.trial, [Prediction("left", as_of, 0.9, 0.1)], HORIZON_S)
    assert await bench.observed.mature(bench.trial, 30.0 + HORIZON_S) == 1
    await bench.observed.wait_for(bench.trial, [Prediction("left", 40.0, 0.9, 0.1)], HORIZON_S)
    assert await bench.observed.mature(bench.trial, 50.0 + HORIZON_S) == 0
    _, labels = await bench.observed.read(bench.trial, 1)
    assert labels == {"label:-200": 1}
    assert await client.exists(f"{namespace}:{{models}}:predicted:{bench.trial}") == 0


async def test_two_guards_count_a_label_once(
    bench: Bench, client: aioredis.Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.zadd(FeatureKeys(namespace).advertisers, {"left": 5.0})
    await bench.observed.wait_for(bench.trial, [Prediction("left", 10.0, 0.9, 0.1)], HORIZON_S)
    zmscore = client.zmscore

    async def meanwhile(*arguments: Any) -> Any:
        monkeypatch.undo()
        await ObservationStore(client, namespace=namespace).mature(bench.trial, 10.0 + HORIZON_S)
        return await zmscore(*arguments)

    monkeypatch.setattr(client, "zmscore", meanwhile)
    await bench.observed.mature(bench.trial, 10.0 + HORIZON_S)
    assert (await bench.observed.read(bench.trial, 1))[1] == {"label:-200": 1}


async def test_a_look_that_fails_is_not_the_last(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk when it matters most: the guard looks again, and rolls back once there is room."""
    await bench.saw(by=0.25)
    stopping, fsync = asyncio.Event(), os.fsync
    failed: list[int] = []

    def full(handle: int) -> None:
        if len(failed) < 3:
            failed.append(handle)
            raise OSError("no space left")
        fsync(handle)

    monkeypatch.setattr("os.fsync", full)
    running = asyncio.create_task(bench.guardian.run(stopping, every_s=0.0))
    await wait_until(lambda: bool(bench.alerts))
    stopping.set()
    await running
    assert len(failed) == 3
    assert bench.registry.head().lineup.challenger == ""


async def test_a_damaged_line_of_the_audit_does_not_blind_the_guard(bench: Bench) -> None:
    path = bench.folder / "churn" / "journal.jsonl"
    _first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"rubbish\n" + b"".join(rest))
    await bench.saw(by=0.25)
    guardian = bench.guard()
    await guardian.look()
    verdict = await guardian.look()
    assert verdict is not None
    assert verdict.decision is GuardDecision.BREACH
    assert bench.registry.head().lineup.challenger == ""
    assert len(bench.alerts) == 1


async def test_only_so_many_predictions_wait(bench: Bench, client: aioredis.Redis, namespace: str) -> None:
    many = [Prediction(f"a{number}", float(number), 0.5, 0.5) for number in range(MAX_AWAITED + 50)]
    await bench.observed.wait_for("b-1", many, HORIZON_S)
    assert await client.zcard(f"{namespace}:{{models}}:awaited:b-1") == MAX_AWAITED


async def test_the_alert_rides_p1_once(
    bench: Bench, client: aioredis.Redis, namespace: str, url: str
) -> None:
    settings = msgspec.structs.replace(
        free_settings(Path("unused")), redis_url=url, namespace=namespace, model_owner="ml-team"
    )
    servers = Servers(settings, timeout_s=2.0)
    alarm = Alarm(kind="rollback", key="k", title="Churn model b was rolled back", body="shift up 0.25")
    alert = OwnerAlert(settings, servers, bench.clock)
    await alert(alarm)
    await alert(alarm)
    await servers.aclose()
    keys = LaneKeys(namespace, "p1")
    blocks: list[Any] = []
    for partition in range(settings.p1_partitions):
        blocks += list(await client.xrange(keys.stream(partition)) or [])
    ((_, fields),) = blocks
    ((envelope),) = msgspec.msgpack.decode(fields[b"b"], type=list[Envelope])
    assert envelope.notification.recipient == "ml-team"
    assert envelope.notification.title == alarm.title
    assert "shift up 0.25" in envelope.notification.body
