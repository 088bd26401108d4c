"""Every member, one after the other, with the same arguments; fails if any of them does."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from benchmarks import fairness, routing, serving

MEMBERS: tuple[Callable[[list[str] | None], int], ...] = (routing.main, fairness.main, serving.main)


def main(argv: list[str] | None = None) -> int:
    """Run all members; a failed one does not keep the next from its turn. Returns the exit status."""
    status = 0
    for member in MEMBERS:
        try:
            status = max(status, member(argv))
        except Exception:  # noqa: BLE001 (said in full, and told by the exit status)
            traceback.print_exc()
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
