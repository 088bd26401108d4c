"""Requests over and over on a few connections, counted; whatever is not answered with 200 is a failure."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Self

from benchmarks.harness.http_load import encode_request

CONNECTIONS = 4
ANSWER_S = 10.0
_LENGTH = b"content-length:"


class Traffic:
    """Asks for random advertisers until stopped; use as a context manager.

    Args:
        port: Of the server.
        names: The advertisers to ask for.
        seed: Of the order.
    """

    def __init__(self, port: int, names: Sequence[str], seed: int) -> None:
        self.answered = 0
        self.failed = 0
        self.slowest_ms = 0.0
        self._port = port
        self._requests = [encode_request("GET", f"/v1/churn/{name}") for name in names]
        self._chance = random.Random(seed)  # noqa: S311 (nothing secret)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._keep_requesting()) for _ in range(CONNECTIONS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_requesting(self) -> None:
        while True:
            try:
                await self._request_in_turn()
            except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError):
                self.failed += 1
                await asyncio.sleep(0.01)

    async def _request_in_turn(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            while True:
                began = time.perf_counter()
                writer.write(self._chance.choice(self._requests))
                async with asyncio.timeout(ANSWER_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    start = head.lower().index(_LENGTH) + len(_LENGTH)
                    await reader.readexactly(int(head[start : head.index(b"\r", start)]))
                self.answered += 1
                self.failed += head[9:12] != b"200"
                self.slowest_ms = max(self.slowest_ms, (time.perf_counter() - began) * 1000)
        finally:
            writer.close()
