"""The platform of a run: embedded Valkey, HTTP servers and routers, each a process that may be killed.

A router is `actors.members.PoolMember`, the plain class the Ray actor wraps, in a process of its own. Ray has no part
in the path of a notification; what it does for a pool is to start a dead member again under the same name, and
`Platform.kill_router` does that here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import msgspec
import psutil
import redis

from benchmarks.harness.pool_member import member
from benchmarks.harness.processes import Worker
from benchmarks.harness.run import say
from serve_deployments.serving.lane_set import LaneSet
from tocsin.settings import Settings
from tocsin.storage.connect import resolve_url
from tocsin.storage.embedded import EmbeddedServer, ServerEndpoint, process_of, read_endpoint
from tocsin.wire.lanes import NOTIFICATION_LANES
from verification.servers import accept, provider

START_S = 60.0
RETURN_S = 60.0
SETTLED_READS = 3


class Router(msgspec.Struct, kw_only=True):
    """One pool member."""

    name: str
    lane: str
    worker: Worker


class Platform:
    """Everything that runs; use `running`.

    Args:
        settings: Where and how.
        stack: Ends what was started, in reverse.
        arrivals: The file of the provider.
        replicas: HTTP servers.
        routers: Pool members a lane.
    """

    def __init__(
        self, settings: Settings, stack: ExitStack, *, arrivals: str, replicas: int, routers: int
    ) -> None:
        self.settings = settings
        self._stack = stack
        self.provider = stack.enter_context(Worker(provider, arrivals))
        servers = [stack.enter_context(Worker(accept, settings)) for _ in range(replicas)]
        self.routers = [
            self._router(f"router-{lane}-{number}", lane)
            for lane in map(str, NOTIFICATION_LANES)
            for number in range(routers)
        ]
        self.provider_port = self.provider.receive(int, timeout_s=START_S)
        self.ports = [server.receive(int, timeout_s=START_S) for server in servers]
        for router in self.routers:
            router.worker.receive(str, timeout_s=START_S)

    def _router(self, name: str, lane: str) -> Router:
        worker = self._stack.enter_context(Worker(member, name, lane, self.settings))
        return Router(name=name, lane=lane, worker=worker)

    def kill_router(self, number: int) -> Router:
        """SIGKILL a router and start it again under its name. Returns the killed one."""
        killed = self.routers[number]
        kill(killed.worker.pid)
        self.routers[number] = self._router(killed.name, killed.lane)
        return killed

    def endpoint(self) -> ServerEndpoint:
        """Where Valkey is now.

        Raises:
            RuntimeError: it was never started.
        """
        found = read_endpoint(self.settings.data_path)
        if found is None:
            raise RuntimeError("the embedded server has no endpoint file")
        return found

    def storage_process(self) -> psutil.Process:
        """Valkey's process.

        Raises:
            RuntimeError: it does not run.
        """
        process = process_of(self.endpoint())
        if process is None:
            raise RuntimeError("the embedded server does not run")
        return process

    def await_storage(self) -> None:
        """Wait until Valkey answers.

        Raises:
            TimeoutError: it does not come back.
        """
        ends_at = time.monotonic() + RETURN_S
        while time.monotonic() < ends_at:
            with contextlib.suppress(redis.RedisError, OSError), self.connection() as client:
                client.ping()
                return
            time.sleep(0.05)
        raise TimeoutError(f"the embedded server did not come back within {RETURN_S:g} s")

    @contextmanager
    def connection(self) -> Iterator[redis.Redis]:
        """A connection for injecting faults; the checker has none."""
        client = redis.Redis.from_url(
            resolve_url(self.settings), socket_timeout=2.0, socket_connect_timeout=2.0
        )
        try:
            yield client
        finally:
            client.close()

    def await_drained(self, timeout_s: float) -> bool:
        """Wait until no lane holds anything; returns whether that happened in time. The run goes on either way."""
        return asyncio.run(self._await_drained(timeout_s))

    async def _await_drained(self, timeout_s: float) -> bool:
        lanes = LaneSet(self.settings, NOTIFICATION_LANES)
        ends_at = time.monotonic() + timeout_s
        empty = 0
        try:
            while time.monotonic() < ends_at:
                depths = {str(name): await lane.depth() for name, lane in lanes.lanes.items()}
                waiting = sum(depth.blocks + depth.retrying for depth in depths.values())
                # Once is not enough: between two lanes' readings a retry can change its place.
                empty = 0 if waiting else empty + 1
                if empty == SETTLED_READS:
                    return True
                await asyncio.sleep(0.2)
            for name, depth in depths.items():
                say(f"{name} still holds {depth}")
            return False
        finally:
            await lanes.aclose()


def kill(pid: int) -> None:
    """SIGKILL one process, by its id."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def running(settings: Settings, *, arrivals: str, replicas: int, routers: int) -> Iterator[Platform]:
    """Start everything; stop everything, whatever happens."""
    storage = EmbeddedServer(settings.data_path, on_event=say)
    with ExitStack() as stack:
        stack.callback(storage.stop)
        storage.start()
        yield Platform(settings, stack, arrivals=arrivals, replicas=replicas, routers=routers)
