"""What is sent and what is broken, made up from the seed alone: the same seed makes the same run.

A sender that was killed makes its plan again and goes on where its receipts end, with the same keys.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import NotificationRequest
from verification.facts import LOG, WEBHOOK, FaultKind

RECORDS_A_RECIPIENT = 25  # of a lane: enough for an order to be seen
LEAST_RECIPIENTS = 20


class LaneMix(msgspec.Struct, frozen=True, kw_only=True):
    """How one lane is used. Shares are of the lane's records."""

    lane: LaneName
    type: str
    share: float  # of all notifications
    block: tuple[int, int]  # the fewest and the most records of a request
    webhook: float  # by webhook, half of them by log as well
    dedup: float = 0.0  # sent twice under one dedup key
    expiring: float = 0.0  # with a time after which it is dropped


MIX = (
    LaneMix(lane=LaneName.P0, type="emergency", share=0.04, block=(1, 1), webhook=0.2),
    LaneMix(lane=LaneName.P1, type="device_alert", share=0.26, block=(10, 100), webhook=0.01, dedup=0.01),
    LaneMix(lane=LaneName.P2, type="reminder", share=0.70, block=(100, 500), webhook=0.003, expiring=0.02),
)

# What a provider does, by the path of its URL. Broken ones are tried to the end, so p0 alone has them.
FINE, REFUSES, BROKEN = "fine", "refuses", "broken"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One sender's part."""

    seed: int
    sender: int
    notifications: int
    started_at: float  # epoch (s): the expiry of a record must be the same after a restart
    send_s: float
    url: str
    provider: str
    receipts: str  # the file to append to


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request: its key, when it is due (s from the start) and its records."""

    key: str
    due_s: float
    records: list[NotificationRequest]


def requests(order: Order) -> list[Request]:
    """Everything one sender sends, in its order."""
    draw = random.Random(f"{order.seed}/{order.sender}")  # noqa: S311 (reproducible, not secret)
    blocks: list[tuple[LaneMix, int, int]] = []  # lane, first number, records
    for mix in MIX:
        total = round(order.notifications * mix.share)
        first = 0
        while first < total:
            size = min(draw.randint(*mix.block), total - first)
            blocks.append((mix, first, size))
            first += size
    draw.shuffle(blocks)
    return [
        Request(
            key=f"v-{order.seed}-{order.sender}-{number}",
            due_s=order.send_s * number / len(blocks),
            records=[_record(order, mix, first + index, draw) for index in range(size)],
        )
        for number, (mix, first, size) in enumerate(blocks)
    ]


def _record(order: Order, mix: LaneMix, number: int, draw: random.Random) -> NotificationRequest:
    recipients = max(LEAST_RECIPIENTS, round(order.notifications * mix.share / RECORDS_A_RECIPIENT))
    recipient, chance = f"person-{draw.randrange(recipients)}", draw.random()
    channels, url = ((LOG,), None)
    if chance < mix.webhook:
        channels = (LOG, WEBHOOK) if chance < mix.webhook / 2 else (WEBHOOK,)  # type: ignore[assignment]
        url = f"{order.provider}/{_behaviour(mix.lane, draw)}"
    dedup_key = None
    if mix.webhook <= chance < mix.webhook + mix.dedup:
        dedup_key = f"d-{order.seed}-{order.sender}-{number // 200}"
        recipient = f"dedup-{number // 200 % recipients}"
    expires_at = None
    if channels == (LOG,) and chance > 1 - mix.expiring:
        after_s = order.send_s * draw.uniform(-0.2, 1.0)
        expires_at = datetime.fromtimestamp(round(order.started_at), tz=UTC) + timedelta(seconds=after_s)
    return NotificationRequest(
        type=mix.type,
        title=f"{order.sender}/{mix.lane}/{number}",
        recipient=recipient,
        source="verification",
        channels=channels,  # type: ignore[arg-type]  # names of channels
        webhook_url=url,
        dedup_key=dedup_key,
        expires_at=expires_at,
    )


def _behaviour(lane: LaneName, draw: random.Random) -> str:
    chance = draw.random()
    if chance < 0.05:
        return REFUSES
    return BROKEN if chance < 0.08 and lane is LaneName.P1 else FINE


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault to inject."""

    kind: FaultKind
    due_s: float  # from the start
    lasts_s: float = 0.0
    target: int = 0  # which router or sender


# A pause outlives a p0 lease (1.8 s), a write (3 s), or all leases and reads (6 s); in turn.
PAUSES_S = (1.0, 2.4, 4.0, 7.0)
PROVIDER_S = (1.5, 4.0)
KILL_AFTER_S = 0.7
ONE_ROUND = (
    FaultKind.ROUTER_KILL,
    FaultKind.CONNECTION_CUT,
    FaultKind.PROVIDER_FAIL,
    FaultKind.ROUTER_KILL,
    FaultKind.STORAGE_KILL,
    FaultKind.SENDER_KILL,
    FaultKind.AOF_REWRITE,
    FaultKind.PROVIDER_HANG,
    FaultKind.STORAGE_PAUSE,
    FaultKind.CONNECTION_CUT,
    FaultKind.ROUTER_KILL,
    FaultKind.PROVIDER_SLOW,
)


def schedule(seed: int, *, rounds: int, send_s: float, routers: int, senders: int) -> list[Fault]:
    """Faults in time: every kind in every round, shuffled, with quiet between them.

    The quiet matters: a duplicate outside the fault windows could not be recognised where there is no outside.
    """
    draw = random.Random(f"{seed}/faults")  # noqa: S311 (reproducible, not secret)
    kinds = [kind for _ in range(rounds) for kind in draw.sample(ONE_ROUND, len(ONE_ROUND))]
    step_s = send_s * 0.95 / len(kinds)
    victims = _victims(draw, routers)
    pauses = 0
    faults = []
    for number, kind in enumerate(kinds):
        lasts_s = 0.0
        if kind is FaultKind.STORAGE_PAUSE:
            lasts_s, pauses = PAUSES_S[(seed + pauses) % len(PAUSES_S)], pauses + 1
        elif kind in PROVIDER_FAULTS:
            lasts_s = draw.uniform(*PROVIDER_S)
        target = draw.randrange(senders) if kind is FaultKind.SENDER_KILL else 0
        if kind is FaultKind.ROUTER_KILL:
            target = victims[number % len(victims)]
        due_s = step_s * (number + draw.uniform(0.2, 0.8))
        faults.append(Fault(kind=kind, due_s=due_s, lasts_s=lasts_s, target=target))
        if kind is FaultKind.PROVIDER_HANG:
            # A p0 router that waits for the provider has written its logs and settled nothing: the kill that repeats.
            faults.append(Fault(kind=FaultKind.ROUTER_KILL, due_s=due_s + KILL_AFTER_S, target=number % 2))
    return sorted(faults, key=lambda fault: fault.due_s)


PROVIDER_FAULTS: Sequence[FaultKind] = (
    FaultKind.PROVIDER_FAIL,
    FaultKind.PROVIDER_HANG,
    FaultKind.PROVIDER_SLOW,
)


def _victims(draw: random.Random, routers: int) -> list[int]:
    victims = list(range(routers))
    draw.shuffle(victims)
    return victims
