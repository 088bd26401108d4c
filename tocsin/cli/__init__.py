"""The command line. Its modules import the platform lazily, so that `--help` is quick."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the `tocsin` command."""
    try:
        from tocsin.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PLATFORM_PACKAGES:
            raise
        sys.stderr.write(
            f"tocsin: this is the client alone ({error.name} is not installed).\n"
            "The platform runs from its checkout: `make demo` there sets everything up.\n"
        )
        sys.exit(1)
    run()


PLATFORM_PACKAGES = frozenset({"typer", "rich", "ray", "redis", "psutil", "features", "models", "routing"})
