from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.intake.admission import (
    ADMITTED,
    LATE_RECORDS,
    MAX_RETRY_S,
    MAX_SOURCES,
    MEMORY_RETRY_S,
    MIN_RETRY_S,
    AdmissionPolicy,
    AdmissionReason,
    Holdings,
    LaneFacts,
)
from tocsin.settings import Settings
from tocsin.wire.lanes import LaneName

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
    assert POLICY.admit_source(LaneName.P0, worst, Holdings(), "s", 10**9).admit


def test_a_full_lane_says_when_it_will_have_drained() -> None:
    assert POLICY.admit(LaneName.P2, facts(records=999)).admit
    full = POLICY.admit(LaneName.P2, facts(records=1000, drained_per_s=10.0))
    assert full.reason is AdmissionReason.RECORDS
    assert full.retry_after_s == pytest.approx(5.0)
    assert POLICY.admit(LaneName.P2, facts(records=1000)).retry_after_s == MAX_RETRY_S  # it does not drain
    assert POLICY.admit(LaneName.P2, facts(records=1000, drained_per_s=1e6)).retry_after_s == MIN_RETRY_S


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
        assert MIN_RETRY_S <= decision.retry_after_s <= MAX_RETRY_S


# --------------------------------------------------------------------------- shares


def holding(**held: float) -> Holdings:
    """What the replicas told each other that each source holds."""
    holdings = Holdings()
    holdings.refresh(held, Counter())
    return holdings


def let_in(holdings: Holdings, source: str, brings: int = 1, /, **changes: float) -> bool:
    decision = POLICY.admit_source(LaneName.P2, facts(**changes), holdings, source, brings)
    assert decision.admit or (decision.reason, decision.retry_after_s) == (AdmissionReason.SHARE, 1.0)
    return decision.admit


LATE = {"records": 400, "waiting": 400_000, "capacity_per_s": 100_000.0}  # 4 s of work; p2 shares from 2 s


def test_a_lane_is_late_when_more_than_so_much_work_waits() -> None:
    assert not POLICY.is_late(LaneName.P2, facts(waiting=200_000, capacity_per_s=100_000.0))
    assert POLICY.is_late(LaneName.P2, facts(waiting=200_001, capacity_per_s=100_000.0))
    assert POLICY.is_late(LaneName.P1, facts(waiting=100_001, capacity_per_s=100_000.0))
    assert not POLICY.is_late(LaneName.P0, facts(waiting=10**9, capacity_per_s=1.0))


def test_a_lane_whose_pace_nobody_has_seen_may_fill_a_little() -> None:
    assert not POLICY.is_late(LaneName.P2, facts(waiting=LATE_RECORDS - 1))
    assert POLICY.is_late(LaneName.P2, facts(waiting=LATE_RECORDS))


def test_in_a_late_lane_the_source_that_floods_is_refused_and_the_others_are_not() -> None:
    holdings = holding(flood=399_000.0, quiet=500.0, other=500.0)
    assert not let_in(holdings, "flood", **LATE)
    assert let_in(holdings, "quiet", **LATE)
    assert let_in(holdings, "quiet", 10_000, **LATE)
    assert let_in(holdings, "never heard of", 10_000, **LATE)
    assert let_in(holdings, "flood", **LATE | {"waiting": 100_000})


def test_two_that_flood_are_both_refused() -> None:
    holdings = holding(one=200_000.0, two=199_000.0, **{f"quiet-{n}": 125.0 for n in range(8)})
    assert not let_in(holdings, "one", **LATE)
    assert not let_in(holdings, "two", **LATE)
    assert let_in(holdings, "quiet-3", **LATE)


@given(st.integers(1, 100), st.floats(0, 1))
def test_equals_and_a_source_that_is_alone_are_never_refused_for_being_late(n: int, spread: float) -> None:
    each = LATE["waiting"] / n
    holdings = holding(**{f"s{number}": each * (1 - spread * 0.1 * (number % 2)) for number in range(n)})
    assert all(let_in(holdings, f"s{number}", 10_000, **LATE) for number in range(n))


def test_a_source_that_is_alone_is_let_in_though_its_holding_is_known_better_than_the_lane() -> None:
    assert let_in(holding(flood=400_001.0), "flood", 10_000, **LATE)


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=50))
def test_some_source_is_always_let_in_to_a_late_lane(held: list[float]) -> None:
    holdings = holding(**{f"s{number}": records for number, records in enumerate(held)})
    late = LATE | {"waiting": max(sum(held), LATE_RECORDS), "capacity_per_s": 0.0}
    assert any(let_in(holdings, f"s{number}", **late) for number in range(len(held)))


def test_over_half_its_limit_no_source_holds_more_than_its_part_of_a_lane() -> None:
    assert let_in(holding(flood=499.0), "flood", 10_000, records=499)
    alone = holding(flood=500.0)
    assert let_in(alone, "flood", 400, records=500)
    assert not let_in(alone, "flood", 401, records=500)
    assert let_in(alone, "quiet", 450, records=500)  # there are two then
    assert not let_in(alone, "quiet", 451, records=500)
    assert not let_in(holding(flood=500.0, quiet=1.0), "flood", records=500)


def test_what_this_replica_let_in_counts_before_the_others_know() -> None:
    holdings = holding(flood=100.0)
    holdings.take("flood", 50)
    holdings.take("new", 1)
    assert (holdings.held("flood"), holdings.active("new"), holdings.active("third")) == (150.0, 2, 3)
    told = holdings.unreported()
    holdings.take("flood", 7)  # while it is told
    holdings.refresh({"flood": 149.0, "new": 1.0}, told)
    assert (holdings.held("flood"), holdings.unreported()) == (156.0, Counter({"flood": 7}))


def test_the_sources_told_apart_are_bounded() -> None:
    holdings = Holdings()
    for number in range(3 * MAX_SOURCES):
        holdings.take(f"s{number}", 1)
    assert len(holdings.unreported()) <= MAX_SOURCES + 1
    assert holdings.held("") == 2 * MAX_SOURCES


def test_p2_must_not_outlast_p1() -> None:
    from tocsin.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="TOCSIN_P2_MEMORY_RATIO"):
        Settings.from_env({"TOCSIN_P2_MEMORY_RATIO": "0.95"})
