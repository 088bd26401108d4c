"""Tiles against brute force: any order, repeats, lateness and restatements, as of any moment."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.definitions import DAY_S, HOUR_S
from features.tiles import History, current, decode, encode, fold, merge
from features.vectors import at, compute, covers
from tests.unit.features.oracle import expected, surviving
from tocsin.wire.activity import Activity

FIRST = 17_000  # a Monday in 2016, as a day from the epoch
thorough = settings(max_examples=200, deadline=None)

times = st.one_of(
    st.integers(0, 1_200).map(lambda day: (FIRST + day) * DAY_S),  # midnights
    st.integers(0, 1_200 * 24).map(lambda hour: FIRST * DAY_S + hour * HOUR_S),
    st.floats(FIRST * DAY_S, (FIRST + 40) * DAY_S),
    st.floats(FIRST * DAY_S, (FIRST + 1_200) * DAY_S),
    st.floats((FIRST + 500) * DAY_S, (FIRST + 503) * DAY_S),
)
activities = st.builds(
    Activity,
    st.just("a"),
    times,
    st.one_of(st.sampled_from([0.0, 0.1, 0.2, 1e11]), st.floats(0, 1e6)),
    st.sampled_from(["spend", "campaign"]),
    st.integers(0, 25).map(str),
    st.sampled_from(["", "c1", "c2", "c3"]),
    st.just(""),
    st.integers(0, 3).map(float),
)
tellings = st.lists(activities, min_size=1, max_size=40)


def applied(told: list[Activity], cuts: random.Random) -> History | None:
    """A history made as a shard makes it: in batches, merging what is new, folding anew what is restated."""
    log: dict[str, Activity] = {}
    history: History | None = None
    rest = list(told)
    while rest:
        size = cuts.randrange(1, len(rest) + 1)
        batch, rest = rest[:size], rest[size:]
        incoming = current(batch)
        after = current([*log.values(), *incoming.values()])
        restated = any(log[name] != after[name] for name in incoming if name in log)
        new = fold("a", [after[name] for name in incoming if name not in log])
        if restated or history is None:
            history = fold("a", after.values())
        elif new is not None:
            history = merge(history, new)
        log = after
    return history


def differing(found: dict[str, float | None], wanted: dict[str, float | None]) -> dict[str, object]:
    """Features that disagree: to the last bit, but for two whose oracle rounds on its way."""
    rounded = ("spend_slope", "spend_volatility")
    return {
        name: (value, found[name])
        for name, value in wanted.items()
        if found[name] != value
        and not (
            name.startswith(rounded)
            and value is not None
            and found[name] == pytest.approx(value, rel=1e-9, abs=1e-6)
        )
    }


def vector(told: list[Activity], as_of: float, seed: int) -> dict[str, float | None]:
    history = applied(told, random.Random(seed))  # noqa: S311 (batches)
    assert history is not None
    return compute(at(history, surviving(told), as_of), as_of)


@thorough
@given(tellings, times, st.randoms(use_true_random=False))
def test_features_are_what_their_definitions_say_as_of_any_moment(
    told: list[Activity], as_of: float, chance: random.Random
) -> None:
    shuffled = [*told, *chance.sample(told, chance.randrange(len(told) + 1))]
    chance.shuffle(shuffled)
    found = vector(shuffled, as_of, chance.randrange(2**32))
    assert not differing(found, expected(told, as_of))


@thorough
@given(tellings, st.randoms(use_true_random=False))
def test_any_order_repeats_and_batches_give_the_same_bytes(
    told: list[Activity], chance: random.Random
) -> None:
    shuffled = [*told, *told]
    chance.shuffle(shuffled)
    one, other = applied(told, random.Random(1)), applied(shuffled, chance)  # noqa: S311 (batches)
    assert one is not None
    assert other is not None
    assert encode(one) == encode(other)
    assert decode(encode(one)) == one


@thorough
@given(tellings, st.floats(FIRST * DAY_S, (FIRST + 1_200) * DAY_S), st.floats(0, 400 * DAY_S))
def test_nothing_after_a_moment_shows_at_it(told: list[Activity], as_of: float, shift: float) -> None:
    kept = surviving(told)
    moved = [
        one
        if one.event_time < as_of
        else Activity("a", one.event_time + shift, one.amount * 2, one.kind, one.event_id, "x")
        for one in kept
    ]
    history, changed = fold("a", kept), fold("a", moved)
    assert history is not None
    assert changed is not None
    assert compute(at(history, kept, as_of), as_of) == compute(at(changed, moved, as_of), as_of)


@thorough
@given(tellings, st.integers(0, 1_300))
def test_midnights_within_the_horizon_need_no_events(told: list[Activity], day: int) -> None:
    as_of = (FIRST + day) * DAY_S
    history = fold("a", surviving(told))
    assert history is not None
    if covers(history, as_of):
        assert not differing(compute(history, as_of), expected(told, as_of))


@thorough
@given(tellings, st.floats(0, 3 * DAY_S))
def test_moments_after_the_newest_event_need_no_events(told: list[Activity], past: float) -> None:
    history = fold("a", surviving(told))
    assert history is not None
    as_of = math.nextafter(history.newest_event_time, math.inf) + past
    assert covers(history, as_of)
    assert not differing(compute(history, as_of), expected(told, as_of))
