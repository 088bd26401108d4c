"""What the platform stands on is killed, paused and cut; nothing accepted is lost, and it heals by itself."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx2
import psutil
import pytest

from launch.local_client import fetch
from tests.support import eventually, member_stats
from tocsin import Client
from tocsin.settings import Settings
from tocsin.storage.embedded import process_of, read_endpoint
from tocsin.wire.notifications import NotificationRequest, NotificationState

pytestmark = [pytest.mark.integration, pytest.mark.chaos]


def storage_process(settings: Settings) -> psutil.Process:
    endpoint = read_endpoint(settings.data_path)
    assert endpoint is not None
    process = process_of(endpoint)
    assert process is not None
    return process


def handled(settings: Settings, lane: str) -> dict[str, Any] | None:
    """A lane's status once no block waits; what other tests put off until later may stay."""
    status: dict[str, Any] = next(item for item in fetch(settings)["lanes"] if item["lane"] == lane)
    return None if status["blocks_waiting"] + status["blocks_pending"] else status


@contextlib.contextmanager
def paused(settings: Settings) -> Iterator[psutil.Process]:
    """Storage that hangs."""
    process = storage_process(settings)
    process.suspend()
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()
        eventually(lambda: httpx2.get(settings.base_url + "/readyz").status_code == 200, what="ready again")


@pytest.fixture
def paused_storage(settings: Settings) -> Iterator[psutil.Process]:
    with paused(settings) as process:
        yield process


@pytest.mark.parametrize(("name", "lane"), [("router-p2-0", "p2"), ("router-p0-0", "p0")])
def test_killing_a_router_in_a_burst_loses_nothing(
    settings: Settings, client: Client, name: str, lane: str
) -> None:
    kind = {"p0": "emergency", "p2": "reminder"}[lane]
    before = member_stats(name)
    ids: list[str] = []
    for round_number in range(6):
        batch = [
            NotificationRequest(type=kind, title="Burst", recipient=f"k{round_number}-{i}", source="chaos")
            for i in range(400)
        ]
        ids += [receipt.id for receipt in client.send_many(batch).receipts]
        if round_number == 2:
            os.kill(before.pid, signal.SIGKILL)
    status = eventually(lambda: handled(settings, lane), what="the end of the burst")
    counts = status["counts"]
    finished = sum(counts.get(state, 0) for state in ("delivered", "suppressed", "expired", "dead", "purged"))
    assert finished + status["retrying"] >= counts["accepted"], counts  # perhaps twice, never not at all
    assert len(set(ids)) == 2400
    for notification_id in ids[:: len(ids) // 50]:
        assert client.status(notification_id).state is NotificationState.DELIVERED
    after = eventually(lambda: member_stats(name), what="the restarted router")
    assert after.pid != before.pid


def test_while_storage_hangs_sends_are_refused_and_answers_degrade(
    settings: Settings, client: Client, trained: list[str], paused_storage: psutil.Process
) -> None:
    url = settings.base_url
    refused = httpx2.post(
        f"{url}/v1/notifications", json={"type": "emergency", "title": "x", "recipient": "r"}, timeout=20
    )
    assert refused.status_code in {503, 504}  # 504 where the deadline passes first
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["content-type"] == "application/problem+json"
    activity = {"advertiser_id": "a", "event_time": "2020-01-01T00:00:00Z"}
    assert httpx2.post(f"{url}/v1/activity", json=activity, timeout=20).status_code in {503, 504}
    churn = httpx2.get(f"{url}/v1/churn/{trained[5]}", timeout=20)
    assert churn.status_code == 200, churn.text
    assert churn.json()["degraded"] is True
    assert churn.json()["method"] in {"model", "base_rate"}
    assert churn.json()["degraded_reason"].startswith(("features as last read", "no live features"))
    insight = httpx2.get(f"{url}/v1/insights/{trained[6]}", timeout=20)
    assert insight.status_code == 200, insight.text
    assert insight.json()["degraded"] is True
    assert insight.json()["degraded_reasons"]
    assert insight.json()["recommendation"]["action"]
    assert httpx2.get(f"{url}/readyz", timeout=20).status_code == 503
    assert httpx2.get(f"{url}/healthz", timeout=20).status_code == 200
    metrics = httpx2.get(f"{url}/metrics", timeout=20)
    assert (metrics.status_code, "tocsin_up 0.0" in metrics.text) == (200, True)


def test_while_storage_hangs_features_come_from_memory_and_say_so(
    settings: Settings, client: Client, trained: list[str]
) -> None:
    seen = client.features(trained[0])
    with paused(settings):
        for name in (trained[0], trained[9]):  # served lately, and only the shards remember
            answer = httpx2.get(f"{settings.base_url}/v1/features/{name}", timeout=20)
            assert answer.status_code == 200, answer.text
            assert answer.json()["degraded"] is True
            assert {one["status"] for one in answer.json()["features"].values()} <= {"stale", "missing"}
            if name == trained[0]:
                spend = answer.json()["features"]["lifetime_spend"]["value"]
                assert spend == seen.features["lifetime_spend"].value


def test_after_the_pause_everything_is_as_before(
    settings: Settings, client: Client, trained: list[str]
) -> None:
    receipt = client.send(type="emergency", title="After", recipient="after")
    assert client.wait(receipt.id, timeout_s=20).state is NotificationState.DELIVERED
    eventually(lambda: not client.churn(trained[5]).degraded, what="a full prediction")
    eventually(lambda: not client.insight(trained[6]).degraded, what="a full insight")


def test_killed_storage_comes_back_with_everything_that_was_accepted(
    settings: Settings, client: Client
) -> None:
    waiting = [
        client.send(type="reminder", title="Kept", recipient=f"s{i}", source="chaos").id for i in range(20)
    ]
    process = storage_process(settings)
    process.kill()
    eventually(lambda: storage_process(settings).pid != process.pid, what="a new storage process")
    eventually(lambda: httpx2.get(settings.base_url + "/readyz").status_code == 200, what="ready again")
    for notification_id in waiting:
        assert client.wait(notification_id, timeout_s=30).state is NotificationState.DELIVERED
    receipt = client.send(type="emergency", title="Back", recipient="back")
    assert client.wait(receipt.id, timeout_s=20).state is NotificationState.DELIVERED


def test_the_faults_that_were_survived_are_told(settings: Settings) -> None:
    """By the routers, after the restart above: every one of them met a server that was away."""

    def told() -> bool:
        page = httpx2.get(settings.base_url + "/metrics", timeout=20).text
        lines = [line for line in page.splitlines() if line.startswith("tocsin_faults_total{")]
        return any('fault="storage",lane="p0"' in line and not line.endswith(" 0.0") for line in lines)

    eventually(told, what="a fault of p0's routers in the metrics")
