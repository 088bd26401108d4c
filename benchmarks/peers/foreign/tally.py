"""What handlers leave behind: a line for every P0, a count of P2. Files of each process's own, in `PEERS_DIR`.

A P2 handler does nothing but count, so that what is measured is the library.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

COUNT_EVERY_S = 0.1

URL = os.environ["PEERS_URL"]
FOLDER = Path(os.environ["PEERS_DIR"])

_lock = threading.Lock()
_handled = 0


def p0(number: int, sent_at: float) -> None:
    """Handle a P0: write down its number and how long ago it was sent (ms), at once."""
    line = f"{number} {(time.time() - sent_at) * 1000:.3f}\n"
    with (FOLDER / f"p0-{os.getpid()}.txt").open("a", encoding="ascii") as file:
        file.write(line)


def p2() -> None:
    """Handle a P2: count it."""
    global _handled  # noqa: PLW0603 (one count a process)
    with _lock:
        _handled += 1
        first = _handled == 1
    if first:  # not at import: workers fork
        threading.Thread(target=_publish, daemon=True).start()


def _publish() -> None:
    with (FOLDER / f"p2-{os.getpid()}.txt").open("wb", buffering=0) as file:
        while True:
            os.pwrite(file.fileno(), b"%012d\n" % _handled, 0)
            time.sleep(COUNT_EVERY_S)
