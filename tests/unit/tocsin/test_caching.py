from __future__ import annotations

import asyncio

import msgspec
import pytest

from routing.emergency.device_status import LiveReading
from tests.fakes import ManualClock
from tocsin.caching import Cache, Cacheable, NeverCached


class Word(msgspec.Struct, Cacheable, frozen=True):
    text: str


class Torn(msgspec.Struct, Cacheable, NeverCached, frozen=True):
    """Says both: the stricter word counts."""


READING = LiveReading(device_id="d", state="operational", read_at=1.0)


def cache(clock: ManualClock, max_entries: int = 3) -> Cache[Word]:
    return Cache(ttl_s=10, max_entries=max_entries, clock=clock)


def test_a_value_is_served_while_it_is_fresh(clock: ManualClock) -> None:
    kept = cache(clock)
    kept.put("a", Word("x"))
    clock.advance(9.9)
    assert kept.peek("a") == Word("x")
    clock.advance(0.2)
    assert kept.peek("a") is None
    assert len(kept) == 0


def test_the_one_not_used_for_longest_makes_room(clock: ManualClock) -> None:
    kept = cache(clock, max_entries=2)
    kept.put("a", Word("a"))
    kept.put("b", Word("b"))
    kept.peek("a")
    kept.put("c", Word("c"))
    assert [kept.peek(key) for key in "abc"] == [Word("a"), None, Word("c")]
    kept.drop("a")
    assert kept.peek("a") is None


def test_a_stale_value_is_at_hand_where_it_is_kept(clock: ManualClock) -> None:
    kept: Cache[Word] = Cache(ttl_s=10, max_entries=2, clock=clock, keep_stale=True)
    kept.put("a", Word("old"))
    clock.advance(11)
    assert kept.peek("a") is None
    assert kept.last("a") == Word("old")
    kept.put("b", Word("b"))
    kept.put("c", Word("c"))
    assert kept.last("a") is None
    assert kept.last("never") is None


def test_a_value_made_elsewhere_brings_its_age(clock: ManualClock) -> None:
    kept = cache(clock)
    kept.put("a", Word("x"), age_s=8.0)
    clock.advance(1.9)
    assert kept.peek("a") == Word("x")
    clock.advance(0.2)
    assert kept.peek("a") is None


# The unused-ignore check of mypy makes these lines a test of the types too.
def test_a_reading_that_is_true_only_now_is_refused(clock: ManualClock) -> None:
    with pytest.raises(TypeError, match="LiveReading is true only when it is read"):
        cache(clock).put("d", READING)  # type: ignore[arg-type]
    forbidden: Cache[LiveReading] = Cache(ttl_s=1, max_entries=1, clock=clock)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="never cached"):
        forbidden.put("d", READING)
    torn: Cache[Torn] = Cache(ttl_s=1, max_entries=1, clock=clock)
    with pytest.raises(TypeError, match="never cached"):
        torn.put("d", Torn())


async def test_what_was_loaded_is_refused_as_well(clock: ManualClock) -> None:
    torn: Cache[Torn] = Cache(ttl_s=1, max_entries=1, clock=clock)

    async def load() -> Torn:
        return Torn()

    with pytest.raises(TypeError, match="never cached"):
        await torn.get("d", load)
    assert len(torn) == 0


async def test_many_who_ask_at_once_load_once(clock: ManualClock) -> None:
    kept, loads, go = cache(clock), 0, asyncio.Event()

    async def load() -> Word:
        nonlocal loads
        loads += 1
        await go.wait()
        return Word("x")

    asking = [asyncio.create_task(kept.get("a", load)) for _ in range(20)]
    await asyncio.sleep(0)
    asking[0].cancel()  # goes away; the others still get their answer
    go.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert answers[1:] == [Word("x")] * 19
    assert await kept.get("a", load) == Word("x")
    assert loads == 1


async def test_a_failed_load_is_told_to_all_and_tried_again(clock: ManualClock) -> None:
    kept, loads = cache(clock), 0

    async def load() -> Word:
        nonlocal loads
        loads += 1
        if loads == 1:
            raise ConnectionError
        return Word("x")

    answers = await asyncio.gather(kept.get("a", load), kept.get("a", load), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ConnectionError] * 2
    assert await kept.get("a", load) == Word("x")


@pytest.mark.parametrize(("ttl_s", "max_entries"), [(0, 1), (-1, 1), (1, 0)])
def test_a_cache_without_time_or_room_is_a_mistake(
    clock: ManualClock, ttl_s: float, max_entries: int
) -> None:
    with pytest.raises(ValueError, match="positive"):
        Cache[Word](ttl_s=ttl_s, max_entries=max_entries, clock=clock)
