"""Made-up notifications, the same for the same seed."""

from __future__ import annotations

import random
import time

import msgspec

from tocsin.streams.records import Record, partition_of
from tocsin.wire.notifications import Envelope, Notification

BLOCK_RECORDS = 500
BLOCKS = 16  # different ones, sent in turn
WEBHOOK_EVERY = 100

_WORDS = ("meeting", "bridge", "garden", "water", "delivery", "school", "road", "clinic", "market", "power")
_encode = msgspec.msgpack.Encoder().encode


def p2_bodies(seed: int, webhook_url: str = "") -> list[list[tuple[str, bytes]]]:
    """`BLOCKS` blocks of `BLOCK_RECORDS` reminders, each a recipient and an encoded envelope.

    With a `webhook_url`, one in `WEBHOOK_EVERY` goes there instead of to the sink.
    """
    chance = random.Random(seed)  # noqa: S311 (nothing secret)
    now = time.time()
    return [
        [
            _reminder(chance, now, "" if number % WEBHOOK_EVERY else webhook_url)
            for number in range(BLOCK_RECORDS)
        ]
        for _ in range(BLOCKS)
    ]


def _reminder(chance: random.Random, now: float, webhook_url: str) -> tuple[str, bytes]:
    recipient = f"subscriber-{chance.randrange(100_000)}"
    words = " ".join(chance.choices(_WORDS, k=8))
    channel = "webhook" if webhook_url else "sink"
    note = _notification("reminder", f"Reminder: {words}", recipient, "", now, channel, webhook_url)
    return recipient, _encode(Envelope(note))


def p0_record(number: int, partitions: int, now: float) -> Record:
    """A smoke alarm, accepted now."""
    recipient = f"resident-{number}"
    envelope = Envelope(_notification("emergency", f"Smoke in room {number}", recipient, "smoke", now))
    return Record(partition_of(recipient, partitions), _encode(envelope))


def _notification(
    kind: str,
    title: str,
    recipient: str,
    alert_type: str,
    now: float,
    channel: str = "log",
    webhook_url: str = "",
) -> Notification:
    return Notification(
        type=kind,
        title=title,
        recipient=recipient,
        alert_type=alert_type,
        severity="",
        body="",
        source="bench",
        channels=(channel,),
        webhook_url=webhook_url,
        expires_at=0.0,
        dedup_key="",
        data={},
        accepted_at=now,
    )


def reminders_json(seed: int, records: int = BLOCK_RECORDS, channel: str = "log") -> bytes:
    """The same reminders as a caller sends them: one JSON array."""
    chance = random.Random(seed)  # noqa: S311 (nothing secret)
    array = [
        {
            "type": "reminder",
            "title": f"Reminder: {' '.join(chance.choices(_WORDS, k=8))}",
            "recipient": f"subscriber-{chance.randrange(100_000)}",
            "source": "bench",
            "channels": [channel],
        }
        for _ in range(records)
    ]
    return msgspec.json.encode(array)
