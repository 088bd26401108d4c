"""The proof itself, in small: a subprocess that breaks everything once and accounts for every receipt."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from verification.facts import FaultKind

pytestmark = [pytest.mark.integration, pytest.mark.chaos]
ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(330)
def test_nothing_is_lost_while_everything_breaks() -> None:
    before = set(Path(tempfile.gettempdir()).glob("tocsin-verification-*"))
    ended = subprocess.run(
        [sys.executable, "-m", "verification", "--quick", "--seed", "11"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=310,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr[-4000:]
    (line,) = ended.stdout.splitlines()
    found = json.loads(line)
    assert (found["verification"], found["seed"]) == ("routing", 11)
    assert found["accepted"] == sum(found[end] for end in ("delivered", "suppressed", "expired", "dead"))
    assert found["accepted"] > 9000
    assert found["accepted"] + found["repeated_receipts"] == 10_000
    for wrong in ("lost", "unexplained_duplicates", "order_violations", "unaccounted", "forged"):
        assert found[wrong] == 0, found
    assert {FaultKind.ROUTER_KILL, FaultKind.STORAGE_KILL, FaultKind.STORAGE_PAUSE} <= found["faults"].keys()
    assert set(Path(tempfile.gettempdir()).glob("tocsin-verification-*")) <= before
