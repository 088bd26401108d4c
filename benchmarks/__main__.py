"""Every member that needs nothing but our own environment, one after the other, with the same arguments.

The status is that of the worst. `features` and `peers` install other libraries and are run by name.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from benchmarks import fairness, features_online, harness, routing, serving

MEMBERS: dict[str, Callable[[list[str] | None], int]] = {
    "routing": routing.main,
    "fairness": fairness.main,
    "serving": serving.main,
    "features_online": features_online.main,
}
BY_NAME = ("features", "peers")  # beside other libraries, which they install first
DESCRIPTION = (
    f"Runs {', '.join(MEMBERS)}, one after the other; one of them alone: python -m benchmarks.{next(iter(MEMBERS))}. "
    f"Only by name, as they install other libraries: {' and '.join(BY_NAME)}."
)


def main(argv: list[str] | None = None) -> int:
    """Run all members; a failed one does not keep the next from its turn. Returns the exit status."""
    harness.parse("", DESCRIPTION, argv)  # before minutes have gone by
    status = 0
    for member in MEMBERS.values():
        try:
            status = max(status, member(argv))
        except Exception:  # noqa: BLE001 (said in full, and told by the exit status)
            traceback.print_exc()
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
