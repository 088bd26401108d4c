from __future__ import annotations

import pytest

from features.online.as_of import LATEST_TTL_S, AsOf
from tests.fakes import START, ManualClock
from tocsin.errors import StorageUnavailableError

DAY_S = 86_400.0


class Store:
    def __init__(self, newest: float | None = None) -> None:
        self.newest = newest
        self.asked = 0
        self.down = False

    async def latest(self) -> float | None:
        self.asked += 1
        if self.down:
            raise StorageUnavailableError("down")
        return self.newest


async def test_now_is_the_clock_or_what_was_set(clock: ManualClock) -> None:
    store = Store()
    assert await AsOf("now", store.latest, clock).now() == START
    assert await AsOf("1970-01-02T00:00:00Z", store.latest, clock).now() == DAY_S
    assert store.asked == 0


async def test_latest_is_the_midnight_after_the_newest_event_asked_now_and_then(clock: ManualClock) -> None:
    store = Store(newest=DAY_S + 1)
    as_of = AsOf("latest", store.latest, clock)
    assert await as_of.now() == await as_of.now() == 2 * DAY_S
    assert store.asked == 1
    store.newest = 5 * DAY_S
    clock.advance(LATEST_TTL_S + 1)
    assert await as_of.now() == 6 * DAY_S


async def test_latest_is_the_clock_where_midnight_is_still_ahead(clock: ManualClock) -> None:
    as_of = AsOf("latest", Store(newest=START - 60.0).latest, clock)
    assert await as_of.now() == START
    clock.advance(1.0)
    assert await as_of.now() == START + 1.0
    clock.advance(DAY_S)
    assert await as_of.now() == (START // DAY_S + 1) * DAY_S


async def test_latest_stays_what_it_was_while_storage_is_down(clock: ManualClock) -> None:
    store = Store(newest=DAY_S)
    as_of = AsOf("latest", store.latest, clock)
    store.down = True
    with pytest.raises(StorageUnavailableError):
        await as_of.now()
    store.down = False
    assert await as_of.now() == 2 * DAY_S
    store.down = True
    clock.advance(LATEST_TTL_S + 1)
    assert await as_of.now() == 2 * DAY_S


async def test_an_empty_store_has_the_clock(clock: ManualClock) -> None:
    assert await AsOf("latest", Store().latest, clock).now() == START
