"""An atomic request over several lanes, when one of them fails after another stored its part."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2
import msgspec
import pytest
from redis import asyncio as aioredis

from serve_deployments.notifications import Notifications
from tocsin.errors import OverloadedError, StorageUnavailableError
from tocsin.settings import Settings
from tocsin.streams.lanes import Lane
from tocsin.streams.records import Placement, Record
from tocsin.wire.lanes import LaneName

BATCH = [
    {"type": "reminder", "title": "t", "recipient": "r"},
    {"type": "emergency", "title": "t", "recipient": "r"},
    {"type": "device_alert", "alert_type": "low_battery", "title": "t", "recipient": "r"},
]
FULL = OverloadedError("storage is at its memory limit", retry_after_s=5.0)
AWAY = StorageUnavailableError("storage did not answer")


class FailsOnce:
    """A lane whose first append fails; `late`: after it was stored."""

    def __init__(self, lane: Lane, error: Exception, *, late: bool) -> None:
        self._lane = lane
        self._error: Exception | None = error
        self._late = late

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lane, name)

    async def append(self, records: Sequence[Record], **how: Any) -> list[Placement]:
        error, self._error = self._error, None
        if error is not None and not self._late:
            raise error
        placed = await self._lane.append(records, **how)
        if error is not None:
            raise error
        return placed


@pytest.fixture
async def app(url: str, namespace: str) -> AsyncIterator[Notifications]:
    made = Notifications(msgspec.structs.replace(Settings.from_env({}), redis_url=url, namespace=namespace))
    yield made
    await made._lanes.client.aclose()


async def post(app: Notifications, key: str = "", **params: str) -> httpx2.Response:
    transport = httpx2.ASGITransport(app.__serve_build_asgi_app__())
    headers = {"idempotency-key": key} if key else {}
    async with httpx2.AsyncClient(transport=transport, base_url="http://platform") as http:
        return await http.post("/", json=BATCH, params=params, headers=headers)


async def accepted(client: aioredis.Redis, app: Notifications) -> dict[str, int]:
    lanes = app._lanes.lanes
    return {name: int(await client.hget(lane.keys.counts, "accepted") or 0) for name, lane in lanes.items()}


def break_lane(app: Notifications, name: LaneName, error: Exception, *, late: bool = False) -> None:
    app._lanes.lanes[name] = FailsOnce(app._lanes.lanes[name], error, late=late)  # type: ignore[assignment]


@pytest.mark.parametrize("error", [FULL, AWAY])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("key", ["", "the-callers-own"])
async def test_what_is_half_stored_is_said_and_a_repeat_completes_it(
    app: Notifications, client: aioredis.Redis, error: Exception, late: bool, key: str
) -> None:
    break_lane(app, LaneName.P1, error, late=late)
    answer = await post(app, key, atomic="true")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:tocsin:problem:storage-unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert "p1 did not confirm" in answer.json()["detail"]
    found = re.search(r"Idempotency-Key: (\S+)`", answer.json()["hint"])
    assert found is not None
    assert not key or found[1] == key
    assert await accepted(client, app) == {"p0": 1, "p1": int(late), "p2": 0}
    repeat = (await post(app, found[1], atomic="true")).json()
    assert (repeat["accepted"], [one["index"] for one in repeat["receipts"]]) == (3, [0, 1, 2])
    assert {one["lane"]: one["duplicate"] for one in repeat["receipts"]} == {
        "p0": True,
        "p1": late,
        "p2": False,
    }
    assert await accepted(client, app) == {"p0": 1, "p1": 1, "p2": 1}


async def test_when_the_first_lane_is_full_nothing_was_stored_and_the_answer_is_429(
    app: Notifications, client: aioredis.Redis
) -> None:
    break_lane(app, LaneName.P0, FULL)
    assert (await post(app, atomic="true")).status_code == 429
    assert set((await accepted(client, app)).values()) == {0}


async def test_when_the_first_lane_does_not_answer_it_may_be_stored_and_a_repeat_completes_it(
    app: Notifications, client: aioredis.Redis
) -> None:
    break_lane(app, LaneName.P0, AWAY, late=True)
    answer = await post(app, atomic="true")
    found = re.search(r"Idempotency-Key: (\S+)`", answer.json()["hint"])
    assert (answer.status_code, found is not None) == (503, True)
    assert found is not None
    assert (await post(app, found[1], atomic="true")).json()["accepted"] == 3
    assert await accepted(client, app) == {"p0": 1, "p1": 1, "p2": 1}


async def test_one_that_is_not_atomic_keeps_its_receipts(app: Notifications) -> None:
    break_lane(app, LaneName.P2, FULL)
    body = (await post(app)).json()
    assert (body["accepted"], body["rejected"], body["errors"][0]["code"]) == (2, 1, "overloaded")
