"""Sends jobs by one of the Python libraries: `python send.py LIBRARY`. `bullmq_peer.js send` does the same in Node.

Orders come by standard input, a line each; each is answered by a line of JSON. It ends when its input does.

    flood SECONDS   P2 as fast as the library sends them; `pause` holds it back, `resume` lets it go on
    p0 SECONDS      P0, 50 a second on a fixed schedule; a slow send delays no later one
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvloop

CHUNK = 100  # P2 between two looks at whether to go on
P0_PER_S = 50.0
PAUSE_S = 0.005
THREADS = 16


class Sender:
    """Carries out orders.

    Args:
        peer: The library's module: `send_p0(number)` and `send_p2(first, count)`.
    """

    def __init__(self, peer: Any) -> None:
        self._peer = peer
        self._orders: asyncio.Queue[str] = asyncio.Queue()
        self._may_send = True
        self._p2 = 0
        self._p0 = 0

    async def serve(self) -> None:
        """Until the input ends."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS))
        threading.Thread(target=self._read, args=(loop,), daemon=True).start()
        orders = {"flood": self.flood, "p0": self.p0}
        while order := await self._orders.get():
            kind, seconds = order.split()
            print(json.dumps(await orders[kind](float(seconds))), flush=True)

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(self._take, line.strip())
        loop.call_soon_threadsafe(self._orders.put_nowait, "")

    def _take(self, order: str) -> None:
        if order in {"pause", "resume"}:
            self._may_send = order == "resume"
        else:
            self._orders.put_nowait(order)

    async def flood(self, seconds: float) -> dict[str, float]:
        """P2 for so long; how many, and when (Unix time) the first began."""
        self._may_send = True
        first, first_at, ends = self._p2, time.time(), time.monotonic() + seconds
        while time.monotonic() < ends:
            if not self._may_send:
                await asyncio.sleep(PAUSE_S)
                continue
            await self._peer.send_p2(self._p2, CHUNK)
            self._p2 += CHUNK
        return {"first": first, "sent": self._p2 - first, "first_at": first_at}

    async def p0(self, seconds: float) -> dict[str, float]:
        """P0 for so long; their numbers."""
        first, count, began = self._p0, int(P0_PER_S * seconds), time.monotonic()
        first_at, sending = time.time(), []
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / P0_PER_S - time.monotonic()))
            sending.append(asyncio.create_task(self._peer.send_p0(first + number)))
        await asyncio.gather(*sending)
        self._p0 += count
        return {"first": first, "sent": count, "first_at": first_at}


if __name__ == "__main__":
    uvloop.run(Sender(importlib.import_module(f"{sys.argv[1]}_peer")).serve())
