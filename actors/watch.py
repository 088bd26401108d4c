"""Replaces members that are alive and do nothing: reads the heartbeats, asks the watchdog, ends the process.

Ray restarts what ended under its name. An actor call would hang at a stopped process, so none is made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from redis import asyncio as aioredis

from actors.watchdog import HUNG, HungPolicy, Sighting, Watchdog, is_hung
from tocsin.actor_names import SUPERVISOR, member_name
from tocsin.clock import Clock, SystemClock
from tocsin.keys import LaneKeys
from tocsin.processes import ProcessRecord, is_gone, is_stopped
from tocsin.settings import Settings
from tocsin.storage.servers import Server
from tocsin.streams.heartbeats import read_heartbeats, read_processes
from tocsin.wire.lanes import LaneName

log = logging.getLogger(__name__)

SUPERVISOR_HUNG = HungPolicy(stopped_s=4.0, hung_s=10.0)

Replace = Callable[[str, ProcessRecord], bool]
"""Ends the process of a member, so that Ray starts another; returns whether it is gone. It may block."""


class PoolWatch:
    """Watches the members of one pool.

    Args:
        client: The server with its heartbeats.
        keys: The pool's keys.
        names: The names its members may have.
        policy: How long they may be silent.
        replace: Ends one.
        clock: Only its stopwatch is used.
    """

    def __init__(
        self,
        client: aioredis.Redis,
        keys: LaneKeys,
        names: list[str],
        policy: HungPolicy,
        replace: Replace,
        clock: Clock,
    ) -> None:
        self.replacements = 0
        self._clock = clock
        self._client = client
        self._keys = keys
        self._names = names
        self._policy = policy
        self._replace = replace
        self._watchdog = Watchdog()

    async def look(self) -> int:
        """Look once, and replace members that are hung. Returns how many beat.

        Raises:
            StorageUnavailableError: the server does not answer; then nobody is judged.
        """
        processes = await read_processes(self._client, self._keys, self._names)
        beats = (await read_heartbeats(self._client, self._keys)).last
        seen = {name: Sighting(one.token, beats.get(name)) for name, one in processes.items()}
        silent = self._watchdog.look(seen, self._clock.monotonic())
        hung = [
            name
            for name, silent_s in silent.items()
            if silent_s >= self._policy.stopped_s
            and not is_gone(processes[name])  # Ray starts another by itself
            and is_hung(silent_s, self._policy, stopped=is_stopped(processes[name]))
        ]
        await asyncio.gather(*(self._end(name, processes[name], silent[name]) for name in hung))
        return sum(
            beats.get(name) is not None and silent_s < self._policy.stopped_s
            for name, silent_s in silent.items()
        )

    async def _end(self, name: str, process: ProcessRecord, silent_s: float) -> None:
        log.error("%s (process %d) has done nothing for %.1f s; replaced", name, process.pid, silent_s)
        self._watchdog.replaced(name, process.token)
        self.replacements += 1
        if not await asyncio.to_thread(self._replace, name, process):
            log.critical("%s (process %d on %s) could not be ended", name, process.pid, process.host)


def lane_watch(server: Server, settings: Settings, lane: LaneName, replace: Replace) -> PoolWatch:
    """The watch over the pool of one lane."""
    most = max(settings.pool_max, settings.pool_size(lane))
    names = [member_name(lane, number) for number in range(most)]
    keys = LaneKeys(settings.namespace, lane)
    return PoolWatch(server.client, keys, names, HUNG[lane], replace, SystemClock())


def supervisor_watch(server: Server, settings: Settings, replace: Replace) -> PoolWatch:
    """The watch over the supervisor itself."""
    keys = LaneKeys(settings.namespace, SUPERVISOR)
    return PoolWatch(server.client, keys, [SUPERVISOR], SUPERVISOR_HUNG, replace, SystemClock())
