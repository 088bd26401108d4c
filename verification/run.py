"""One run: senders send, routers deliver, faults are injected; then every receipt is accounted for.

start ──► send and break ──► drain ──► read states over HTTP ──► check ──► one line of JSON
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import msgspec

from benchmarks.harness.figures import machine
from benchmarks.harness.processes import Worker
from benchmarks.harness.run import obeying_sigterm, reserved_stdout, say
from tocsin.ports import free_port
from tocsin.settings import Settings
from verification import queries
from verification.checker import check
from verification.facts import EXPLAINING, Evidence, Promise, Verdict, Window
from verification.faults import Injector
from verification.files import read_delivery_logs, read_provider_arrivals, read_receipts
from verification.plan import Order, schedule
from verification.platform import Platform, kill, running
from verification.senders import Sent, sender
from verification.servers import HEALED, WEBHOOK_TIMEOUT_S

DEFAULT_NOTIFICATIONS = 200_000
QUICK_NOTIFICATIONS = 10_000
STEP_S = 0.02
SENT_S = 300.0  # after the last fault, for the slowest sender


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a run was asked for."""

    seed: int
    notifications: int
    quick: bool = False
    keep: bool = False

    @property
    def scale(self) -> Scale:
        """The scale it implies."""
        return QUICK if self.quick else FULL


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How much of everything a run has."""

    send_s: float  # requests are spread over so long; faults are injected meanwhile
    rounds: int  # of faults
    senders: int
    replicas: int  # HTTP servers
    routers: int  # a lane
    drain_s: float


FULL = Scale(send_s=100.0, rounds=4, senders=3, replicas=2, routers=2, drain_s=300.0)
QUICK = Scale(send_s=12.0, rounds=1, senders=2, replicas=1, routers=2, drain_s=180.0)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a run found."""

    verdict: Verdict
    figures: dict[str, Any]
    good: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run once. Returns the exit status: 0 where the proof holds."""
    options = parse(argv)
    say(f"seed {options.seed}")
    with reserved_stdout() as out, obeying_sigterm(), _folder(options) as folder:
        result = run(folder, options)
        for problem in result.verdict.problems:
            say(problem)
        out.write(msgspec.json.encode(result.figures).decode() + "\n")
    return 0 if result.good else 1


def parse(argv: Sequence[str] | None = None) -> Options:
    """Read the arguments; exits with status 2 where they make no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m verification", description="Break the platform and account for every receipt."
    )
    parser.add_argument("--seed", type=int, help="of what is sent and broken (default: a fresh one)")
    parser.add_argument(
        "--notifications", type=_positive, help=f"how many (default {DEFAULT_NOTIFICATIONS:,})"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"half a minute, {QUICK_NOTIFICATIONS:,} notifications"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder, and say where it is")
    found = parser.parse_args(argv)
    default = QUICK_NOTIFICATIONS if found.quick else DEFAULT_NOTIFICATIONS
    return Options(
        seed=secrets.randbelow(1_000_000) if found.seed is None else found.seed,
        notifications=found.notifications or default,
        quick=found.quick,
        keep=found.keep,
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


@contextmanager
def _folder(options: Options) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tocsin-verification-"))
    try:
        yield folder
    finally:
        if options.keep:
            say(f"kept {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def run(folder: Path, options: Options) -> Result:
    """Everything from the start to the verdict."""
    scale, began = options.scale, time.monotonic()
    settings = Settings(
        data_dir=str(folder / "data"),
        port=free_port(),
        dashboard_port=free_port(),
        webhook_allow_private=True,
        webhook_timeout_s=WEBHOOK_TIMEOUT_S,
    )
    arrivals = folder / "provider.jsonl"
    with running(
        settings, arrivals=str(arrivals), replicas=scale.replicas, routers=scale.routers
    ) as platform:
        say(f"sending {options.notifications:,} over about {scale.send_s:g} s")
        with Senders(platform, folder, options) as senders:
            injector = _send_and_break(platform, senders, options)
            sent = senders.sent
        say("sent; draining")
        # Behind a breaker that sees failures alone each attempt takes a minute: the last ones would take an hour.
        platform.provider.send(HEALED)
        drained = platform.await_drained(scale.drain_s)
        promises = [
            promise for path in senders.files for found in read_receipts(path) for promise in found.promises
        ]
        say(f"reading the final states of {len(promises):,}")
        evidence, torn = _gather(platform, promises, arrivals, injector.windows)
    say("checking")
    verdict = check(evidence)
    figures = _figures(verdict, options, sent, injector)
    figures |= {"drained": drained, "torn_lines": torn, "repeated_receipts": len(promises) - verdict.accepted}
    figures |= {"seconds": round(time.monotonic() - began, 1), "machine": machine()}
    everything = sum(one.records for one in sent) == len(promises)
    return Result(verdict=verdict, figures=figures, good=verdict.good and everything)


class Senders:
    """The sender processes; a killed one is started again with the same order."""

    def __init__(self, platform: Platform, folder: Path, options: Options) -> None:
        number = options.scale.senders
        shares = [
            options.notifications // number + (n < options.notifications % number) for n in range(number)
        ]
        self.started_at = time.time()
        self.sent: list[Sent] = []
        self.files = [folder / f"receipts-{n}.jsonl" for n in range(number)]
        self._orders = [
            Order(
                seed=options.seed,
                sender=n,
                notifications=share,
                started_at=self.started_at,
                send_s=options.scale.send_s,
                url=f"http://127.0.0.1:{platform.ports[n % len(platform.ports)]}",
                provider=f"http://127.0.0.1:{platform.provider_port}",
                receipts=str(self.files[n]),
            )
            for n, share in enumerate(shares)
        ]
        self._stack = ExitStack()
        self._workers: dict[int, Worker] = {}

    def __enter__(self) -> Self:
        for number in range(len(self._orders)):
            self._start(number)
        return self

    def __exit__(self, *_: object) -> None:
        for (
            worker
        ) in self._workers.values():  # the run ended early: a sender that still sends would not notice
            kill(worker.pid)
        self._stack.close()

    def _start(self, number: int) -> None:
        self._workers[number] = self._stack.enter_context(Worker(sender, self._orders[number]))

    def kill(self, number: int) -> bool:
        """Kill one and start it again; not one that is done."""
        if number not in self._workers:
            return False
        kill(self._workers[number].pid)
        self._start(number)
        return True

    def step(self) -> bool:
        """Collect the answers of senders that are done. Returns whether any is still sending.

        Raises:
            EOFError: a sender ended by itself; its error is on standard error.
        """
        for number, worker in list(self._workers.items()):
            with contextlib.suppress(TimeoutError):
                self.sent.append(worker.receive(Sent, timeout_s=0.0))
                del self._workers[number]
        return bool(self._workers)


def _send_and_break(platform: Platform, senders: Senders, options: Options) -> Injector:
    """Both at once, until all is sent and every fault is over.

    Raises:
        TimeoutError: a sender does not come to an end.
    """
    scale = options.scale
    faults = schedule(
        options.seed,
        rounds=scale.rounds,
        send_s=scale.send_s,
        routers=len(platform.routers),
        senders=scale.senders,
    )
    injector = Injector(platform, faults, senders.kill)
    ends_at = senders.started_at + scale.send_s + SENT_S
    while any([injector.step(senders.started_at), senders.step()]):
        if time.time() > ends_at:
            raise TimeoutError(f"not everything was sent {SENT_S:g} s after it was due")
        time.sleep(STEP_S)
    return injector


def _gather(
    platform: Platform, promises: Sequence[Promise], arrivals: Path, windows: Sequence[Window]
) -> tuple[Evidence, int]:
    """Everything the checker reads, and how many lines of delivery logs were torn by a kill."""
    finals = asyncio.run(queries.read_finals(platform.ports, _distinct(promise.id for promise in promises)))
    dead = [name for name, final in finals.items() if final is not None and final.state == "dead"]
    letters = asyncio.run(queries.read_dead_letters(platform.ports, dead))
    total = asyncio.run(queries.count_dead_letters(platform.ports))
    logged, torn = read_delivery_logs(platform.settings.data_path / "deliveries")
    evidence = Evidence(
        promises=promises,
        arrivals=logged + read_provider_arrivals(arrivals),
        finals=finals,
        letters=letters,
        letters_total=total,
        windows=windows,
    )
    return evidence, torn


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _figures(verdict: Verdict, options: Options, sent: Sequence[Sent], injector: Injector) -> dict[str, Any]:
    """The figures of the line, except those that only the run knows."""
    counts = Counter(injector.counts)
    return {
        "verification": "routing",
        "seed": options.seed,
        "quick": options.quick,
        **msgspec.to_builtins(verdict),
        "faults": dict(sorted(counts.items())),
        "fault_s": round(_covered_s(injector.windows), 1),
        "send_s": options.scale.send_s,
        "requests": sum(one.requests for one in sent),
        "refused": sum(one.refused for one in sent),
        "retries": sum(one.retries for one in sent),
    }


def _covered_s(windows: Iterable[Window]) -> float:
    """How long a duplicate could have been excused; the rest of the time it could not."""
    covered, until = 0.0, 0.0
    for window in sorted((w for w in windows if w.kind in EXPLAINING), key=lambda w: w.start):
        covered += max(0.0, window.end - max(window.start, until))
        until = max(until, window.end)
    return covered
