from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, cast

import pytest
from redis import exceptions as redis_errors

from tocsin.telemetry.reports import Reports


class Hash:
    """A hash on a server: adds up what it is told; `fault` is raised instead."""

    def __init__(self) -> None:
        self.sums: Counter[str] = Counter()
        self.told = 0
        self.fault: Exception | None = None

    async def execute_command(self, *parts: Any) -> int:
        if self.fault is not None:
            raise self.fault
        _command, _digest, _keys, _key, *pairs = parts
        self.told += 1
        self.sums.update(dict(zip(pairs[::2], pairs[1::2], strict=True)))
        return 1


def reports(server: Hash, counters: Counter[str]) -> Reports:
    return Reports(cast("Any", server), "key", lambda: counters)


async def test_only_what_is_new_is_told() -> None:
    server, counters = Hash(), Counter({"storage": 2, "handler": 0})
    telling = reports(server, counters)
    await telling.report()
    await telling.report()
    assert (server.sums, server.told) == (Counter({"storage": 2}), 1)
    counters["storage"] += 1
    counters["handler"] += 4
    await telling.report()
    assert server.sums == Counter({"storage": 3, "handler": 4})


@pytest.mark.parametrize("fault", [redis_errors.ConnectionError("away"), OSError("reset"), TimeoutError()])
async def test_what_could_not_be_told_is_told_later(fault: Exception) -> None:
    server, counters = Hash(), Counter({"storage": 1})
    telling = reports(server, counters)
    server.fault = fault
    await telling.report()
    counters["storage"] += 1
    server.fault = None
    await telling.report()
    assert (server.sums, telling.failures) == (Counter({"storage": 2}), 1)


async def test_the_last_is_told_at_the_end() -> None:
    server, counters = Hash(), Counter({"storage": 1})
    task = asyncio.create_task(reports(server, counters).run(every_s=3600.0))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert server.sums == Counter({"storage": 1})
