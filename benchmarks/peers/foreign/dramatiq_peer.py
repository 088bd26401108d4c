"""Dramatiq: a queue a priority, actors with priorities, three processes of 8 threads which consume both queues.

A process fetches from each queue on its own and hands what it fetched to its threads by priority, so a P0 never waits
behind the P2 backlog. Reserving a process for P0 made neither faster. Each queue prefetches 100 rather than 16
(`dramatiq_queue_prefetch`). Dramatiq has no bulk send: 8 threads send at once, so that their writes share an fsync.
"""

from __future__ import annotations

import asyncio
import time

import dramatiq
import tally
from dramatiq.brokers.redis import RedisBroker

SENDERS = 8

broker = RedisBroker(url=tally.URL)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="p0", priority=0)
def handle_p0(number: int, sent_at: float) -> None:
    """Note how long it took."""
    tally.p0(number, sent_at)


@dramatiq.actor(queue_name="p2", priority=10)
def handle_p2(number: int) -> None:  # noqa: ARG001 (what is sent)
    """Do nothing."""
    tally.p2()


def _send_p2(numbers: range) -> None:
    for number in numbers:
        handle_p2.send(number)


def _send_p0(number: int) -> None:
    handle_p0.send(number, time.time())


async def send_p2(first: int, count: int) -> None:
    """Send P2 of consecutive numbers."""
    shares = [range(first + offset, first + count, SENDERS) for offset in range(SENDERS)]
    await asyncio.gather(*(asyncio.to_thread(_send_p2, share) for share in shares))


async def send_p0(number: int) -> None:
    """Send a P0."""
    await asyncio.to_thread(_send_p0, number)
