"""One library under its own flood, measured from outside: processes, queue, and files its handlers write.

    sender "flood" ──P2──► library ──► workers ──► counts          (every process in the library's environment)
    sender "p0" ──50/s───►         ──►         ──► a line a job

First a warm-up of the same kind, which also waits for the workers; then the measured window.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import msgspec
import psutil
import redis

from benchmarks.harness.run import say
from benchmarks.peers.libraries import FOREIGN, Command, Library

MAX_BACKLOG = 4000  # jobs; a fuller queue makes the sender wait
WARM_UP_S = 2.0
START_S = 60.0  # workers, from their start until the warm-up is done
DRAIN_S = 60.0
POLL_S = 0.02
PUBLISH_S = 10.0  # handlers publish their counts every 0.1 s, later where the machine is busy
STOP_S = 5.0


class Failed(Exception):  # noqa: N818 (an outcome of the contest)
    """A library could not be measured; says at which step."""


class Sent(msgspec.Struct, frozen=True):
    """A sender's answer: consecutive numbers, and when the first began (Unix time)."""

    first: int
    sent: int
    first_at: float


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one flood, from the first job sent until nothing waited any more."""

    p2: Sent
    p0: Sent
    took_s: float
    p2_handled: int
    p0_ms: Sequence[float]  # sent → handled; one for each P0 that was
    p0_handled: int  # repeats included
    cores_used: Mapping[str, float]
    load_1m: float  # of the machine, as it began

    @property
    def per_s(self) -> float:
        """P2 a second, acknowledged."""
        return self.p2.sent / self.took_s


class Sender:
    """A sending process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("a sender needs its standard input and output")
        self._in: IO[bytes] = process.stdin
        self._out: IO[bytes] = process.stdout

    def send(self, order: str) -> None:
        """Send an order.

        Raises:
            Failed: the sender ended.
        """
        try:
            self._in.write(f"{order}\n".encode())
            self._in.flush()
        except OSError as error:
            raise Failed("a sender ended early") from error

    def answered(self, timeout_s: float) -> bool:
        """Whether an answer, or the end, can be read; waits that long for it."""
        return bool(select.select([self._out], [], [], timeout_s)[0])

    def receive(self, timeout_s: float) -> Sent:
        """Wait for an answer.

        Raises:
            Failed: none came in time, or the sender ended.
        """
        if not self.answered(timeout_s):
            raise Failed(f"a sender did not answer within {timeout_s:g} s")
        try:
            return msgspec.json.decode(self._out.readline(), type=Sent)
        except msgspec.DecodeError as error:
            raise Failed("a sender ended early") from error


class Contest:
    """The running processes of one library.

    Args:
        library: Which.
        client: The server; only read.
        folder: Where handlers write.
        flood: The sender of P2.
        p0: The sender of P0.
        watched: Processes by part, whose processor time is reported.
    """

    def __init__(
        self,
        library: Library,
        client: redis.Redis,
        folder: Path,
        flood: Sender,
        p0: Sender,
        watched: Mapping[str, Sequence[int]],
    ) -> None:
        self._library = library
        self._client = client
        self._folder = folder
        self._flood = flood
        self._p0 = p0
        self._watched = watched

    def window(self, seconds: float, drain_s: float = DRAIN_S) -> Window:
        """A flood of `seconds` with P0 at the same time, until all of it is acknowledged.

        Raises:
            Failed: a sender ended, or jobs still waited after `drain_s`.
        """
        handled_before, cpu_before, load_1m = handled(self._folder), self._cpu_s(), os.getloadavg()[0]
        for sender, order in ((self._flood, "flood"), (self._p0, "p0")):
            sender.send(f"{order} {seconds}")
        self._hold_backlog(seconds + drain_s)
        p2 = self._flood.receive(drain_s)
        p0 = self._p0.receive(drain_s)
        took_s = self._drained(drain_s) - p2.first_at
        cpu_s = self._cpu_s()
        self._published(handled_before + p2.sent)
        latencies, lines = p0_latencies(self._folder, range(p0.first, p0.first + p0.sent))
        return Window(
            p2=p2,
            p0=p0,
            took_s=took_s,
            p2_handled=handled(self._folder) - handled_before,
            p0_ms=latencies,
            p0_handled=lines,
            cores_used={part: round((used - cpu_before[part]) / took_s, 2) for part, used in cpu_s.items()},
            load_1m=round(load_1m, 2),
        )

    def _hold_backlog(self, timeout_s: float) -> None:
        """Keep the backlog bounded until the flood is answered."""
        deadline, paused = time.monotonic() + timeout_s, False
        while not self._flood.answered(POLL_S) and time.monotonic() < deadline:
            full = self._library.depth(self._client) >= MAX_BACKLOG
            if full != paused:
                self._flood.send("pause" if full else "resume")
                paused = full

    def _drained(self, timeout_s: float) -> float:
        """When nothing waited any more (Unix time)."""
        deadline = time.monotonic() + timeout_s
        while left := self._library.depth(self._client):
            if time.monotonic() > deadline:
                raise Failed(f"{left} jobs still waited after {timeout_s:g} s")
            time.sleep(POLL_S)
        return time.time()

    def _published(self, expected: int) -> None:
        """Wait until handlers have published as many P2 as expected; no longer than `PUBLISH_S`."""
        deadline = time.monotonic() + PUBLISH_S
        while handled(self._folder) < expected and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def _cpu_s(self) -> dict[str, float]:
        return {part: sum(map(_cpu_of, pids)) for part, pids in self._watched.items()}


def _cpu_of(pid: int) -> float:
    """Processor time (s) of a process and all below it."""
    used = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                used += times.user + times.system
    return used


def handled(folder: Path) -> int:
    """P2 handled so far by all processes, repeats included."""
    return sum(int(path.read_text(encoding="ascii") or 0) for path in folder.glob("p2-*.txt"))


def p0_latencies(folder: Path, numbers: range) -> tuple[list[float], int]:
    """Latency (ms) of the first handling of each P0 of those numbers, and how often any was handled."""
    first: dict[int, float] = {}
    lines = 0
    for path in sorted(folder.glob("p0-*.txt")):
        for line in path.read_text(encoding="ascii").splitlines():
            number, latency_ms = line.split()
            if int(number) in numbers:
                lines += 1
                first[int(number)] = min(float(latency_ms), first.get(int(number), float("inf")))
    return list(first.values()), lines


@contextmanager
def running(
    command: Command, environ: Mapping[str, str], log: IO[bytes], *, sender: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A process, and whatever it starts, ended with the block."""
    process = subprocess.Popen(  # noqa: S603 (fixed commands, no shell)
        command,
        env={**os.environ, **environ},
        cwd=FOREIGN,
        stdin=subprocess.PIPE if sender else subprocess.DEVNULL,
        stdout=subprocess.PIPE if sender else log,
        stderr=log,
        start_new_session=True,  # Ctrl-C is handled here, in order
    )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate it, then kill it and everything it started."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def run(
    library: Library,
    environ: Mapping[str, str],
    *,
    url: str,
    server_pid: int,
    folder: Path,
    seconds: float,
) -> Window:
    """Start a library on an emptied server, warm it up, measure it, stop it.

    Args:
        library: Which.
        environ: Where its programs are.
        url: The server; emptied before and after.
        server_pid: Its process.
        folder: An absent folder for what handlers and processes write.
        seconds: Length of the window.

    Raises:
        Failed: it could not be measured; the end of its log is printed.
    """
    folder.mkdir()
    environ = {**environ, **library.environ, "PEERS_URL": url, "PEERS_DIR": str(folder)}
    with ExitStack() as stack:
        client = stack.enter_context(contextlib.closing(redis.Redis.from_url(url)))
        client.flushall()
        stack.callback(client.flushall)
        log = stack.enter_context((folder / "log.txt").open("ab"))
        workers = [stack.enter_context(running(command, environ, log)) for command in library.workers]
        senders = [stack.enter_context(running(library.sender, environ, log, sender=True)) for _ in range(2)]
        watched = {
            "workers": [worker.pid for worker in workers],
            "senders": [sender.pid for sender in senders],
            "server": [server_pid],
        }
        contest = Contest(library, client, folder, Sender(senders[0]), Sender(senders[1]), watched)
        try:
            contest.window(WARM_UP_S, START_S)
            return contest.window(seconds)
        except Failed:
            say(_tail(folder / "log.txt"))
            raise


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
