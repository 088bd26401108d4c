"""The proof about hung processes, in small: all pool members are stopped under load."""

from __future__ import annotations

import pytest

from tests.support import proof

pytestmark = [
    pytest.mark.integration,
    pytest.mark.chaos,
    pytest.mark.slow,
]  # alone on the machine: it measures


@pytest.mark.timeout(330)
def test_stopped_routers_are_seen_and_replaced_and_nothing_is_lost() -> None:
    found = proof("verification.hung", "--only", "routers", leftovers="tocsin-hung-*", timeout_s=310)
    assert found["missed"] == []
    assert (found["routers"]["lost"], found["routers"]["duplicates"]) == (0, 0)
    assert found["routers"]["accepted"] > 100
