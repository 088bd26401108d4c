"""What every command prints with: text for people, JSON for machines."""

from __future__ import annotations

import sys

import msgspec
from rich.console import Console


def console(*, to_stderr: bool = False) -> Console:
    """Where people read; with --json, progress goes to standard error."""
    return Console(stderr=to_stderr, highlight=False, soft_wrap=True)


def emit(value: object) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()
