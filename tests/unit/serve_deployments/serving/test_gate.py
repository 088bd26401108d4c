from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from routing.intake.admission import AdmissionDecision, AdmissionPolicy, AdmissionReason
from serve_deployments.serving import gate as gate_module
from serve_deployments.serving.gate import Gate, LaneSample, ServerMemory, capacity, read_memory, refusal
from tests.fakes import ManualClock
from tocsin.settings import Settings
from tocsin.wire.lanes import LaneName

INFO = "# Memory\r\nused_memory:1500\r\nused_memory_human:1.46K\r\nmaxmemory:4000\r\nmem_not_counted_for_evict:500\r\n"


def test_what_the_server_leaves_out_of_its_limit_is_left_out() -> None:
    assert read_memory(INFO) == ServerMemory(1000, 4000)


def test_a_server_that_says_nothing_has_no_limit() -> None:
    assert read_memory("") == ServerMemory(0, 0)


def test_where_no_block_waits_only_retries_are_left() -> None:
    drifted = [INFO.encode(), 2000, 0, 3, 2000, 100, 50]  # a block set aside was accepted and never finished
    assert LaneSample.read(drifted).records == 3
    assert LaneSample.read([INFO.encode(), 2000, 1, 3, 1000, 100, 50]).records == 50


@pytest.mark.parametrize("reason", [reason for reason in AdmissionReason if reason])
def test_a_refusal_names_lane_reason_and_time(reason: AdmissionReason) -> None:
    error = refusal(LaneName.P2, AdmissionDecision(admit=False, reason=reason, retry_after_s=7.0))
    assert error.message.startswith(f"p2 takes no more records now ({reason.value}): ")
    assert error.retry_after_s == 7.0
    assert "7 s" in error.hint


def sample(now_s: float, waiting: int, finished: int) -> LaneSample:
    return LaneSample(ServerMemory(0, 0), now_s, waiting, 0, now_s, waiting + finished, finished)


def test_a_lane_can_do_at_least_what_it_did() -> None:
    assert capacity(0.0, sample(0, 10, 0), sample(1, 0, 100)) == 100.0
    assert (
        capacity(0.0, sample(0, 10, 0), sample(0.5, 0, 100)) == 100.0
    )  # half of what it may have been by chance
    assert capacity(500.0, sample(0, 10, 0), sample(0.5, 0, 100)) == 500.0  # it had little to do


def test_a_busy_lane_that_gets_slower_is_known_to_within_seconds() -> None:
    known, finished = 10_000.0, 0
    for step in range(40):
        before = sample(step / 4, 5000, finished)
        finished += 25
        known = capacity(known, before, sample((step + 1) / 4, 5000, finished))
    assert 100.0 <= known < 102.0


def test_a_pause_between_samples_says_nothing_about_being_slow() -> None:
    assert capacity(500.0, sample(0, 5000, 0), sample(60, 5000, 60)) == 500.0


def test_bunches_are_not_taken_for_the_pace() -> None:
    known, finished = 0.0, 0
    for step in range(200):  # 400 at once every second, else nothing
        before = sample(step / 4, 5000, finished)
        finished += 400 if step % 4 == 0 else 0
        known = capacity(known, before, sample((step + 1) / 4, 5000, finished))
    assert 200.0 < known < 600.0  # of 400, where a bunch alone looks like 1,600


async def test_a_send_does_not_wait_for_a_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes by the sample before; where there never was one, the gate lets in, and the write finds out."""
    asked = asyncio.Event()

    async def never(_lane: object) -> LaneSample:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(gate_module, "take_sample", never)
    monkeypatch.setattr(gate_module, "SAMPLE_WAIT_S", 0.0)
    lane: Any = SimpleNamespace(
        name="p2", client=object(), keys=SimpleNamespace(reports="", shares=""), partitions=1
    )
    policy = AdmissionPolicy.of(Settings.from_env({}))
    clock = ManualClock()
    gate = Gate({LaneName.P2: lane}, policy, clock)
    assert await gate.facts(LaneName.P2) is None
    assert asked.is_set()
    gate._samples[LaneName.P2] = sample(0.0, 7, 3)
    gate._drains[LaneName.P2] = (gate._samples[LaneName.P2], 0.0)
    clock.advance(60)
    facts = await gate.facts(LaneName.P2)
    assert facts is not None
    assert facts.waiting == 7
    task = gate._servers[LaneName.P2].task
    assert task is not None
    task.cancel()
    await asyncio.wait({task})
