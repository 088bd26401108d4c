"""taskiq: `RedisStreamBroker`, the one that acknowledges; a stream a priority, one process for P0 and two for P2.

taskiq has no priorities of its own. Up to 300 jobs of a process run at once on its event loop (uvloop), 500 entries a
read, orjson, no pydantic parsing, acknowledged when executed. Streams are trimmed at 100,000 entries, far beyond the
backlog. There is no bulk send: a chunk is sent concurrently over the pool's connections.
"""

from __future__ import annotations

import asyncio
import time

import tally
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisStreamBroker

CONNECTIONS = 100


def _broker(queue: str) -> RedisStreamBroker:
    broker = RedisStreamBroker(
        tally.URL,
        queue_name=queue,
        consumer_id="0",
        maxlen=100_000,
        xread_count=500,
        max_connection_pool_size=CONNECTIONS,
    )
    return broker.with_serializer(ORJSONSerializer())


p0_broker = _broker("p0")
p2_broker = _broker("p2")


@p0_broker.task
async def handle_p0(number: int, sent_at: float) -> None:
    """Note how long it took."""
    tally.p0(number, sent_at)


@p2_broker.task
async def handle_p2(number: int) -> None:  # noqa: ARG001 (what is sent)
    """Do nothing."""
    tally.p2()


async def send_p2(first: int, count: int) -> None:
    """Send P2 of consecutive numbers."""
    await asyncio.gather(*(handle_p2.kiq(number) for number in range(first, first + count)))


async def send_p0(number: int) -> None:
    """Send a P0."""
    await handle_p0.kiq(number, time.time())
