"""A sender: an honest caller in a process of its own, which may be killed at any moment.

It sends through `tocsin.Client`, keeps every receipt, and sends again, under the same key, what it has no receipt for.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from benchmarks.harness.processes import send
from tocsin import Client
from tocsin.errors import TocsinError
from tocsin.wire.notifications import NotificationRequest, Receipt
from verification.facts import Promise
from verification.files import Receipts, read_receipts
from verification.plan import Order, Request, requests

TIMEOUT_S = 4.0  # of one try; with a shorter one more requests are repeated during a pause
GIVE_UP_S = 120.0  # for one request, over all its tries
PAUSE_S = 0.2


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """A sender's report when it is done."""

    requests: int
    records: int
    refused: int  # records the platform did not accept
    retries: int


def sender(pipe: Connection, order: Order) -> None:
    """Send everything of an order, then `Sent` back, and wait until the pipe closes."""
    path = Path(order.receipts)
    done = {found.key for found in read_receipts(path)}
    plan = requests(order)
    encode = msgspec.json.Encoder().encode
    refused = 0
    with path.open("ab", buffering=0) as file, Client(order.url, timeout_s=TIMEOUT_S) as client:
        for request in plan:
            if request.key in done:
                continue
            time.sleep(max(0.0, order.started_at + request.due_s - time.time()))
            receipts = _send(client, request)
            refused += len(request.records) - len(receipts)
            file.write(encode(Receipts(request.key, _promises(request.records, receipts))) + b"\n")
        retries = client.retries_made
    records = sum(len(request.records) for request in plan)
    send(pipe, Sent(requests=len(plan), records=records, refused=refused, retries=retries))
    with contextlib.suppress(EOFError, OSError):
        pipe.recv_bytes()


def _send(client: Client, request: Request) -> Sequence[Receipt]:
    """The receipts of one request, however often it must be sent.

    Raises:
        TocsinError: the platform refused it for good, or was away for longer than a caller waits.
    """
    ends_at = time.monotonic() + GIVE_UP_S
    while True:
        try:
            if len(request.records) == 1:
                return [client.send(request.records[0], idempotency_key=request.key)]
            return client.send_many(request.records, idempotency_key=request.key).receipts
        except TocsinError as error:
            if not error.retryable or time.monotonic() > ends_at:
                raise
            time.sleep(PAUSE_S)


def _promises(records: Sequence[NotificationRequest], receipts: Sequence[Receipt]) -> list[Promise]:
    return [
        Promise(
            receipt.id,
            str(receipt.lane),
            records[receipt.index].recipient,
            records[receipt.index].title,
            records[receipt.index].channels,
            records[receipt.index].dedup_key or "",
        )
        for receipt in receipts
    ]
