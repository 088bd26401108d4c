"""Every operation of the HTTP API against its own description, with all checks of Schemathesis; one line of JSON.

    platform (started here, or given by its URL) ◄── requests ── st run --checks all ──► report ──► figures

What the description allows must be taken, what it forbids refused, every answer be one it names. Nothing is left
out; where a check needs help, `verification.fuzz.hooks` says why.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.harness.run import obeying_sigterm, reserved_stdout, say, workspace
from tocsin.settings import Settings
from verification.fuzz.report import FuzzFigures, read_report

MAX_S = 1_800.0  # the most a run may take
SHOWN_CHARS = 4_000  # of what Schemathesis printed, where it failed


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a run was asked for."""

    seed: int = 7
    examples: int = 100  # made up for each operation, on top of those its description implies


QUICK = Options(examples=3)


def main(argv: Sequence[str] | None = None) -> int:
    """Run once. Returns the exit status: 0 where nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m verification.fuzz", description=(__doc__ or "")[:112])
    parser.add_argument("--url", default="", help="of a running platform; else one is started and ended")
    parser.add_argument("--seed", type=int, default=Options().seed, help="of the cases")
    parser.add_argument("--examples", type=int, default=0, help="to make up for each operation")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK.examples} of them")
    given = parser.parse_args(argv)
    examples = given.examples or (QUICK if given.quick else Options()).examples
    options = Options(seed=given.seed, examples=examples)
    with reserved_stdout() as out, obeying_sigterm():
        if given.url:
            figures = fuzz(given.url, options)
        else:
            with workspace() as settings:
                figures = _on_a_platform(settings, options)
        out.write(msgspec.json.encode(figures).decode() + "\n")
    return 1 if figures.failures or figures.server_errors else 0


def _on_a_platform(settings: Settings, options: Options) -> FuzzFigures:
    from launch.platform import Platform  # noqa: PLC0415 (Ray, which a platform given by its URL does not need)

    with Platform(settings, lambda part, line: say(f"{part}: {line}")) as running:
        return fuzz(running.settings.base_url, options)


def fuzz(url: str, options: Options, api_key: str = "") -> FuzzFigures:
    """Fuzz a running platform; what failed is told on standard error.

    Args:
        url: Of the platform.
        options: How much.
        api_key: Where it asks for one.
    """
    with tempfile.TemporaryDirectory(prefix="tocsin-fuzz-") as folder:
        report = Path(folder) / "report.ndjson"
        command = [
            *(str(Path(sys.executable).with_name("st")), "run", f"{url}/openapi.json"),
            *("--checks", "all", "--seed", str(options.seed), "--max-examples", str(options.examples)),
            *("--report", "ndjson", "--report-ndjson-path", str(report), "--no-color"),
            *(("--header", f"Authorization: Bearer {api_key}") if api_key else ()),
        ]
        ended = subprocess.run(  # noqa: S603 (a fixed command)
            command,
            cwd=folder,  # it keeps its caches where it runs
            env=os.environ | {"SCHEMATHESIS_HOOKS": "verification.fuzz.hooks"},
            capture_output=True,
            text=True,
            timeout=MAX_S,
            check=False,
        )
        if not report.exists():
            raise RuntimeError(f"Schemathesis did not run: {ended.stdout}{ended.stderr}"[-SHOWN_CHARS:])
        with report.open(encoding="utf-8") as lines:
            figures = read_report(lines, options.seed)
    if ended.returncode:
        say(ended.stdout + ended.stderr)
        figures = msgspec.structs.replace(figures, failures=max(figures.failures, 1))
    return figures
