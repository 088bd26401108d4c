from __future__ import annotations

import pytest

from models.registry.lineup import (
    Lineup,
    RolloutPolicy,
    RolloutStage,
    advance,
    begin,
    place_of,
    promote,
    register,
    roll_back,
)
from tocsin.errors import ConflictError

POLICY = RolloutPolicy(shares=(0.1, 0.5), shadow_s=60.0, canary_s=30.0, watch_s=600.0)
SERVING = Lineup(champion="a")
NAMES = [f"advertiser-{number}" for number in range(4_000)]


def _canary(step: int = 0) -> Lineup:
    lineup = advance(begin(SERVING, "b", 0.0, POLICY), 60.0)
    for _ in range(step):
        lineup = advance(lineup, 90.0)
    return lineup


def test_the_first_model_serves_at_once() -> None:
    lineup = begin(Lineup(), "a", 5.0, POLICY)
    assert (lineup.champion, lineup.previous, lineup.stage) == ("a", "", RolloutStage.IDLE)


def test_a_rollout_goes_stage_by_stage() -> None:
    lineup = begin(SERVING, "b", 0.0, POLICY)
    seen = [(lineup.stage, lineup.share, lineup.champion)]
    for now in (60.0, 90.0, 120.0, 720.0):
        lineup = advance(lineup, now)
        seen.append((lineup.stage, lineup.share, lineup.champion))
    assert seen == [
        (RolloutStage.SHADOW, 0.0, "a"),
        (RolloutStage.CANARY, 0.1, "a"),
        (RolloutStage.CANARY, 0.5, "a"),
        (RolloutStage.WATCH, 0.0, "b"),
        (RolloutStage.IDLE, 0.0, "b"),
    ]
    assert (lineup.previous, lineup.challenger) == ("a", "")


def test_who_is_judged_and_against_whom() -> None:
    watch = promote(SERVING, "b", 0.0)
    found = [
        (one.judged, one.reference) for one in (SERVING, begin(SERVING, "b", 0.0, POLICY), _canary(), watch)
    ]
    assert found == [("", ""), ("b", "a"), ("b", "a"), ("b", "a")]


@pytest.mark.parametrize("lineup", [begin(SERVING, "b", 0.0, POLICY), _canary(), _canary(1)])
def test_a_challenger_is_withdrawn_and_the_champion_stays(lineup: Lineup) -> None:
    after = roll_back(lineup, 99.0)
    assert (after.champion, after.challenger, after.stage, after.share) == ("a", "", RolloutStage.IDLE, 0.0)


def test_after_a_promotion_the_one_before_comes_back_once() -> None:
    after = roll_back(promote(SERVING, "b", 0.0), 9.0)
    assert (after.champion, after.previous, after.stage) == ("a", "", RolloutStage.IDLE)
    with pytest.raises(ConflictError, match="no previous champion"):
        roll_back(after, 10.0)


def test_only_who_was_meant_is_rolled_back() -> None:
    with pytest.raises(ConflictError, match="it is a that would be rolled back, not b"):
        roll_back(roll_back(_canary(), 1.0, "b"), 2.0, "b")


def test_a_promotion_by_hand_is_watched_as_long_as_was_asked() -> None:
    lineup = promote(SERVING, "b", 0.0, POLICY)
    assert lineup.stage_s == POLICY.watch_s
    assert promote(lineup, "c", 1.0).stage_s == RolloutPolicy().watch_s


@pytest.mark.parametrize("lineup", [begin(SERVING, "b", 0.0, POLICY), _canary()])
def test_only_one_is_tried_at_a_time(lineup: Lineup) -> None:
    with pytest.raises(ConflictError, match="b is being tried"):
        begin(lineup, "c", 1.0, POLICY)
    with pytest.raises(ConflictError, match="b is being tried"):
        promote(lineup, "c", 1.0)
    assert register(lineup, "c").challenger == "b"
    assert register(SERVING, "c").challenger == "c"


def test_the_one_being_tried_may_be_promoted_at_once() -> None:
    after = promote(_canary(), "b", 1.0)
    assert (after.champion, after.previous, after.challenger, after.stage) == (
        "b",
        "a",
        "",
        RolloutStage.WATCH,
    )


def test_the_champion_is_not_tried_against_itself() -> None:
    with pytest.raises(ConflictError, match="champion already"):
        begin(SERVING, "a", 0.0, POLICY)
    with pytest.raises(ConflictError, match="champion already"):
        promote(SERVING, "a", 0.0)
    with pytest.raises(ConflictError, match="no rollout is under way"):
        advance(SERVING, 0.0)


def test_a_stage_is_due_after_its_time() -> None:
    shadow = begin(SERVING, "b", 100.0, POLICY)
    assert [shadow.is_due(now) for now in (100.0, 159.0, 160.0)] == [False, False, True]
    assert not SERVING.is_due(1e12)


def test_the_same_advertisers_stay_with_the_challenger_as_its_share_grows() -> None:
    small = {name for name in NAMES if _canary().answers(name) == "b"}
    large = {name for name in NAMES if _canary(1).answers(name) == "b"}
    assert small < large
    assert len(small) / len(NAMES) == pytest.approx(0.1, abs=0.02)
    assert len(large) / len(NAMES) == pytest.approx(0.5, abs=0.03)


def test_another_rollout_begins_with_other_advertisers() -> None:
    first = {name for name in NAMES if place_of("b", name) < 0.1}
    second = {name for name in NAMES if place_of("c", name) < 0.1}
    assert len(first & second) < 0.2 * len(first)
