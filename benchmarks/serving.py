"""Churn over HTTP beside a trivial handler behind the same ingress, in turns.

    generator processes ──keep-alive──► HAProxy ──► operations   GET /healthz               (trivial)
                                                ├─► churn        GET /v1/churn/{id}, POST 100 ids
                                                └─► notifications  POST 500 records ──► p2 lane ──► router
                        ──────────────► a socket that answers at once                       (the generator's limit)

The whole platform runs: storage, Ray, pools, every Serve application, a model trained on simulated advertisers.
Each kind of request gets a turn in every round, so that what else happens on the machine meets all of them alike.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

import msgspec

from benchmarks import harness
from benchmarks.harness import Figures, Options, Worker, say
from benchmarks.load import Order, Round, ask, encode_request, generator, plain_server
from benchmarks.payloads import BLOCK_RECORDS, reminders_json
from features.simulator import simulate
from tocsin.cli.importing import await_lane, client_of, request_of
from tocsin.cli.platform import Platform
from tocsin.cli.status import fetch
from tocsin.cli.training import train
from tocsin.schemas import NOTIFICATION_LANES
from tocsin.settings import Settings

GENERATORS = 2
CONNECTIONS = 8  # of all generators together
BULK_CONNECTIONS = 4  # for requests that carry much
BATCH_IDS = 100
ROUNDS = 4
QUICK_ROUNDS = 1
WARM_UP_S = 1.0
START_S = 60.0
TRIVIAL, CHURN, BATCH, SEND, LIMIT = "trivial", "churn", "churn_100", "notifications_500", "generator"


def orders(settings: Settings, ids: Sequence[str], plain_port: int, options: Options) -> dict[str, Order]:
    """What each kind of turn asks; `seconds` is the length of one turn."""
    chance = random.Random(options.seed)  # noqa: S311 (nothing secret)
    batches = [msgspec.json.encode({"advertiser_ids": chance.sample(ids, BATCH_IDS)}) for _ in range(16)]
    sends = [reminders_json(options.seed + number) for number in range(8)]
    health = [encode_request("GET", "/healthz")]
    requests = {
        LIMIT: health,
        TRIVIAL: health,
        CHURN: [encode_request("GET", f"/v1/churn/{advertiser_id}") for advertiser_id in ids],
        BATCH: [encode_request("POST", "/v1/churn", body) for body in batches],
        SEND: [encode_request("POST", "/v1/notifications", body) for body in sends],
    }
    turn_s = options.seconds / (rounds_of(options) * len(requests))
    return {
        name: Order(
            port=plain_port if name == LIMIT else settings.port,
            requests=whole,
            connections=BULK_CONNECTIONS if name in {BATCH, SEND} else CONNECTIONS,
            seconds=turn_s,
        )
        for name, whole in requests.items()
    }


def rounds_of(options: Options) -> int:
    """How many turns each kind gets."""
    return QUICK_ROUNDS if options.quick else ROUNDS


def prepare(settings: Settings, seed: int) -> list[str]:
    """Import simulated advertisers, train, promote; returns their ids in a random order."""
    made = simulate(seed=seed, end=time.time() // 86_400 * 86_400)
    with client_of(settings) as client:
        client.send_activity([request_of(activity) for activity in made.activities])
    await_lane(settings, "activity")
    train(settings, promote=True)
    ids = sorted(made.churned_at)
    random.Random(seed).shuffle(ids)  # noqa: S311 (nothing secret)
    return ids


def take_turns(
    settings: Settings, generators: Sequence[Worker], asked: Mapping[str, Order], rounds: int
) -> dict[str, list[Round]]:
    """Every kind once a round, after a warm-up; a lane that was filled is empty again before the next turn."""
    for order in asked.values():
        ask(generators, msgspec.structs.replace(order, seconds=min(WARM_UP_S, order.seconds)))
    await_lane(settings, *NOTIFICATION_LANES)
    found: dict[str, list[Round]] = {name: [] for name in asked}
    for number in range(rounds):
        say(f"serving: round {number + 1} of {rounds}")
        for name, order in asked.items():
            found[name].append(ask(generators, order))
            if name == SEND:
                await_lane(settings, *NOTIFICATION_LANES)
    return found


def figures(found: Mapping[str, Sequence[Round]]) -> Figures:
    """Rates (median of the rounds), latencies (all samples) and ratios (round by round, then the median)."""
    kinds: dict[str, Any] = {}
    for name, rounds in found.items():
        latencies = [latency for one in rounds for latency in one.latencies_ms]
        kinds[name] = {
            "requests_per_s": round(median(one.per_s for one in rounds), 1),
            "ms": harness.summary_ms(latencies),
            "errors": sum(one.errors for one in rounds),
        }
    kinds[BATCH]["predictions_per_s"] = round(kinds[BATCH]["requests_per_s"] * BATCH_IDS)
    kinds[SEND]["events_per_s"] = round(kinds[SEND]["requests_per_s"] * BLOCK_RECORDS)
    return {
        **kinds,
        "connections": CONNECTIONS,
        "bulk_connections": BULK_CONNECTIONS,
        "ratio_churn_to_trivial": ratio(found[CHURN], found[TRIVIAL]),
        "ratio_churn_100_to_trivial": ratio(found[BATCH], found[TRIVIAL]),
        "ratio_generator_to_trivial": ratio(found[LIMIT], found[TRIVIAL]),
    }


def ratio(rounds: Sequence[Round], others: Sequence[Round]) -> float | None:
    """How one kind's rate compares to another's in the same round; the median over the rounds."""
    pairs = [(a.per_s, b.per_s) for a, b in zip(rounds, others, strict=True) if b.latencies_ms]
    return round(median(a / b for a, b in pairs), 3) if pairs else None


def balance(settings: Settings) -> Figures:
    """Notifications accepted and, of these, unaccounted for."""
    lanes = [item["counts"] for item in fetch(settings)["lanes"] if item["lane"] in NOTIFICATION_LANES]
    accepted = sum(counts.get("accepted", 0) for counts in lanes)
    ended = sum(
        counts.get(state, 0) for counts in lanes for state in ("delivered", "suppressed", "expired", "dead")
    )
    return {"accepted": accepted, "lost": accepted - ended}


def measure(settings: Settings, options: Options) -> Figures:
    """Start the platform and the generators, measure, stop them."""
    with ExitStack() as stack:
        platform = stack.enter_context(Platform(settings, lambda part, line: say(f"  {part:<18} {line}")))
        plain = stack.enter_context(Worker(plain_server))
        generators = [stack.enter_context(Worker(generator)) for _ in range(GENERATORS)]
        plain_port = plain.hear(int, timeout_s=START_S)
        say("serving: importing and training")
        ids = prepare(settings, options.seed)
        asked = orders(settings, ids, plain_port, options)
        found = take_turns(settings, generators, asked, rounds_of(options))
        return {**figures(found), **balance(settings), "ready_s": platform.ready_s}


def main(argv: list[str] | None = None) -> int:
    """Run it; returns the exit status."""
    return harness.run("serving", "Churn over HTTP beside a trivial handler.", measure, argv)


if __name__ == "__main__":
    sys.exit(main())
