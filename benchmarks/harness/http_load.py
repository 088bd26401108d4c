"""The load generator: processes with keep-alive connections that send a request, wait for the answer, and repeat.

Written on asyncio streams rather than an HTTP library, so that on few cores most of the processor is left to what
is measured. `plain_server` answers at once with nothing behind it: the rate against it is the generator's own limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import msgspec
import uvloop

from benchmarks.harness.processes import Worker, receive, send

ANSWER_S = 30.0
_PLAIN = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n" + b'{"status":"ok"}'
)
_LENGTH = b"\r\ncontent-length:"
_CHUNKED = b"\r\ntransfer-encoding: chunked"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to send, repeatedly: whole requests, taken in turn."""

    port: int
    requests: list[bytes]
    connections: int
    seconds: float


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """The answers."""

    latencies_ms: list[float]  # of good answers
    statuses: dict[int, int]  # 0: the connection broke
    seconds: float

    @property
    def per_s(self) -> float:
        """Good answers a second."""
        return len(self.latencies_ms) / self.seconds

    @property
    def errors(self) -> int:
        """Answers that were not good."""
        return sum(number for status, number in self.statuses.items() if not 200 <= status < 300)


def encode_request(method: str, path: str, body: bytes = b"") -> bytes:
    """An HTTP/1.1 request as it goes over the wire."""
    head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    if body:
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body


def generator(pipe: Connection) -> None:
    """Carry out orders (`Order` in, `Round` out) until the pipe closes."""
    with contextlib.suppress(EOFError):
        while True:
            send(pipe, uvloop.run(_round(receive(pipe, Order))))


async def _round(order: Order) -> Round:
    latencies: list[float] = []
    statuses: Counter[int] = Counter()
    began = time.perf_counter()
    ends = began + order.seconds
    await asyncio.gather(
        *(_keep_requesting(order, offset, ends, latencies, statuses) for offset in range(order.connections))
    )
    return Round(latencies_ms=latencies, statuses=dict(statuses), seconds=time.perf_counter() - began)


async def _keep_requesting(
    order: Order, offset: int, ends: float, latencies: list[float], statuses: Counter[int]
) -> None:
    """One connection, opened again where it breaks."""
    turn = offset
    while time.perf_counter() < ends:
        writer: asyncio.StreamWriter | None = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", order.port)
            while (sent_at := time.perf_counter()) < ends:
                writer.write(order.requests[turn % len(order.requests)])
                turn += order.connections
                async with asyncio.timeout(ANSWER_S):
                    status = await _answer(reader)
                statuses[status] += 1
                if 200 <= status < 300:
                    latencies.append((time.perf_counter() - sent_at) * 1000)
        except (OSError, EOFError, TimeoutError):
            statuses[0] += 1
        finally:
            if writer is not None:
                writer.close()


async def _answer(reader: asyncio.StreamReader) -> int:
    """Read one answer to its end; its status.

    Raises:
        EOFError: the connection ended, or the answer does not say how long it is.
    """
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    found = lower.find(_LENGTH)
    if found < 0 and _CHUNKED in lower:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
        return int(head[9:12])
    if found < 0:
        raise EOFError("an answer without a content-length")
    start = found + len(_LENGTH)
    await reader.readexactly(int(head[start : head.index(b"\r\n", start)]))
    return int(head[9:12])


def run_load(workers: Sequence[Worker], order: Order) -> Round:
    """Send one order to every generator at once; `connections` is the total of all. Returns all answers together."""
    share = msgspec.structs.replace(order, connections=order.connections // len(workers))
    for worker in workers:
        worker.send(share)
    rounds = [worker.receive(Round, timeout_s=order.seconds + 2 * ANSWER_S) for worker in workers]
    statuses: Counter[int] = Counter()
    for found in rounds:
        statuses.update(found.statuses)
    return Round(
        latencies_ms=[latency for found in rounds for latency in found.latencies_ms],
        statuses=dict(statuses),
        seconds=max(found.seconds for found in rounds),
    )


class Plain(asyncio.Protocol):
    """Answers every request head with the same few bytes."""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer."""
        if data.endswith(b"\r\n\r\n"):
            self._transport.write(_PLAIN)


def plain_server(pipe: Connection) -> None:
    """Serve on a free port, which it sends first, until the pipe closes."""
    uvloop.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    server = await asyncio.get_running_loop().create_server(Plain, "127.0.0.1", 0)
    async with server:
        send(pipe, server.sockets[0].getsockname()[1])
        with contextlib.suppress(EOFError):
            await asyncio.to_thread(receive, pipe, str)
