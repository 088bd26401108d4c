"""`/v1/churn` as it answers, with vectors from memory and a registry in a folder: no Redis, no Serve."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import numpy as np
import pytest

from models.dataset.inputs import INPUTS
from models.dataset.matrix import Floats, to_raw
from models.prediction.churn import ChurnModel
from models.registry.lineup import RolloutPolicy, RolloutStage
from models.registry.registry import Registry
from models.training.card import TrainedModel
from serve_deployments.churn import Churn
from serve_deployments.serving.micro_batcher import MicroBatcher
from serve_deployments.serving.vector_reader import RECENCY, Rows
from tests.fakes import START, ManualClock, wait_until
from tests.unit.models.conftest import events, trained
from tocsin.errors import ModelUnavailableError, StorageUnavailableError
from tocsin.settings import Settings

__all__ = ["events", "trained"]

NAMES = [f"advertiser {number}" for number in range(40)]
ACTIVE = NAMES[:28]  # by days since their last campaign
HALF = RolloutPolicy(shares=(0.5,))


class Vectors:
    """Rows for `NAMES`; may be told that storage is down, and whether it remembers."""

    def __init__(self, card: Any) -> None:
        quiet = {"spend_7d": 0.0, "active_weeks_4w": 1.0, "gap_ratio": 4.0}
        rows = [
            {**card.typical, "days_since_last_campaign": float(number), **(quiet if number > 14 else {})}
            for number in range(len(NAMES))
        ]
        self._rows = dict(zip(NAMES, to_raw(rows, INPUTS), strict=True))
        self.reads: list[list[str]] = []
        self.down = False
        self.remembers = 0
        self.stale = False
        self.ages_s = {name: float(number) for number, name in enumerate(NAMES)}

    async def read(self, advertiser_ids: Sequence[str], asked: float | None) -> Rows:
        self.reads.append(list(advertiser_ids))
        known = NAMES[: self.remembers] if self.down else NAMES
        found = [name for name in advertiser_ids if name in known]
        if self.down and not found:
            raise StorageUnavailableError("storage is away")
        unknown = [name for name in advertiser_ids if name not in known]
        raw = np.array([self._rows[name] for name in found]).reshape(len(found), len(INPUTS))
        stale = np.full(len(found), self.down or self.stale)
        ages_s: list[float | None] = [self.ages_s[name] for name in found]
        return Rows(
            found, raw, stale, ages_s, asked or START, unknown, "storage is away" if self.down else ""
        )

    async def active(self, since_s: float, limit: int) -> list[str]:  # noqa: ARG002 (as the real one's)
        return NAMES[:limit]


class Faulty(ChurnModel):
    """A model that fails, or takes its time."""

    fails, takes_s, wrong = False, 0.0, False

    def _predict(self, raw: Floats) -> Floats:
        if self.fails:
            raise ValueError("planted")
        time.sleep(self.takes_s)
        if self.wrong:
            self._score = lambda rows: np.full(len(rows), np.nan)
        return super()._predict(raw)


class Faults(Registry):
    """A registry whose versions may be told to fail, take their time, or not load."""

    def __init__(self, root: Path, clock: ManualClock) -> None:
        super().__init__(root, clock=clock)
        self.faults: dict[str, str] = {}

    def load(self, version: str | None = None) -> ChurnModel:
        fault = self.faults.get(version or "")
        if fault == "broken":
            raise ModelUnavailableError("damaged")
        if fault == "odd":
            raise AttributeError("of another release")
        model = super().load(version)
        if fault:
            model.__class__ = Faulty
            model.fails, model.takes_s = fault == "fails", 0.4 if fault == "slow" else 0.0  # type: ignore[attr-defined]
            model.wrong = fault == "wrong"  # type: ignore[attr-defined]
        return model


class Bench:
    """An application with its registry, vectors and clock."""

    def __init__(self, trained: TrainedModel, folder: Path) -> None:
        self.clock = ManualClock()
        self.trained = trained
        self.registry = Faults(folder, self.clock)
        settings = msgspec.structs.replace(
            Settings.from_env({}), redis_url="redis://127.0.0.1:1", shadow_sample=1.0
        )
        self.app = Churn(settings, self.clock, self.registry)
        self.vectors = Vectors(trained.card)
        self.app.predictor.vectors = self.vectors  # type: ignore[assignment]
        transport = httpx2.ASGITransport(app=self.app.__serve_build_asgi_app__())
        self.http = httpx2.AsyncClient(transport=transport, base_url="http://test")

    def save(self, minutes: int = 0) -> str:
        moment = self.trained.card.created_at + timedelta(minutes=minutes)
        return self.registry.save(
            replace(self.trained, card=msgspec.structs.replace(self.trained.card, created_at=moment))
        )

    async def champion(self) -> str:
        version = self.save()
        self.registry.promote(version)
        await self.app.predictor.follow()
        return version

    async def challenger(self, stage: RolloutStage, fault: str = "") -> str:
        version = self.save(minutes=1)
        if stage is RolloutStage.WATCH:
            self.registry.promote(version)
        else:
            self.registry.begin(version, HALF)
        if stage is RolloutStage.CANARY:
            self.registry.advance()
        if fault:  # one that shows only where it serves
            self.registry.faults[version] = fault
        await self.app.predictor.follow()
        return version

    async def get(self, path: str, status: int = 200) -> Any:
        answer = await self.http.get(path)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def all(self, **asked: Any) -> dict[str, Any]:
        answer = await self.http.post("/", json={"advertiser_ids": NAMES, **asked})
        assert answer.status_code == 200, answer.text
        return {found["advertiser_id"]: found for found in answer.json()["predictions"]}

    def counts(self) -> dict[str, int]:
        return self.app.predictor.shadow.observations.counts()


@pytest.fixture
async def bench(trained: TrainedModel, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(trained, tmp_path)
    async with made.http:
        yield made


async def test_without_a_model_recency_answers_and_says_so(bench: Bench) -> None:
    found = await bench.all()
    assert {(one["method"], one["degraded"], one["model_version"]) for one in found.values()} == {
        ("recency", True, "")
    }
    assert found[NAMES[0]]["degraded_reason"] == "there is no model yet"
    probabilities = [found[name]["probability"] for name in NAMES]
    assert probabilities == sorted(probabilities)
    assert probabilities[0] < 0.2
    assert probabilities[27] > 0.8


async def test_a_model_is_picked_up_without_a_restart(bench: Bench) -> None:
    await bench.get(f"/{NAMES[3]}")
    version = await bench.champion()
    found = await bench.get(f"/{NAMES[3]}")
    assert (found["method"], found["degraded"], found["model_version"]) == ("model", False, version)


async def test_an_unknown_advertiser_is_not_found(bench: Bench) -> None:
    await bench.champion()
    await bench.get("/nobody", 404)
    then = await bench.get("/nobody?as_of=2019-01-01T00:00:00Z", 404)
    assert "no activity before 2019-01-01" in then["detail"]
    answer = await bench.http.post("/", json={"advertiser_ids": ["nobody", NAMES[0]]})
    assert answer.json()["unknown"] == ["nobody"]


async def test_drivers_are_given_unless_not_wanted(bench: Bench) -> None:
    await bench.champion()
    assert (await bench.get(f"/{NAMES[25]}"))["drivers"]
    assert (await bench.get(f"/{NAMES[25]}?drivers=false"))["drivers"] == []
    assert not any(found["drivers"] for found in (await bench.all()).values())
    assert any(found["drivers"] for found in (await bench.all(drivers=True)).values())
    await bench.get(f"/{NAMES[25]}?drivers=perhaps", 422)


async def test_questions_at_the_same_time_are_one_read(bench: Bench) -> None:
    await bench.champion()
    alone = {name: (await bench.get(f"/{name}"))["probability"] for name in NAMES}
    bench.vectors.reads.clear()
    found = await asyncio.gather(*(bench.get(f"/{name}") for name in (*NAMES, NAMES[0], "nobody")[:-1]))
    assert {one["advertiser_id"]: one["probability"] for one in found} == pytest.approx(alone)
    assert len(bench.vectors.reads) <= 2


async def test_without_storage_it_answers_on_what_it_read_last_then_with_the_base_rate(bench: Bench) -> None:
    await bench.champion()
    before = await bench.all()
    bench.vectors.down, bench.vectors.remembers = True, 10
    found = await bench.all()
    assert list(found) == NAMES
    for name in NAMES[:10]:
        assert found[name]["probability"] == before[name]["probability"]
        assert found[name]["degraded_reason"] == "features as last read: storage is away"
    assert {found[name]["method"] for name in NAMES[10:]} == {"base_rate"}
    assert all(one["degraded"] for one in found.values())
    bench.vectors.remembers = 0
    assert (await bench.get(f"/{NAMES[0]}"))["method"] == "base_rate"


async def test_with_neither_storage_nor_model_it_says_when_to_come_back(bench: Bench) -> None:
    bench.vectors.down = True
    answer = await bench.http.get(f"/{NAMES[0]}")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


async def test_stale_features_are_marked(bench: Bench) -> None:
    await bench.champion()
    bench.vectors.stale = True
    found = await bench.get(f"/{NAMES[0]}")
    assert (found["method"], found["degraded"]) == ("model", True)
    assert found["degraded_reason"] == "features are older than they should be"


async def test_every_answer_says_how_old_its_features_are(bench: Bench) -> None:
    recency = await bench.all()
    await bench.champion()
    await bench.challenger(RolloutStage.CANARY)
    by_model = await bench.all()
    for found, methods in ((recency, {"recency"}), (by_model, {"model"})):
        assert {one["method"] for one in found.values()} == methods
        assert {name: one["features_age_s"] for name, one in found.items()} == bench.vectors.ages_s


async def test_in_shadow_only_the_champion_answers(bench: Bench) -> None:
    champion = await bench.champion()
    await bench.challenger(RolloutStage.SHADOW)
    assert {one["model_version"] for one in (await bench.all()).values()} == {champion}


async def test_a_canary_answers_its_share_and_always_the_same(bench: Bench) -> None:
    champion = await bench.champion()
    challenger = await bench.challenger(RolloutStage.CANARY)
    first, second = await bench.all(), await bench.all()
    versions = {name: one["model_version"] for name, one in first.items()}
    assert set(versions.values()) == {champion, challenger}
    assert versions == {name: one["model_version"] for name, one in second.items()}
    for name in NAMES[:8]:
        assert (await bench.get(f"/{name}"))["model_version"] == versions[name]


@pytest.mark.parametrize("fault", ["fails", "slow", "broken", "odd", "wrong"])
async def test_a_canary_at_fault_fails_no_request_and_is_noticed(bench: Bench, fault: str) -> None:
    champion = await bench.champion()
    await bench.challenger(RolloutStage.CANARY, fault)
    found = await bench.all()
    assert {(one["model_version"], one["degraded"]) for one in found.values()} == {(champion, False)}
    assert bench.counts()["late" if fault == "slow" else "error:judged"] == 1


async def test_a_canary_that_many_ask_at_once_answers_all_its_share(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_deployments.serving.predictor.CANARY_DEADLINE_S", 30.0)
    await bench.champion()
    challenger = await bench.challenger(RolloutStage.CANARY)
    first, *rest = await asyncio.gather(*(bench.all(drivers=True) for _ in range(12)))
    answered = {name: one["model_version"] for name, one in first.items()}
    assert challenger in answered.values()
    assert [{name: one["model_version"] for name, one in found.items()} for found in rest] == [answered] * 11
    assert bench.counts() == {"in_time": 12, "error:none": 12}


async def test_a_model_that_could_not_be_loaded_is_tried_again(bench: Bench) -> None:
    champion = await bench.champion()
    challenger = await bench.challenger(RolloutStage.CANARY, "broken")
    bench.registry.faults.clear()
    await bench.app.predictor.follow()
    assert {one["model_version"] for one in (await bench.all()).values()} == {champion}
    bench.clock.advance(31.0)
    await bench.app.predictor.follow()
    assert {one["model_version"] for one in (await bench.all()).values()} == {champion, challenger}


async def test_scores_that_are_no_numbers_are_failures_and_stop_nothing(bench: Bench) -> None:
    await bench.champion()
    await bench.challenger(RolloutStage.SHADOW, "wrong")
    await bench.all()
    await bench.app.predictor.shadow.score()
    assert bench.counts() == {"error:judged": 1}


async def test_what_runs_beside_the_requests_goes_on_after_an_error(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_deployments.churn.LOOK_EVERY_S", 0.0)
    followed: list[int] = []

    async def follow() -> None:
        followed.append(1)
        raise RuntimeError("planted")

    monkeypatch.setattr(bench.app.predictor, "follow", follow)
    running = asyncio.create_task(bench.app.warm())
    await wait_until(lambda: len(followed) > 2, timeout_s=30.0)
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_model_that_always_fails_does_not_fill_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.champion()
    await bench.challenger(RolloutStage.CANARY, "fails")
    for minute in (1, 2):
        for _ in range(5):
            await bench.all()
        assert len([one for one in caplog.records if one.exc_info]) == minute
        bench.clock.advance(61.0)


@pytest.mark.parametrize("fault", ["fails", "broken"])
async def test_a_new_champion_at_fault_leaves_the_answer_to_the_one_before(bench: Bench, fault: str) -> None:
    before = await bench.champion()
    await bench.challenger(RolloutStage.WATCH, fault)
    found = await bench.all()
    assert {(one["model_version"], one["method"]) for one in found.values()} == {(before, "model")}


async def test_a_lone_champion_that_fails_leaves_it_to_recency(bench: Bench) -> None:
    bench.registry.faults[version := bench.save()] = "fails"
    bench.registry.promote(version)
    await bench.app.predictor.follow()
    found = await bench.get(f"/{NAMES[5]}")
    assert (found["method"], found["degraded_reason"]) == ("recency", f"model {version} fails")


async def test_a_registry_that_cannot_be_read_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    version = await bench.champion()
    (tmp_path / "churn" / "journal.jsonl").write_bytes(b"rubbish\n" * 9)
    await bench.app.predictor.follow()
    assert (await bench.get(f"/{NAMES[0]}"))["model_version"] == version


async def test_a_new_replica_says_that_the_registry_cannot_be_read(bench: Bench, tmp_path: Path) -> None:
    bench.save()
    (tmp_path / "churn" / "journal.jsonl").write_bytes(b"rubbish\n")
    found = await bench.get(f"/{NAMES[0]}")
    assert (found["method"], found["degraded_reason"]) == ("recency", "the model registry cannot be read")


async def test_what_was_answered_is_scored_by_both_beside(bench: Bench) -> None:
    await bench.champion()
    await bench.challenger(RolloutStage.SHADOW)
    shadow = bench.app.predictor.shadow
    running = asyncio.create_task(shadow.run())
    for _ in range(3):  # an advertiser counts once, however often it is asked about
        await bench.all()
    await wait_until(lambda: not shadow._queue and bool(shadow._unsent))
    running.cancel()
    counts = bench.counts()
    assert counts["fresh"] == counts["diff:0"] == counts["rows"] == len(ACTIVE)
    assert {prediction.advertiser_id for prediction in shadow._unsent} == set(ACTIVE)


async def test_a_queue_that_is_full_drops_and_counts(bench: Bench) -> None:
    await bench.champion()
    await bench.challenger(RolloutStage.SHADOW)
    for _ in range(20):  # nobody scores
        await bench.all()
    assert bench.counts()["dropped"] == (20 - 512 // len(ACTIVE)) * len(ACTIVE)


async def test_those_at_risk_come_likeliest_first(bench: Bench) -> None:
    await bench.champion()
    found = await bench.get("/at-risk?limit=5")
    probabilities = [one["probability"] for one in found["predictions"]]
    everybody = sorted((one["probability"] for one in (await bench.all()).values()), reverse=True)
    assert probabilities == pytest.approx(everybody[:5])
    assert (found["scored"], found["age_s"]) == (len(NAMES), 0.0)
    bench.vectors.reads.clear()
    bench.clock.advance(30.0)
    assert (await bench.get("/at-risk?limit=3"))["age_s"] == 30.0
    assert [len(read) for read in bench.vectors.reads] == [3]
    await bench.get("/at-risk?limit=0", 422)


async def test_the_recency_column_is_where_the_rule_looks() -> None:
    assert INPUTS[RECENCY] == "days_since_last_campaign"


class TestBatcher:
    async def test_what_arrives_during_a_batch_is_the_next_one(self) -> None:
        batches: list[list[int]] = []
        go = asyncio.Event()

        async def work(questions: Sequence[int]) -> list[int]:
            batches.append(list(questions))
            await go.wait()
            return [question * 2 for question in questions]

        batcher: MicroBatcher[int, int] = MicroBatcher(work, most=3, at_once=1)
        first = asyncio.create_task(batcher.ask(0))
        await wait_until(lambda: bool(batches))
        rest = [asyncio.create_task(batcher.ask(number)) for number in range(1, 6)]
        await asyncio.sleep(0)
        go.set()
        assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8, 10]
        assert batches == [[0], [1, 2, 3], [4, 5]]

    async def test_who_asks_again_at_once_is_not_missed(self) -> None:
        async def work(questions: Sequence[int]) -> list[int]:
            return list(questions)

        batcher: MicroBatcher[int, int] = MicroBatcher(work, most=3, at_once=1)
        async with asyncio.timeout(5.0):
            for number in range(5):
                assert await batcher.ask(number) == number

    async def test_an_error_reaches_only_whom_it_concerns(self) -> None:
        async def work(questions: Sequence[int]) -> list[int | Exception]:
            return [ValueError("odd") if question % 2 else question for question in questions]

        batcher: MicroBatcher[int, int] = MicroBatcher(work, most=8)
        answers = await asyncio.gather(*(batcher.ask(number) for number in range(4)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [int, ValueError, int, ValueError]

    async def test_work_that_fails_fails_everybody_in_it_and_nobody_after(self) -> None:
        calls = 0

        async def work(questions: Sequence[int]) -> list[int]:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise OSError("once")
            return list(questions)

        batcher: MicroBatcher[int, int] = MicroBatcher(work, most=8)
        with pytest.raises(OSError, match="once"):
            await batcher.ask(1)
        assert await batcher.ask(2) == 2
