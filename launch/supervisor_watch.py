"""Brings back a supervisor that is alive and does nothing: a thread of the process that started the platform."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading

from actors.watch import supervisor_watch
from actors.watchdog import LOOK_S
from tocsin.background import repeat
from tocsin.processes import ProcessRecord, end_process
from tocsin.settings import Settings
from tocsin.storage.connect import WRITE_TIMEOUT_S
from tocsin.storage.servers import Servers

STOP_S = 5.0


class SupervisorWatch:
    """Watches the supervisor's heartbeat from `start` to `stop`; Ray restarts what it ends.

    Args:
        settings: Where the heartbeat is.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run()), name="supervisor-watch", daemon=True
        )

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; waits for it a few seconds at most."""
        if self._loop is not None and self._stopping is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(timeout=STOP_S)

    async def _run(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        servers = Servers(self._settings, timeout_s=WRITE_TIMEOUT_S, max_connections=2)
        try:
            watch = supervisor_watch(servers.all[0], self._settings, _replace)
            await repeat(
                "watching the supervisor",
                watch.look,
                every_s=LOOK_S,
                until=self._stopping,
                level=logging.DEBUG,  # storage that is away is told elsewhere
            )
        finally:
            await servers.aclose()


def _replace(_name: str, process: ProcessRecord) -> bool:
    return process.host == socket.gethostname() and end_process(process)
