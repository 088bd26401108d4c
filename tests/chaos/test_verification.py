"""The proof itself, in small: a subprocess that breaks everything once and accounts for every receipt."""

from __future__ import annotations

import pytest

from tests.support import proof
from verification.facts import FaultKind

pytestmark = [pytest.mark.integration, pytest.mark.chaos]


@pytest.mark.timeout(330)
def test_nothing_is_lost_while_everything_breaks() -> None:
    found = proof("verification", "--quick", "--seed", "11", leftovers="tocsin-verification-*", timeout_s=310)
    assert (found["verification"], found["seed"]) == ("routing", 11)
    assert found["accepted"] == sum(found[end] for end in ("delivered", "suppressed", "expired", "dead"))
    assert found["accepted"] > 9000
    assert found["accepted"] + found["repeated_receipts"] == 10_000
    for wrong in ("lost", "unexplained_duplicates", "order_violations", "unaccounted", "forged"):
        assert found[wrong] == 0, found
    assert {FaultKind.ROUTER_KILL, FaultKind.STORAGE_KILL, FaultKind.STORAGE_PAUSE} <= found["faults"].keys()
