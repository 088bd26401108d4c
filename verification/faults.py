"""Injects the scheduled faults, and records the window in which each could have an effect."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence

import psutil
import redis

from benchmarks.harness.processes import Worker
from benchmarks.harness.run import say
from verification.facts import FaultKind, Window
from verification.plan import PROVIDER_FAULTS, Fault
from verification.platform import Platform, kill

RECOVERY_S = 1.0
"""After storage is back, consumers still heal (`ConsumerPolicy.heal_backoff_s`) and settle what they delivered."""

KillSender = Callable[[int], bool]  # whether it was still sending


class Injector:
    """Does what is due; the run calls `step` over and over.

    Args:
        platform: What is broken.
        faults: In time.
        kill_sender: Kills a sender and starts it again.
    """

    def __init__(self, platform: Platform, faults: Sequence[Fault], kill_sender: KillSender) -> None:
        self.windows: list[Window] = []
        self.counts: Counter[str] = Counter()
        self._platform = platform
        self._waiting = list(faults)
        self._kill_sender = kill_sender
        self._provider_until = 0.0  # epoch (s); 0: it behaves
        self._provider_kind = FaultKind.PROVIDER_FAIL
        self._provider_since = 0.0
        self._actions: dict[FaultKind, Callable[[Fault], None]] = {
            FaultKind.ROUTER_KILL: self._kill_router,
            FaultKind.STORAGE_KILL: self._kill_storage,
            FaultKind.STORAGE_PAUSE: self._pause_storage,
            FaultKind.CONNECTION_CUT: self._cut_connections,
            FaultKind.AOF_REWRITE: self._rewrite,
            FaultKind.SENDER_KILL: self._end_sender,
            **dict.fromkeys(PROVIDER_FAULTS, self._misbehave),
        }

    def step(self, started_at: float) -> bool:
        """Do what is due. Returns whether anything is left."""
        now = time.time()
        if self._provider_until and now >= self._provider_until:
            self._behave()
        if self._waiting and now >= started_at + self._waiting[0].due_s:
            fault = self._waiting.pop(0)
            say(
                f"{now - started_at:6.1f} s  {fault.kind}"
                + (f" for {fault.lasts_s:.1f} s" * bool(fault.lasts_s))
            )
            self._actions[fault.kind](fault)
        return bool(self._waiting or self._provider_until)

    def _record(self, kind: FaultKind, start: float, end: float, *, lane: str = "", member: str = "") -> None:
        self.counts[kind] += 1
        self.windows.append(Window(kind=kind, start=start, end=end, lane=lane, member=member))

    def _kill_router(self, fault: Fault) -> None:
        # A point in time: whatever it had delivered and not settled by then is delivered again.
        start = time.time()
        killed = self._platform.kill_router(fault.target)
        # The signal is sent at once; the process may end a moment later.
        self._record(fault.kind, start, start + 0.1, lane=killed.lane, member=killed.name)

    def _kill_storage(self, fault: Fault) -> None:
        start = time.time()
        process = self._platform.storage_process()
        kill(process.pid)
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(timeout=5)
        self._platform.await_storage()
        self._record(fault.kind, start, time.time() + RECOVERY_S)

    def _pause_storage(self, fault: Fault) -> None:
        start = time.time()
        process = self._platform.storage_process()
        process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(fault.lasts_s)
        finally:
            process.send_signal(signal.SIGCONT)
        self._platform.await_storage()
        self._record(fault.kind, start, time.time() + RECOVERY_S)

    def _cut_connections(self, fault: Fault) -> None:
        start = time.time()
        with contextlib.suppress(redis.RedisError, OSError), self._platform.connection() as client:
            client.client_kill_filter(_type="normal", skipme=True)
        self._record(fault.kind, start, time.time() + RECOVERY_S)

    def _rewrite(self, fault: Fault) -> None:
        start = time.time()
        with contextlib.suppress(redis.RedisError, OSError), self._platform.connection() as client:
            client.bgrewriteaof()
        self._record(fault.kind, start, time.time())

    def _end_sender(self, fault: Fault) -> None:
        start = time.time()
        if self._kill_sender(fault.target):
            self._record(fault.kind, start, time.time())

    def _misbehave(self, fault: Fault) -> None:
        if self._provider_until:
            self._behave()
        self._provider_kind = fault.kind
        self._provider_since = time.time()
        self._provider_until = self._provider_since + fault.lasts_s
        self._send_mode(str(fault.kind))

    def _behave(self) -> None:
        self._send_mode("")
        self._provider_until = 0.0
        self._record(self._provider_kind, self._provider_since, time.time())

    def _send_mode(self, mode: str) -> None:
        provider: Worker = self._platform.provider
        provider.send(mode)
