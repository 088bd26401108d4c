"""Bad models go and good ones stay, in small: two planted faults over HTTP, and two good rollouts."""

from __future__ import annotations

import pytest

from tests.support import proof

pytestmark = [pytest.mark.integration, pytest.mark.chaos]


@pytest.mark.timeout(240)
def test_a_bad_model_is_rolled_back_and_a_good_one_is_not() -> None:
    found = proof("verification.rollouts", "--quick", leftovers="tocsin-bench-*", timeout_s=220)
    assert set(found["faults"]) == {"labels_flipped", "erroring"}
    for one in found["faults"].values():
        assert one["rolled_back"]
        assert one["requests"] > 0
    assert (found["failed_requests"], found["aa_runs"], found["false_rollbacks"]) == (0, 2, 0)
    assert found["alerts_on_p1"] == 2
