"""`/v1/dead-letters` as an ASGI application on a real server, without Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import msgspec
import pytest
from redis import asyncio as aioredis

from routing.deliveries import Delivery, OutcomeReason
from routing.ledger.ledger import Ledger
from serve_deployments.dead_letters import DeadLetterApplication
from tests.fakes import START
from tocsin.settings import Settings
from tocsin.streams.lanes import Lane
from tocsin.streams.records import Record
from tocsin.wire.notifications import Envelope, Notification, NotificationState

decode = msgspec.msgpack.Decoder(list[Envelope]).decode


@pytest.fixture
async def http(url: str, namespace: str) -> AsyncIterator[httpx2.AsyncClient]:
    app = DeadLetterApplication(
        msgspec.structs.replace(Settings.from_env({}), redis_url=url, namespace=namespace)
    )
    transport = httpx2.ASGITransport(app.__serve_build_asgi_app__())
    async with httpx2.AsyncClient(transport=transport, base_url="http://platform") as made:
        yield made
    await app._lanes.client.aclose()


async def kill(client: aioredis.Redis, namespace: str, lane_name: str, number: int) -> list[str]:
    """Dead letters on one lane; returns their ids."""
    lane = Lane(client, namespace=namespace, name=lane_name, partitions=1, block_records=50)
    await lane.ensure_groups()
    note = Notification("reminder", "t", "r", "", "", "", "shop", ("log",), "", 0.0, "", {}, START)
    await lane.append([Record(0, msgspec.msgpack.encode(Envelope(note))) for _ in range(number)])
    entries = await lane.read("router", [0], count=10, block_ms=1)
    deliveries = [
        Delivery(entry.record_id(index), envelope)
        for entry in entries
        for index, envelope in enumerate(decode(entry.block))
    ]
    for delivery in deliveries:
        delivery.error = "log: 410"
        delivery.decide(NotificationState.DEAD, OutcomeReason.REFUSED, START)
    ledger = Ledger(lane, client, retention_s=60.0)
    await lane.settle(entries, lambda pipe: ledger.stage(pipe, deliveries))
    return [delivery.id for delivery in deliveries]


async def test_letters_are_listed_shown_replayed_and_purged(
    http: httpx2.AsyncClient, client: aioredis.Redis, namespace: str
) -> None:
    urgent = await kill(client, namespace, "p0", 2)
    many = await kill(client, namespace, "p2", 5)
    page = (await http.get("/", params={"limit": 3, "text": "410"})).json()
    assert (page["total"], len(page["items"])) == (7, 3)
    rest = (await http.get("/", params={"limit": 500, "cursor": page["cursor"]})).json()
    assert {one["id"] for one in page["items"] + rest["items"]} == {*urgent, *many}
    assert "cursor" in rest
    assert (await http.get(f"/{urgent[0]}")).json()["replays"] == 0
    dry = (await http.post("/replay", json={"filter": {"lane": "p2"}, "dry_run": True, "limit": 2})).json()
    assert (len(dry["ids"]), dry["remaining"], dry["dry_run"]) == (2, 3, True)
    done = (await http.post("/replay", json={"filter": {"lane": "p2"}, "rate": 1000})).json()
    assert (set(done["ids"]), done["cursor"]) == (set(many), "")
    one = await http.post(f"/{urgent[0]}/replay")
    assert (one.status_code, one.json()["replayed"]) == (202, True)
    assert (await http.post(f"/{urgent[0]}/replay")).status_code == 404
    assert (await http.delete(f"/{urgent[1]}")).json() == {"id": urgent[1], "lane": "p0", "purged": True}
    assert (await http.delete(f"/{urgent[1]}")).status_code == 404
    assert (await http.post("/purge", json={"filter": {}})).json()["ids"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("GET", "?lane=p9", None, "lane"),
        ("GET", "?since=yesterday", None, "since"),
        ("GET", "?until=2026-01-31T00:00:00", None, "until"),
        ("GET", f"?text={'x' * 300}", None, "text"),
        ("GET", "?limit=0", None, "limit"),
        ("GET", "?cursor=x", None, "cursor"),
        ("POST", "/replay", b"", "body"),
        ("POST", "/replay", b"[]", "body"),
        ("POST", "/replay", b'{"rate": 0}', "rate"),
        ("POST", "/replay", b'{"limit": 1001}', "limit"),
        ("POST", "/replay", b'{"filter": {"lane": "p9"}}', "filter.lane"),
        ("POST", "/replay", b'{"colour": 1}', "colour"),
        ("POST", "/replay", b'{"cursor": "x"}', "cursor"),
        ("POST", "/purge", b"{}", "filter"),
        ("POST", "/x/replay", None, "id"),
        ("DELETE", "/x", None, "id"),
    ],
)
async def test_every_bad_value_is_a_problem_that_names_it(
    http: httpx2.AsyncClient, method: str, path: str, body: bytes | None, field: str
) -> None:
    answer = await http.request(
        method, path if path.startswith("/") else f"/{path}", content=body,
        headers={"content-type": "application/json"},
    )  # fmt: skip
    problem: dict[str, Any] = answer.json()
    assert answer.status_code == 422, problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem.get("field", "") == field, problem
