"""Fair shares: how a source that floods a lane lengthens the others' dwell, from accepted to delivered.

    "flood": 2 connections, arrays of 500, never waits ──► HAProxy ──► notifications ──► lane ──► router ──► slow target
    "quiet-0" … "quiet-3": 1 a second each ──────────────►

The target answers every call after 100 ms, so that the lane drains more slowly than the flood comes in. First the quiet
sources alone, then during the flood; on p2, then on p1. What is still undelivered at the end counts with the time it
has waited by then: a lower bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

import httpx2
import msgspec
import uvloop

from benchmarks.harness.figures import Figures, summary_ms
from benchmarks.harness.http_load import Order, Round, encode_request, generator, run_load
from benchmarks.harness.payloads import BLOCK_RECORDS
from benchmarks.harness.processes import Worker, receive, send
from benchmarks.harness.run import Options, run, say
from launch.local_client import lane_counts
from launch.platform import Platform
from tocsin.settings import Settings
from tocsin.wire.lanes import LaneName

QUIET = 4
QUIET_PER_S = 4.0  # of all of them together
FLOOD_CONNECTIONS = 2
CALL_S = 0.1  # the target takes for a call
START_S = 60.0
GRACE_S = 15.0  # after the end, for what still waits
KINDS: dict[LaneName, dict[str, str]] = {
    LaneName.P1: {"type": "device_alert", "alert_type": "low_battery"},
    LaneName.P2: {"type": "reminder"},
}


class Arrivals(msgspec.Struct, frozen=True):
    """When each quiet notification reached the target, by title (epoch seconds)."""

    at: dict[str, float]


class Target(asyncio.Protocol):
    """A slow webhook target.

    Args:
        arrivals: Where it records the arrivals from the quiet sources.
    """

    def __init__(self, arrivals: dict[str, float]) -> None:
        self._arrivals = arrivals
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer a call once all of it is there; the caller sends one at a time."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
        if len(body) < length:
            return
        self._received = b""
        if b'"quiet-' in body:
            self._record(msgspec.json.decode(body))
        asyncio.get_running_loop().call_later(CALL_S, self._answer)

    def _record(self, call: dict[str, Any]) -> None:
        for item in call.get("notifications", [call]):
            self._arrivals.setdefault(item["title"], time.time())

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


def target(pipe: Connection) -> None:
    """Serve on a free port, which it sends first; then send the arrivals on every order, until the pipe closes."""
    uvloop.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    arrivals: dict[str, float] = {}
    server = await asyncio.get_running_loop().create_server(lambda: Target(arrivals), "127.0.0.1", 0)
    async with server:
        send(pipe, server.sockets[0].getsockname()[1])
        with contextlib.suppress(EOFError):
            while True:
                await asyncio.to_thread(receive, pipe, str)
                send(pipe, Arrivals(dict(arrivals)))


class QuietSources:
    """Sends a few notifications on a fixed schedule, and records when each was accepted."""

    def __init__(self, settings: Settings, lane: LaneName) -> None:
        self.accepted_at: dict[str, float] = {}
        self.refused = 0
        self._url = f"{settings.base_url}/v1/notifications"
        self._lane = lane

    def send(self, seconds: float, label: str) -> None:
        """Send for so long; what is refused is not sent again."""
        began = time.monotonic()
        with httpx2.Client(trust_env=False, timeout=30.0) as client:
            for number in range(int(QUIET_PER_S * seconds)):
                time.sleep(max(0.0, began + number / QUIET_PER_S - time.monotonic()))
                source = f"quiet-{number % QUIET}"
                title = f"{source} {self._lane} {label} {number}"
                note = note_of(self._lane, title, f"{label}-{number}", source)
                answer = client.post(self._url, json=note)
                if answer.status_code == 202:
                    self.accepted_at[title] = time.time()
                else:
                    self.refused += 1


def note_of(lane: LaneName, title: str, recipient: str, source: str) -> dict[str, Any]:
    """A notification of a lane for the slow target."""
    return KINDS[lane] | {"title": title, "recipient": recipient, "source": source, "channels": ["webhook"]}


def flood_order(lane: LaneName, port: int, seconds: float) -> Order:
    """Arrays of one source, over and over."""
    requests = [
        encode_request(
            "POST",
            "/v1/notifications",
            msgspec.json.encode(
                [note_of(lane, "flood", f"f{part}-{number}", "flood") for number in range(BLOCK_RECORDS)]
            ),
        )
        for part in range(4)
    ]
    return Order(port=port, requests=requests, connections=FLOOD_CONNECTIONS, seconds=seconds)


def dwell_ms(accepted_at: dict[str, float], arrivals: dict[str, float], now: float) -> list[float]:
    """Accepted to delivered; for what has not arrived, how long it has waited."""
    return [max(arrivals.get(title, now) - accepted, 0.0) * 1000 for title, accepted in accepted_at.items()]


def measure_lane(
    settings: Settings, lane: LaneName, seconds: float, flooder: Worker, slow: Worker
) -> Figures:
    """Measure one lane: the quiet sources alone, then during the flood."""
    alone, flooded = QuietSources(settings, lane), QuietSources(settings, lane)
    say(f"fairness: {lane}, quiet sources alone for {seconds / 2:.1f} s")
    alone.send(seconds / 2, "alone")
    before, sent = lane_counts(settings, lane), []
    flooding = threading.Thread(
        target=lambda: sent.append(run_load([flooder], flood_order(lane, settings.port, seconds)))
    )
    say(f"fairness: {lane}, during a flood for {seconds:.1f} s")
    flooding.start()
    flooded.send(seconds, "flood")
    flooding.join()
    after = lane_counts(settings, lane)
    arrivals = _await_arrivals(slow, {**alone.accepted_at, **flooded.accepted_at})
    now = time.time()
    quiet_ms = summary_ms(dwell_ms(alone.accepted_at, arrivals, now))
    flood_ms = summary_ms(dwell_ms(flooded.accepted_at, arrivals, now))
    return {
        "alone_ms": quiet_ms,
        "flood_ms": flood_ms,
        "ratio": {q: round(flood_ms[q] / quiet_ms[q], 2) for q in ("p50", "p99")},
        "quiet_refused": alone.refused + flooded.refused,
        "quiet_undelivered": len(flooded.accepted_at.keys() - arrivals.keys()),
        "flood": _flood_figures(sent[0], before, after),
    }


def _flood_figures(sent: Round, before: dict[str, int], after: dict[str, int]) -> Figures:
    grown = {name: after.get(name, 0) - before.get(name, 0) for name in ("accepted", "delivered")}
    return {
        "accepted_per_s": round(grown["accepted"] / sent.seconds),
        "delivered_per_s": round(grown["delivered"] / sent.seconds),
        "left_waiting": grown["accepted"] - grown["delivered"],
        "refused_requests": sent.statuses.get(429, 0),
        "other_errors": sent.errors - sent.statuses.get(429, 0),
    }


def _await_arrivals(slow: Worker, wanted: dict[str, float]) -> dict[str, float]:
    deadline = time.monotonic() + GRACE_S
    while True:
        slow.send("arrivals")
        arrivals = slow.receive(Arrivals, timeout_s=START_S).at
        if wanted.keys() <= arrivals.keys() or time.monotonic() > deadline:
            return arrivals
        time.sleep(0.2)


def measure(settings: Settings, options: Options) -> Figures:
    """Start the platform and a slow target, measure, stop them."""
    with ExitStack() as stack:
        slow, flooder = (stack.enter_context(Worker(made)) for made in (target, generator))
        port = slow.receive(int, timeout_s=START_S)
        settings = msgspec.structs.replace(settings, webhook_url=f"http://127.0.0.1:{port}/")
        stack.enter_context(Platform(settings, lambda part, line: say(f"  {part:<18} {line}")))
        return {
            str(lane): measure_lane(settings, lane, options.seconds, flooder, slow)
            for lane in (LaneName.P2, LaneName.P1)
        }


def main(argv: list[str] | None = None) -> int:
    """Run it; returns the exit status."""
    return run(
        "fairness",
        "One source floods; how long do the others wait?",
        measure,
        argv,
        module="routing.fairness",
    )


if __name__ == "__main__":
    sys.exit(main())
