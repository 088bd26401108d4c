"""The HTTP part of the routing benchmark: arrays of 500 through HAProxy until delivered, and single P0s.

    generators ──POST arrays of 500──► HAProxy ──► notifications ──► p2 lane ──► router ──► sink
    this process, POST 20/s ─────────► HAProxy ──► notifications ──► p0 lane

The whole platform runs: every Serve application, every pool, on the same cores.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import httpx2
import msgspec

from benchmarks.harness.figures import Figures, summary_ms
from benchmarks.harness.http_load import Order, encode_request, generator, run_load
from benchmarks.harness.payloads import BLOCK_RECORDS, reminders_json
from benchmarks.harness.processes import Worker
from benchmarks.harness.run import Options, say
from launch.local_client import await_lane, lane_counts
from launch.platform import Platform
from tocsin.settings import Settings
from tocsin.wire.lanes import LaneName

CONNECTIONS = 4
POSTS_PER_S = 20.0
WARM_UP_S = 2.0


class Poster:
    """Posts single P0s on a fixed schedule and keeps how long each took (ms)."""

    def __init__(self, settings: Settings) -> None:
        self._url = f"{settings.base_url}/v1/notifications"
        self._end = threading.Event()

    def post(self, seconds: float) -> list[float]:
        """Post for so long, or until `stop`."""
        self._end.clear()
        took: list[float] = []
        body = msgspec.json.encode(
            {"type": "emergency", "alert_type": "smoke", "title": "Smoke", "recipient": "resident-1"}
        )
        began = time.monotonic()
        with httpx2.Client(trust_env=False, headers={"content-type": "application/json"}) as client:
            for number in range(int(POSTS_PER_S * seconds)):
                if self._end.wait(max(0.0, began + number / POSTS_PER_S - time.monotonic())):
                    break
                sent_at = time.perf_counter()
                client.post(self._url, content=body).raise_for_status()
                took.append((time.perf_counter() - sent_at) * 1000)
        return took

    def stop(self) -> None:
        """Stop posting."""
        self._end.set()


def measure(settings: Settings, options: Options) -> Figures:
    """Start the platform, measure, stop it."""
    with ExitStack() as stack:
        stack.enter_context(Platform(settings, lambda part, line: say(f"  {part:<18} {line}")))
        generators = [stack.enter_context(Worker(generator)) for _ in range(2)]
        bodies = [reminders_json(options.seed + number, channel="sink") for number in range(8)]
        order = Order(
            port=settings.port,
            requests=[encode_request("POST", "/v1/notifications", body) for body in bodies],
            connections=CONNECTIONS,
            seconds=options.seconds / 2,
        )
        poster = Poster(settings)
        run_load(generators, msgspec.structs.replace(order, seconds=WARM_UP_S))
        await_lane(settings, LaneName.P2)
        say(f"routing: single P0 posts at {POSTS_PER_S:g}/s for {options.seconds / 4:.1f} s")
        idle = poster.post(options.seconds / 4)
        say(f"routing: arrays of {BLOCK_RECORDS} over HTTP for {order.seconds:.1f} s")
        return _flood(settings, generators, order, poster) | {"http_p0_post_ms": summary_ms(idle)}


def _flood(settings: Settings, generators: list[Worker], order: Order, poster: Poster) -> Figures:
    before = lane_counts(settings, LaneName.P2)
    under_load: list[float] = []
    posting = threading.Thread(target=lambda: under_load.extend(poster.post(order.seconds)))
    posting.start()
    began = time.monotonic()
    sent = run_load(generators, order)
    await_lane(settings, LaneName.P2)
    took_s = time.monotonic() - began
    poster.stop()
    posting.join()
    after = lane_counts(settings, LaneName.P2)
    delivered = after.get("delivered", 0) - before.get("delivered", 0)
    return {
        "http_per_s": round(delivered / took_s),
        "http_errors": sent.errors,
        "http_lost": after.get("accepted", 0) - before.get("accepted", 0) - delivered,
        "http_p0_post_flood_ms": summary_ms(under_load),
    }
