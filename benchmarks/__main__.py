"""Every member that needs nothing but our own environment, one after the other, with the same arguments.

Each has an interpreter of its own: a process joins Ray once, with the environment it had then. The status is 1 where
any failed. `features` and `peers` install other libraries and are run by name.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.harness.run import obeying_sigterm, parse

MEMBERS = ("routing", "routing.fairness", "serving", "features.online")
BY_NAME = ("features", "peers")  # they install other libraries first
DESCRIPTION = (
    f"Runs {', '.join(MEMBERS)}, one after the other; one of them alone: python -m benchmarks.{MEMBERS[0]}. "
    f"Only by name, as they install other libraries: {' and '.join(BY_NAME)}."
)
STOP_S = 60.0


def main(argv: list[str] | None = None) -> int:
    """Run all members, also after one has failed. Returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    parse("", DESCRIPTION, arguments)  # before anything runs
    with obeying_sigterm():
        return max(_run([sys.executable, "-m", f"benchmarks.{name}", *arguments]) for name in MEMBERS)


def _run(command: list[str]) -> int:
    """Run one member; when this process is terminated, terminate it and wait. Returns 0, or 1 where it failed."""
    with subprocess.Popen(command) as member:  # noqa: S603 (ourselves)
        try:
            return int(member.wait() != 0)
        except BaseException:
            member.terminate()
            member.wait(STOP_S)
            raise


if __name__ == "__main__":
    sys.exit(main())
