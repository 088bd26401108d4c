"""Queries to the platform over HTTP: the final state of every notification, one request an id, over a few connections.

Written on asyncio streams, like the load generator, to leave the processor to the platform.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from verification.facts import Final

CONNECTIONS = 16
ANSWER_S = 10.0
TRIES = 30
PAUSE_S = 0.3


class _Attempt(msgspec.Struct, frozen=True):
    channel: str


class _Status(msgspec.Struct, frozen=True):
    state: str
    attempts: list[_Attempt]


class _Page(msgspec.Struct, frozen=True):
    total: int


_status = msgspec.json.Decoder(_Status)


class QueryError(Exception):
    """The platform did not answer a query within all its tries."""


async def read_finals(ports: Sequence[int], ids: Iterable[str]) -> dict[str, Final | None]:
    """The state of every id; None where the platform does not know it.

    Raises:
        QueryError: it did not answer.
    """
    found: dict[str, Final | None] = {}
    for name, body in (await _query_all(ports, "/v1/notifications/", ids)).items():
        if body is None:
            found[name] = None
            continue
        status = _status.decode(body)
        found[name] = Final(status.state, dict(Counter(attempt.channel for attempt in status.attempts)))
    return found


async def read_dead_letters(ports: Sequence[int], ids: Iterable[str]) -> frozenset[str]:
    """Those of the ids that have a dead letter."""
    answers = await _query_all(ports, "/v1/dead-letters/", ids)
    return frozenset(name for name, body in answers.items() if body is not None)


async def count_dead_letters(ports: Sequence[int]) -> int:
    """How many dead letters there are."""
    (body,) = (await _query_all(ports[:1], "/v1/dead-letters/", ["?limit=1"])).values()
    return msgspec.json.decode(body or b"", type=_Page).total


async def _query_all(ports: Sequence[int], prefix: str, ids: Iterable[str]) -> dict[str, bytes | None]:
    answers: dict[str, bytes | None] = {}
    waiting = iter(ids)
    queries = [_query(ports[n % len(ports)], prefix, waiting, answers) for n in range(CONNECTIONS)]
    await asyncio.gather(*queries)
    return answers


async def _query(port: int, prefix: str, waiting: Iterator[str], answers: dict[str, bytes | None]) -> None:
    connection = _Connection(port)
    try:
        for name in waiting:
            for _ in range(TRIES):
                status, body = await connection.get(prefix + name)
                if status in {200, 404, 422}:
                    break
                await asyncio.sleep(PAUSE_S)
            else:
                raise QueryError(f"{prefix}{name} was answered with {status}, {TRIES} times")
            answers[name] = body if status == 200 else None
    finally:
        connection.close()


class _Connection:
    """One keep-alive connection, opened again where it breaks."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str) -> tuple[int, bytes]:
        """One request: status and body. A status of 0: the connection broke."""
        try:
            async with asyncio.timeout(ANSWER_S):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = self._streams
                writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
                return await _answer(reader)
        except (OSError, EOFError, TimeoutError):
            self.close()
            return 0, b""

    def close(self) -> None:
        """Close it."""
        if self._streams is not None:
            with contextlib.suppress(OSError):
                self._streams[1].close()
            self._streams = None


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head: Any = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:"
    )
    return int(head[9:12]), await reader.readexactly(length)
