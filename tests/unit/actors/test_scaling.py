from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from actors.scaling import PoolBounds, PoolLoad, ScalingPolicy, plan
from actors.supervisor import SCALING, Guard, Supervisor
from tests.support import free_settings
from tocsin.processes import ProcessRecord
from tocsin.settings import Settings
from tocsin.storage.servers import Servers
from tocsin.wire.lanes import LaneName

POLICY = ScalingPolicy(blocks_a_member=10, grow_after=2, idle_s=60.0)
BOUNDS = PoolBounds(least=1, most=3)


def test_a_pool_grows_by_one_when_work_waits_twice_in_a_row() -> None:
    once = plan(PoolLoad(members=1), 11, 0.0, POLICY, BOUNDS)
    assert once.members == 1
    assert plan(once, 11, 1.0, POLICY, BOUNDS).members == 2


def test_a_short_burst_grows_nothing() -> None:
    load = plan(PoolLoad(members=1), 11, 0.0, POLICY, BOUNDS)
    load = plan(load, 3, 1.0, POLICY, BOUNDS)
    assert plan(load, 11, 2.0, POLICY, BOUNDS).members == 1


def test_more_members_are_expected_to_do_more() -> None:
    load = PoolLoad(members=2, busy_samples=1)
    assert plan(load, 20, 0.0, POLICY, BOUNDS).members == 2
    assert plan(load, 21, 0.0, POLICY, BOUNDS).members == 3


def test_a_pool_shrinks_by_one_for_each_idle_minute_down_to_its_least() -> None:
    load = PoolLoad(members=3)
    sizes = []
    for second in range(0, 200, 10):
        load = plan(load, 0, float(second), POLICY, BOUNDS)
        sizes.append(load.members)
    assert sizes[:6] == [3] * 6
    assert sizes[6] == 2
    assert sizes[12] == 1
    assert sizes[-1] == 1


def test_any_work_keeps_a_pool_from_shrinking() -> None:
    load = plan(PoolLoad(members=2, idle_since=0.0), 1, 59.0, POLICY, BOUNDS)
    assert plan(load, 0, 61.0, POLICY, BOUNDS).members == 2


@given(st.lists(st.integers(0, 500), max_size=200), st.integers(1, 8), st.integers(0, 8))
def test_a_pool_never_leaves_its_bounds_and_moves_by_one(depths: list[int], least: int, more: int) -> None:
    bounds = PoolBounds(least=least, most=least + more)
    load = PoolLoad(members=least)
    for second, depth in enumerate(depths):
        after = plan(load, depth, float(second * 30), POLICY, bounds)
        assert bounds.least <= after.members <= bounds.most
        assert abs(after.members - load.members) <= 1
        load = after


def no_guard(_settings: Settings, _servers: Servers) -> Guard:
    raise AssertionError("no lane has to do with the models")


class Members:
    """A pool as a count, and what was done to it."""

    def __init__(self, size: int) -> None:
        self.count = size
        self.moves: list[str] = []

    def size(self, lane: LaneName) -> int:
        assert lane is LaneName.P2
        return self.count

    def grow(self, lane: LaneName) -> None:
        self.count += 1
        self.moves.append(f"+{lane}")

    def shrink(self, lane: LaneName) -> None:
        self.count -= 1
        self.moves.append(f"-{lane}")

    def replace(self, name: str, process: ProcessRecord) -> bool:
        raise NotImplementedError


def test_the_supervisor_moves_the_pool_with_what_waits(tmp_path: Path) -> None:
    pool = Members(1)
    supervisor = Supervisor(free_settings(tmp_path), pool, no_guard)
    waiting = SCALING[LaneName.P2].blocks_a_member * 10
    for second in range(20):
        supervisor.look(LaneName.P2, waiting, float(second))
    assert pool.count == 4
    for minute in range(1, 10):
        supervisor.look(LaneName.P2, 0, 60.0 * minute)
    assert pool.count == 1
    assert pool.moves == ["+p2"] * 3 + ["-p2"] * 3


def test_a_lost_member_is_started_again(tmp_path: Path) -> None:
    pool = Members(0)
    supervisor = Supervisor(free_settings(tmp_path), pool, no_guard)
    supervisor.look(LaneName.P2, 0, 0.0)
    assert pool.count == 1


def test_a_pool_has_no_more_members_than_its_lane_has_partitions(tmp_path: Path) -> None:
    settings = free_settings(tmp_path)
    assert Supervisor(settings, Members(1), no_guard).bounds(LaneName.P0) == PoolBounds(least=2, most=4)
