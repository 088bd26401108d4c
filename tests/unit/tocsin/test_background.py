from __future__ import annotations

import asyncio
import logging

import pytest

from tests.fakes import wait_until
from tocsin.background import repeat
from tocsin.errors import StorageUnavailableError


class Steps:
    """Counts, and fails where told to."""

    def __init__(self, *errors: Exception) -> None:
        self.taken = 0
        self.errors = list(errors)

    async def __call__(self) -> None:
        self.taken += 1
        if self.errors:
            raise self.errors.pop(0)


async def test_a_step_is_repeated_until_the_event_is_set() -> None:
    step, until = Steps(), asyncio.Event()
    task = asyncio.create_task(repeat("it", step, every_s=0.0, until=until))
    await wait_until(lambda: step.taken >= 3)
    until.set()
    await task


async def test_a_wait_ends_at_once_when_the_loop_is_over() -> None:
    step, until = Steps(), asyncio.Event()
    task = asyncio.create_task(repeat("it", step, every_s=3600.0, until=until))
    await wait_until(lambda: step.taken == 1)
    until.set()
    await task
    assert step.taken == 1


async def test_news_wake_it_and_are_answered_once() -> None:
    step, wake = Steps(), asyncio.Event()
    task = asyncio.create_task(repeat("it", step, wake=wake, wait_first=True))
    await asyncio.sleep(0)
    assert step.taken == 0
    wake.set()
    await wait_until(lambda: step.taken == 1)
    assert not wake.is_set()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_failures_are_told_logged_and_outlived(caplog: pytest.LogCaptureFixture) -> None:
    step, until = Steps(StorageUnavailableError("away"), ZeroDivisionError("ours")), asyncio.Event()
    told: list[Exception] = []
    task = asyncio.create_task(repeat("landing", step, every_s=0.0, until=until, failed=told.append))
    await wait_until(lambda: step.taken >= 3)
    until.set()
    await task
    assert [type(error) for error in told] == [StorageUnavailableError, ZeroDivisionError]
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]


async def test_a_loop_that_nothing_wakes_is_refused() -> None:
    with pytest.raises(ValueError, match="every_s"):
        await repeat("it", Steps())
