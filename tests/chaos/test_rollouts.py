"""Bad models go and good ones stay, in small: two planted faults over HTTP, and two good rollouts."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.chaos]
ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(240)
def test_a_bad_model_is_rolled_back_and_a_good_one_is_not() -> None:
    before = set(Path(tempfile.gettempdir()).glob("tocsin-bench-*"))
    ended = subprocess.run(
        [sys.executable, "-m", "verification.rollouts", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr[-4000:]
    (line,) = ended.stdout.splitlines()
    found = json.loads(line)
    assert set(found["faults"]) == {"labels_flipped", "erroring"}
    for one in found["faults"].values():
        assert one["rolled_back"]
        assert one["requests"] > 0
    assert (found["failed_requests"], found["aa_runs"], found["false_rollbacks"]) == (0, 2, 0)
    assert found["alerts_on_p1"] == 2
    assert set(Path(tempfile.gettempdir()).glob("tocsin-bench-*")) <= before
