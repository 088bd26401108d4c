"""What every command prints with: text for people, JSON for machines."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console

if TYPE_CHECKING:
    from models.evaluation.certification import Certificate

JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]


def console(*, to_stderr: bool = False) -> Console:
    """Where people read; with --json, progress goes to standard error."""
    return Console(stderr=to_stderr, highlight=False, soft_wrap=True)


def emit(value: object) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def certified(certificate: Certificate) -> str:
    """What a decision of a model is worth."""
    if certificate.threshold is None:
        return "abstains"
    return f"{certificate.precision_low:.0%} certified, {certificate.coverage:.0%} answered"
