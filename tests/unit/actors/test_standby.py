"""The supervisor's stand-in for p0, with a clock moved by hand."""

from __future__ import annotations

from actors.standby import BACK_S, UNSEEN_S, Standby
from tests.fakes import ManualClock


class StandIn:
    def __init__(self) -> None:
        self.running = True

    def stop(self, timeout_s: float = 10.0) -> bool:
        self.running = False
        return timeout_s > 0


class Watched:
    def __init__(self) -> None:
        self.clock = ManualClock(0.0)
        self.started: list[StandIn] = []
        self.standby = Standby("lane p0", self._start, self.clock)

    def _start(self) -> StandIn:
        self.started.append(StandIn())
        return self.started[-1]

    async def look(self, beating: int, *, after_s: float = 0.4) -> bool:
        self.clock.advance(after_s)
        await self.standby.look(beating)
        return self.standby.consuming


async def test_it_consumes_as_soon_as_nobody_beats_and_only_once() -> None:
    watched = Watched()
    assert not await watched.look(2)
    assert await watched.look(0)
    assert await watched.look(0)
    assert (len(watched.started), watched.standby.times) == (1, 1)


async def test_it_leaves_when_a_member_has_beaten_for_a_while() -> None:
    watched = Watched()
    await watched.look(2)
    await watched.look(0)
    assert await watched.look(1)
    assert await watched.look(1, after_s=BACK_S - 0.1)
    assert not await watched.look(1, after_s=0.2)
    assert not watched.started[0].running
    assert await watched.look(0)
    assert len(watched.started) == 2


async def test_a_member_that_comes_and_goes_does_not_send_it_away() -> None:
    watched = Watched()
    await watched.look(1)
    await watched.look(0)
    for _ in range(5):
        assert await watched.look(1, after_s=BACK_S - 1)
        assert await watched.look(0)


async def test_members_that_are_only_starting_are_waited_for() -> None:
    watched = Watched()
    assert not await watched.look(0)
    assert not await watched.look(0, after_s=UNSEEN_S - 2)
    assert await watched.look(0, after_s=2)


async def test_it_ends_with_the_watch() -> None:
    watched = Watched()
    await watched.look(1)
    await watched.look(0)
    await watched.standby.end()
    await watched.standby.end()
    assert not watched.started[0].running
