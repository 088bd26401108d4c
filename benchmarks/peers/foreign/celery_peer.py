"""Celery: a queue a priority, one solo worker for P0 and two for P2, acknowledged late, results ignored.

Cheaper a job here than a prefork pool (a pipe to the child for every job), a thread pool, or one queue with
`priority_steps` (two keys to look at for every job, and the multiplier must be 1, or P0 waits behind what was
fetched before). P2 are published over one connection; Celery has no bulk publish.
"""

from __future__ import annotations

import asyncio
import time

import tally
from celery import Celery
from kombu import Queue

app = Celery("peers", broker=tally.URL)
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_queues=[Queue("p0"), Queue("p2")],
    worker_prefetch_multiplier=64,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)


@app.task(name="p0")
def handle_p0(number: int, sent_at: float) -> None:
    """Note how long it took."""
    tally.p0(number, sent_at)


@app.task(name="p2")
def handle_p2(number: int) -> None:  # noqa: ARG001 (what is sent)
    """Do nothing."""
    tally.p2()


def _publish_p2(first: int, count: int) -> None:
    with app.producer_or_acquire() as producer:
        for number in range(first, first + count):
            handle_p2.apply_async((number,), queue="p2", producer=producer)


def _publish_p0(number: int) -> None:
    handle_p0.apply_async((number, time.time()), queue="p0")


async def send_p2(first: int, count: int) -> None:
    """Send P2 of consecutive numbers."""
    await asyncio.to_thread(_publish_p2, first, count)


async def send_p0(number: int) -> None:
    """Send a P0."""
    await asyncio.to_thread(_publish_p0, number)
