from __future__ import annotations

import pytest

from routing.admission import AdmissionReason, Decision
from serve_deployments.gate import Memory, Sample, read_memory, refusal
from tocsin.schemas import LaneName

INFO = "# Memory\r\nused_memory:1500\r\nused_memory_human:1.46K\r\nmaxmemory:4000\r\nmem_not_counted_for_evict:500\r\n"


def test_what_the_server_leaves_out_of_its_limit_is_left_out() -> None:
    assert read_memory(INFO) == Memory(1000, 4000)


def test_a_server_that_says_nothing_has_no_limit() -> None:
    assert read_memory("") == Memory(0, 0)


def test_where_no_block_waits_only_retries_are_left() -> None:
    drifted = [INFO.encode(), 2000, 0, 3, 2000, 100, 50]  # a block set aside was accepted and never finished
    assert Sample.read(drifted).records == 3
    assert Sample.read([INFO.encode(), 2000, 1, 3, 1000, 100, 50]).records == 50


@pytest.mark.parametrize("reason", [reason for reason in AdmissionReason if reason])
def test_a_refusal_names_lane_reason_and_time(reason: AdmissionReason) -> None:
    error = refusal(LaneName.P2, Decision(admit=False, reason=reason, retry_after_s=7.0))
    assert error.message.startswith(f"p2 takes no more records now ({reason.value}): ")
    assert error.retry_after_s == 7.0
    assert "7 s" in error.hint
