"""What each source holds of a lane, as several replicas know it over a real server, and who is refused for it."""

from __future__ import annotations

import pytest
from redis import asyncio as aioredis

from routing.intake.admission import MAX_SOURCES, AdmissionReason
from tests.gates import PARTITIONS, Post, delivered
from tocsin.wire.lanes import LaneName


@pytest.fixture
async def post(client: aioredis.Redis, namespace: str) -> Post:
    made = Post(client, namespace, p2_max_records=100)
    await made.lane.ensure_groups()
    return made


async def test_a_lane_more_than_half_full_is_shared_between_its_sources(post: Post) -> None:
    assert await post.admits(60, "flood") == (True, AdmissionReason.NONE)
    await post.send(60)
    assert await post.admits(31, "flood") == (False, AdmissionReason.SHARE)
    assert await post.admits(10, "quiet") == (True, AdmissionReason.NONE)
    assert await post.admits(1, "flood") == (False, AdmissionReason.SHARE)


async def test_under_an_idempotency_key_a_lanes_records_go_in_together_or_not_at_all(post: Post) -> None:
    assert await post.admits(60, "flood") == (True, AdmissionReason.NONE)
    sources = {"flood": 31, "quiet": 1}
    apart = await post.gate.decide(LaneName.P2, sources, whole=False)
    assert {source: one.admit for source, one in apart.items()} == {"flood": False, "quiet": True}
    together = await post.gate.decide(LaneName.P2, sources, whole=True)
    assert [one.admit for one in together.values()] == [False, False]


async def test_what_a_source_holds_is_known_to_every_replica(
    post: Post, client: aioredis.Redis, namespace: str
) -> None:
    other = Post(client, namespace, p2_max_records=100)
    assert await post.admits(60, "flood") == (True, AdmissionReason.NONE)
    await post.send(60)
    assert await other.admits(1, "quiet") == (True, AdmissionReason.NONE)  # nobody told it yet
    await post.facts()  # tells
    await other.facts()
    assert await other.admits(1, "flood") == (False, AdmissionReason.SHARE)
    assert await other.admits(1, "quiet") == (True, AdmissionReason.NONE)
    assert await client.ttl(post.lane.keys.sources) > 0


async def test_holdings_shrink_as_the_lane_drains(post: Post) -> None:
    await post.admits(40, "one")
    await post.admits(20, "two")
    await post.send(60)
    holdings = post.gate._holdings[LaneName.P2]
    await post.facts()
    assert (holdings.held("one"), holdings.held("two")) == (40.0, 20.0)
    read = await post.lane.read("c", range(PARTITIONS), count=100, block_ms=1)
    await post.lane.settle(read[:3], delivered(post.lane, 30))
    await post.facts()
    assert (holdings.held("one"), holdings.held("two")) == (20.0, 10.0)
    await post.lane.settle(read[3:], delivered(post.lane, 30))
    await post.facts()
    assert (holdings.held("one"), holdings.active("one")) == (0.0, 2)  # remembered for a while


async def test_what_failed_to_be_stored_is_held_by_nobody_for_long(post: Post) -> None:
    await post.admits(50, "flood")  # and then the append fails
    await post.facts()
    assert post.gate._holdings[LaneName.P2].held("flood") == 0.0


async def test_a_late_lane_refuses_the_source_that_floods_alone(
    client: aioredis.Redis, namespace: str
) -> None:
    post = Post(client, namespace)
    await post.lane.ensure_groups()
    assert await post.admits(10, "quiet") == (True, AdmissionReason.NONE)
    assert await post.admits(1500, "flood") == (True, AdmissionReason.NONE)
    await post.send(1510)
    assert not (await post.facts()).capacity_per_s  # nobody drained anything yet
    assert await post.admits(1, "flood") == (False, AdmissionReason.SHARE)
    assert await post.admits(500, "quiet") == (True, AdmissionReason.NONE)


async def test_the_sources_on_the_server_are_bounded(
    post: Post, client: aioredis.Redis, namespace: str
) -> None:
    other = Post(client, namespace, p2_max_records=100)
    for each in (post, other):
        for number in range(MAX_SOURCES):
            each.gate.take(LaneName.P2, {f"s{id(each)}-{number}": 1})
        await each.facts()
    assert await client.hlen(post.lane.keys.sources) <= MAX_SOURCES + 1
