"""What decoding a body costs, against the bare decoder in the same run: one object, an array of 500, the same as lines.

`python -m benchmarks.routing.decoding`; microseconds a record, the least of many rounds. Names given twice are looked
for in what is decoded one by one, and not in arrays over `MAX_CHECKED_BYTES`; `names` is what looking costs there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import msgspec

from benchmarks.harness.payloads import reminders_json
from benchmarks.harness.run import reserved_stdout
from routing.intake.intake import check_notification
from tocsin.wire.decoding import RecordDecoder, refuse_repeated_names
from tocsin.wire.notifications import NotificationRequest

ROUNDS = 60
ROUND_S = 0.02


def least_us(work: Callable[[], object], records: int) -> float:
    """The least time a record takes, of processor time, over rounds of about 20 ms."""
    began = time.process_time()
    work()
    number = max(1, int(ROUND_S / (time.process_time() - began)))
    took = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(number):
            work()
        took.append((time.process_time() - began) / number)
    return round(min(took) / records * 1e6, 3)


def main() -> int:
    """Measure and print."""
    decoder = RecordDecoder(NotificationRequest, check_notification)
    array = reminders_json(7)
    parts = [bytes(raw) for raw in msgspec.json.decode(array, type=list[msgspec.Raw])]
    one, lines, now = parts[0], b"\n".join(parts), time.time()
    bare_one = msgspec.json.Decoder(NotificationRequest).decode
    bare_array = msgspec.json.Decoder(list[NotificationRequest]).decode
    figures = {
        "one_us": least_us(lambda: decoder.decode(one, ndjson=False, now=now), 1),
        "one_bare_us": least_us(lambda: bare_one(one), 1),
        "array_us": least_us(lambda: decoder.decode(array, ndjson=False, now=now), len(parts)),
        "array_bare_us": least_us(lambda: bare_array(array), len(parts)),
        "array_names_us": least_us(lambda: refuse_repeated_names(array), len(parts)),
        "lines_us": least_us(lambda: decoder.decode(lines, ndjson=True, now=now), len(parts)),
        "array_bytes": len(array),
    }
    with reserved_stdout() as out:
        out.write(msgspec.json.encode(figures).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
