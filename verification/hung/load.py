"""A steady sender of P0 and P2 over HTTP, and the account of its receipts at the log channel."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from tocsin import Client
from tocsin.errors import TocsinError
from tocsin.wire.notifications import NotificationRequest
from verification.facts import Arrival
from verification.files import read_delivery_logs

P0_EVERY_S = 0.1
P2_EVERY_S = 0.5
P2_RECORDS = 20
TIMEOUT_S = 5.0
DRAIN_S = 90.0


class Accepted(msgspec.Struct, frozen=True):
    """One receipt. Times are seconds since the epoch."""

    id: str
    lane: str
    at: float  # when the receipt came


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the receipts of a part."""

    accepted: int
    lost: int
    duplicates: int


class Load:
    """Sends from two threads while the `with` block lasts.

    Args:
        url: The platform.
        deliveries: The folder of the delivery logs.
    """

    def __init__(self, url: str, deliveries: Path) -> None:
        self.accepted: list[Accepted] = []
        self.failed = 0  # sends without a receipt: nothing was promised
        self.worst_s = 0.0  # one send with all its tries
        self._url = url
        self._deliveries = deliveries
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=("emergency", 1, P0_EVERY_S), daemon=True),
            threading.Thread(target=self._send, args=("reminder", P2_RECORDS, P2_EVERY_S), daemon=True),
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def _send(self, kind: str, records: int, every_s: float) -> None:
        number = 0
        with Client(self._url, timeout_s=TIMEOUT_S) as client:
            while not self._stop.wait(every_s):
                number += 1
                batch = [
                    NotificationRequest(
                        type=kind,
                        title=f"{kind} {number}",
                        recipient=f"{kind}-{number}-{place}",
                        source="hung",
                        channels=("log",),
                    )
                    for place in range(records)
                ]
                began = time.monotonic()
                try:
                    receipts = client.send_many(batch).receipts
                    at = time.time()
                    self.accepted += [Accepted(one.id, str(one.lane), at) for one in receipts]
                except TocsinError:
                    self.failed += 1
                self.worst_s = max(self.worst_s, time.monotonic() - began)

    def arrivals(self) -> list[Arrival]:
        """What the log channel has now."""
        return read_delivery_logs(self._deliveries)[0] if self._deliveries.is_dir() else []

    def account(self, timeout_s: float = DRAIN_S) -> Account:
        """Wait until every receipt has arrived, or the time is over; then count."""
        promised = {one.id for one in self.accepted}
        ends_at = time.monotonic() + timeout_s
        while True:
            seen = Counter(arrival.id for arrival in self.arrivals() if arrival.id in promised)
            if len(seen) == len(promised) or time.monotonic() > ends_at:
                return Account(
                    accepted=len(promised),
                    lost=len(promised) - len(seen),
                    duplicates=sum(seen.values()) - len(seen),
                )
            time.sleep(0.5)

    def first_arrival(self, lane: str, accepted_after: float) -> float | None:
        """When the first of a lane arrived among those accepted after a moment; None: none yet."""
        ids = {one.id for one in list(self.accepted) if one.lane == lane and one.at > accepted_after}
        return min((arrival.at for arrival in self.arrivals() if arrival.id in ids), default=None)
