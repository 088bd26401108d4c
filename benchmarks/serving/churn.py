"""Churn over HTTP, compared in turns with the same model in a stock Serve deployment and in FastAPI.

    generator processes ──keep-alive──┬──► HAProxy ──► churn replica(s)     ours; POST of 100 ids, too
                                      ├──► HAProxy ──► operations           GET /healthz: the same ingress, no work
                                      ├──► Serve's own proxy ──► replica     a Ray of its own, all defaults
                                      ├──► uvicorn ──► FastAPI               the same model, and ours
                                      └──► a socket that answers at once     the generator's limit

The whole platform runs: storage, Ray, pools, every Serve application, a model trained on simulated advertisers. Each
kind of request gets a turn in every round, so that other work on the machine affects all of them alike.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

import msgspec
import psutil

from benchmarks.harness.cores import Stopwatch, tree, without
from benchmarks.harness.figures import Figures, summary_ms
from benchmarks.harness.http_load import Order, Round, encode_request, generator, plain_server, run_load
from benchmarks.harness.payloads import BLOCK_RECORDS, reminders_json
from benchmarks.harness.processes import Worker
from benchmarks.harness.run import Options, run, say
from benchmarks.serving.peers import STARTED_S, fastapi_server, stock_server
from features.simulator import simulate
from launch.file_import import request_of
from launch.local_client import await_lane, client_of, fetch
from launch.platform import Platform
from launch.training import train
from tocsin.settings import Settings
from tocsin.storage.embedded import read_endpoint
from tocsin.wire.lanes import NOTIFICATION_LANES

GENERATORS = 2
CONNECTIONS = 32  # of all generators together
BULK_CONNECTIONS = 4  # for requests that carry much
BATCH_IDS = 100
ROUNDS = 4
QUICK_ROUNDS = 1
WARM_UP_S = 2.0
START_S = 60.0
TRIVIAL, CHURN, BATCH, SEND, LIMIT = "trivial", "churn", "churn_100", "notifications_500", "generator"
CHURN_1, BATCH_DRIVERS = "churn_1", "churn_100_with_drivers"
STOCK, STOCK_1, FASTAPI, FASTAPI_1, FASTAPI_OURS = (
    "stock",
    "stock_1",
    "fastapi",
    "fastapi_1",
    "fastapi_our_model",
)
ALONE = frozenset({CHURN_1, STOCK_1, FASTAPI_1})
OURS = frozenset({TRIVIAL, CHURN, CHURN_1, BATCH, BATCH_DRIVERS, SEND})
DAY_S = 86_400.0


class Ports(msgspec.Struct, frozen=True):
    """Where each service listens."""

    ours: int
    stock: int
    fastapi: int
    plain: int


class Measured(msgspec.Struct, frozen=True):
    """One turn: the answers, and the cores its service used."""

    round: Round
    cores: float


def orders(ids: Sequence[str], ports: Ports, options: Options) -> dict[str, Order]:
    """The order of each kind of turn; `seconds` is the length of one turn."""
    chance = random.Random(options.seed)  # noqa: S311 (nothing secret)
    samples = [chance.sample(ids, BATCH_IDS) for _ in range(16)]
    sends = [reminders_json(options.seed + number) for number in range(8)]
    health = [encode_request("GET", "/healthz")]
    one = [encode_request("GET", f"/v1/churn/{advertiser_id}") for advertiser_id in ids]
    requests: dict[str, tuple[int, list[bytes]]] = {
        LIMIT: (ports.plain, health),
        TRIVIAL: (ports.ours, health),
        CHURN: (ports.ours, one),
        STOCK: (ports.stock, one),
        FASTAPI: (ports.fastapi, one),
        FASTAPI_OURS: (
            ports.fastapi,
            [encode_request("GET", f"/ours/{advertiser_id}") for advertiser_id in ids],
        ),
        CHURN_1: (ports.ours, one),
        STOCK_1: (ports.stock, one),
        FASTAPI_1: (ports.fastapi, one),
        BATCH: (ports.ours, [_batch({"advertiser_ids": names}) for names in samples]),
        BATCH_DRIVERS: (
            ports.ours,
            [_batch({"advertiser_ids": names, "drivers": True}) for names in samples],
        ),
        SEND: (ports.ours, [encode_request("POST", "/v1/notifications", body) for body in sends]),
    }
    turn_s = options.seconds / (rounds_of(options) * len(requests))
    return {
        name: Order(port=port, requests=whole, connections=_connections(name), seconds=turn_s)
        for name, (port, whole) in requests.items()
    }


def _batch(body: dict[str, Any]) -> bytes:
    return encode_request("POST", "/v1/churn", msgspec.json.encode(body))


def _connections(name: str) -> int:
    if name in ALONE:
        return 1
    return BULK_CONNECTIONS if name in {BATCH, BATCH_DRIVERS, SEND} else CONNECTIONS


def rounds_of(options: Options) -> int:
    """How many turns each kind gets."""
    return QUICK_ROUNDS if options.quick else ROUNDS


def prepare(settings: Settings, seed: int) -> tuple[list[str], float]:
    """Import simulated advertisers, train, promote; returns their ids in a random order and the end of the data."""
    end = time.time() // DAY_S * DAY_S
    made = simulate(seed=seed, end=end)
    with client_of(settings) as client:
        client.send_activity([request_of(activity) for activity in made.activities])
    await_lane(settings, "activity")
    train(settings, promote=True)
    ids = sorted(made.churned_at)
    random.Random(seed).shuffle(ids)  # noqa: S311 (nothing secret)
    newest = max(activity.event_time for activity in made.activities)
    return ids, (newest // DAY_S + 1) * DAY_S


def take_turns(
    settings: Settings,
    generators: Sequence[Worker],
    asked: Mapping[str, Order],
    rounds: int,
    processes: Callable[[str], Sequence[psutil.Process]],
) -> dict[str, list[Measured]]:
    """Every kind once a round, after a warm-up; a lane that was filled is empty again before the next turn."""
    for name, order in asked.items():
        _load(generators, name, msgspec.structs.replace(order, seconds=WARM_UP_S))
    await_lane(settings, *NOTIFICATION_LANES)
    found: dict[str, list[Measured]] = {name: [] for name in asked}
    for number in range(rounds):
        say(f"serving: round {number + 1} of {rounds}")
        for name, order in asked.items():
            watch = Stopwatch(lambda name=name: processes(name))  # type: ignore[misc]
            watch.start()
            answered = _load(generators, name, order)
            found[name].append(Measured(answered, watch.stop()))
            if name == SEND:
                await_lane(settings, *NOTIFICATION_LANES)
    return found


def _load(generators: Sequence[Worker], name: str, order: Order) -> Round:
    return run_load(generators[:1] if name in ALONE else generators, order)


def figures(found: Mapping[str, Sequence[Measured]]) -> Figures:
    """Rates (median of the rounds), latencies (all samples) and ratios (round by round, then the median)."""
    kinds: dict[str, Any] = {}
    for name, turns in found.items():
        latencies = [latency for one in turns for latency in one.round.latencies_ms]
        kinds[name] = {
            "requests_per_s": round(median(one.round.per_s for one in turns), 1),
            "ms": summary_ms(latencies),
            "cores": round(median(one.cores for one in turns), 2),
            "errors": sum(one.round.errors for one in turns),
        }
    kinds[BATCH]["predictions_per_s"] = round(kinds[BATCH]["requests_per_s"] * BATCH_IDS)
    kinds[BATCH_DRIVERS]["predictions_per_s"] = round(kinds[BATCH_DRIVERS]["requests_per_s"] * BATCH_IDS)
    kinds[SEND]["events_per_s"] = round(kinds[SEND]["requests_per_s"] * BLOCK_RECORDS)
    rounds = {name: [one.round for one in turns] for name, turns in found.items()}
    return {
        "ours": side(kinds, CHURN, CHURN_1),
        "stock_serve": side(kinds, STOCK, STOCK_1),
        "fastapi": side(kinds, FASTAPI, FASTAPI_1),
        "ratio_stock": ratio(rounds[CHURN], rounds[STOCK]),
        "ratio_fastapi_per_core": ratio_per_core(found[CHURN], found[FASTAPI]),
        "ratio_fastapi_our_model_per_core": ratio_per_core(found[CHURN], found[FASTAPI_OURS]),
        "batch_predictions_per_s": kinds[BATCH]["predictions_per_s"],
        "connections": CONNECTIONS,
        "bulk_connections": BULK_CONNECTIONS,
        "ratio_churn_to_trivial": ratio(rounds[CHURN], rounds[TRIVIAL]),
        "ratio_generator_to_trivial": ratio(rounds[LIMIT], rounds[TRIVIAL]),
        "turns": kinds,
    }


def side(kinds: Mapping[str, Any], crowd: str, alone: str) -> Figures:
    """One service: its rate at 32 connections, its times at one, the cores it kept busy at 32."""
    return {
        "rps_32": kinds[crowd]["requests_per_s"],
        "p50_ms": kinds[alone]["ms"]["p50"],
        "p99_ms": kinds[alone]["ms"]["p99"],
        "cores": kinds[crowd]["cores"],
    }


def ratio(rounds: Sequence[Round], others: Sequence[Round]) -> float | None:
    """How one kind's rate compares to another's in the same round; the median over the rounds."""
    pairs = [(a.per_s, b.per_s) for a, b in zip(rounds, others, strict=True) if b.latencies_ms]
    return round(median(a / b for a, b in pairs), 3) if pairs else None


def ratio_per_core(turns: Sequence[Measured], others: Sequence[Measured]) -> float | None:
    """The same for rates divided by the cores they took."""
    pairs = [
        (a, b) for a, b in zip(turns, others, strict=True) if b.round.latencies_ms and a.cores and b.cores
    ]
    found = [(a.round.per_s / a.cores) / (b.round.per_s / b.cores) for a, b in pairs]
    return round(median(found), 3) if found else None


def balance(settings: Settings) -> Figures:
    """Notifications accepted and, of these, unaccounted for."""
    lanes = [item["counts"] for item in fetch(settings)["lanes"] if item["lane"] in NOTIFICATION_LANES]
    accepted = sum(counts.get("accepted", 0) for counts in lanes)
    ended = sum(
        counts.get(state, 0) for counts in lanes for state in ("delivered", "suppressed", "expired", "dead")
    )
    return {"accepted": accepted, "lost": accepted - ended}


def measure(settings: Settings, options: Options) -> Figures:
    """Start the platform, its peers and the generators, measure, stop them."""
    with ExitStack() as stack:
        scratch = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="tocsin-s-", ignore_cleanup_errors=True)
        )
        # First: it reads the environment as it is.
        stock = stack.enter_context(Worker(stock_server, settings, scratch))
        stock.receive(int, timeout_s=STARTED_S)
        platform = stack.enter_context(Platform(settings, lambda part, line: say(f"  {part:<18} {line}")))
        plain = stack.enter_context(Worker(plain_server))
        generators = [stack.enter_context(Worker(generator)) for _ in range(GENERATORS)]
        say("serving: importing and training")
        ids, as_of = prepare(settings, options.seed)
        fastapi = stack.enter_context(Worker(fastapi_server, settings, as_of))
        stock.send(as_of)
        ports = Ports(
            settings.port,
            stock.receive(int, timeout_s=STARTED_S),
            fastapi.receive(int, timeout_s=STARTED_S),
            plain.receive(int, timeout_s=START_S),
        )

        def processes(name: str) -> Sequence[psutil.Process]:
            """The processes of a turn's service; storage is left out everywhere."""
            if name in {STOCK, STOCK_1}:
                return tree(stock.pid)
            if name not in OURS:
                return tree(fastapi.pid)
            storage = read_endpoint(settings.data_path)
            others = (stock, fastapi, plain, *generators)
            return without(
                tree(os.getpid()), *(tree(one.pid) for one in others), tree(storage.pid if storage else 0)
            )

        found = take_turns(settings, generators, orders(ids, ports, options), rounds_of(options), processes)
        return {**figures(found), **balance(settings), "ready_s": platform.ready_s}


def main(argv: list[str] | None = None) -> int:
    """Run it; returns the exit status."""
    description = "Churn over HTTP compared with a stock Serve deployment and FastAPI with the same model."
    return run("serving", description, measure, argv)
