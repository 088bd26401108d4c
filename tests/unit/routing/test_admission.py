from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.admission import (
    ADMITTED,
    LEAST_RETRY_S,
    MEMORY_RETRY_S,
    MOST_RETRY_S,
    MOST_SOURCES,
    AdmissionPolicy,
    AdmissionReason,
    LaneFacts,
    Shares,
)
from tocsin.schemas import LaneName
from tocsin.settings import Settings

POLICY = AdmissionPolicy.of(
    msgspec.structs.replace(
        Settings.from_env({}), p1_max_records=1000, p2_max_records=1000, p2_max_age_s=60.0
    )
)
IDLE = LaneFacts()


def facts(**changes: float) -> LaneFacts:
    return msgspec.structs.replace(IDLE, **changes)


@pytest.mark.parametrize("lane", list(LaneName))
def test_an_idle_lane_takes_everything(lane: LaneName) -> None:
    assert POLICY.admit(lane, IDLE) is ADMITTED


@pytest.mark.parametrize(
    ("ratio", "open_"),
    [
        (0.79, {"p0", "p1", "p2", "activity"}),
        (0.8, {"p0", "p1"}),
        (0.89, {"p0", "p1"}),
        (0.9, {"p0"}),
        (1.5, {"p0"}),
    ],
)
def test_as_memory_runs_out_the_less_urgent_goes_without_first(ratio: float, open_: set[str]) -> None:
    assert {lane.value for lane in LaneName if POLICY.admit(lane, facts(memory_ratio=ratio)).admit} == open_
    refused = POLICY.admit(LaneName.P2, facts(memory_ratio=0.95))
    assert (refused.reason, refused.retry_after_s) == (AdmissionReason.MEMORY, MEMORY_RETRY_S)


def test_p0_is_refused_for_nothing_here() -> None:
    worst = facts(records=10**9, blocks=10**9, oldest_age_s=1e9, memory_ratio=1.0)
    assert POLICY.admit(LaneName.P0, worst).admit
    assert not POLICY.is_shared(LaneName.P0, worst)


def test_a_full_lane_says_when_it_will_have_drained() -> None:
    assert POLICY.admit(LaneName.P2, facts(records=999)).admit
    full = POLICY.admit(LaneName.P2, facts(records=1000, drained_per_s=10.0))
    assert full.reason is AdmissionReason.RECORDS
    assert full.retry_after_s == pytest.approx(5.0)
    assert POLICY.admit(LaneName.P2, facts(records=1000)).retry_after_s == MOST_RETRY_S  # it does not drain
    assert POLICY.admit(LaneName.P2, facts(records=1000, drained_per_s=1e6)).retry_after_s == LEAST_RETRY_S


def test_a_lane_that_does_not_keep_up_is_refused_by_age() -> None:
    assert POLICY.admit(LaneName.P2, facts(oldest_age_s=59.9)).admit
    late = POLICY.admit(LaneName.P2, facts(oldest_age_s=75.0))
    assert late.reason is AdmissionReason.AGE
    assert late.retry_after_s == pytest.approx(15.0)
    assert POLICY.admit(LaneName.P1, facts(oldest_age_s=75.0)).admit  # p1 has the wider limit


@given(
    st.floats(0, 2),
    st.integers(0, 10**7),
    st.floats(0, 1e5),
    st.floats(0, 1e6),
    st.sampled_from(list(LaneName)),
)
def test_a_refusal_always_says_why_and_when(
    ratio: float, records: int, age_s: float, drained: float, lane: LaneName
) -> None:
    at = facts(memory_ratio=ratio, records=records, oldest_age_s=age_s, drained_per_s=drained)
    decision = POLICY.admit(lane, at)
    if decision.admit:
        assert (decision.reason, decision.retry_after_s) == (AdmissionReason.NONE, 0.0)
    else:
        assert decision.reason
        assert LEAST_RETRY_S <= decision.retry_after_s <= MOST_RETRY_S


def test_shares_begin_when_a_lane_is_half_full() -> None:
    assert not POLICY.is_shared(LaneName.P2, facts(records=499))
    assert POLICY.is_shared(LaneName.P2, facts(records=500))


def test_a_source_that_floods_leaves_room_for_one_nobody_has_heard_of() -> None:
    shares = Shares()
    shares.renew(900.0)
    assert shares.admit("flood", 450).admit
    shares.take("flood", 450)
    refused = shares.admit("flood", 1)
    assert (refused.admit, refused.reason) == (False, AdmissionReason.SHARE)
    assert shares.admit("quiet", 300).admit  # a third: two sources and one more
    shares.take("quiet", 300)
    assert shares.admit("third", 150).admit


def test_a_new_window_gives_new_shares_among_those_lately_seen() -> None:
    shares = Shares()
    shares.renew(900.0)
    shares.take("one", 1)
    shares.take("two", 1)
    shares.renew(900.0)
    assert shares.admit("one", 300).admit
    assert not shares.admit("one", 301).admit
    shares.renew(900.0)  # nobody came in the last window
    assert shares.admit("one", 450).admit


def test_a_full_lane_has_no_shares() -> None:
    shares = Shares()
    shares.renew(-5.0)
    assert not shares.admit("one", 1).admit


def test_the_sources_told_apart_are_bounded() -> None:
    shares = Shares()
    shares.renew(math.inf)
    for number in range(3 * MOST_SOURCES):
        shares.take(f"s{number}", 1)
    assert len(shares._taken) <= MOST_SOURCES + 1
    shares.renew(10_000.0)
    assert shares.admit("s1", 1).admit


def test_p2_must_not_outlast_p1() -> None:
    from tocsin.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="TOCSIN_P2_MEMORY_RATIO"):
        Settings.from_env({"TOCSIN_P2_MEMORY_RATIO": "0.95"})
