"""The `tocsin` command as the wheel brings it: the platform's command line, or how to get it."""

from __future__ import annotations

import sys
from importlib import import_module

PLATFORM_PACKAGES = frozenset(
    {"cli", "launch", "typer", "rich", "ray", "redis", "psutil", "features", "models", "routing"}
)


def main() -> None:
    """Entry point of the `tocsin` command."""
    try:
        run = import_module("cli.app").run  # absent from the wheel: found, never required
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PLATFORM_PACKAGES:
            raise
        sys.stderr.write(
            f"tocsin: this is the client alone ({error.name} is not installed).\n"
            "The platform runs from its checkout: `make demo` there sets everything up.\n"
        )
        sys.exit(1)
    run()
