from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from features.definitions import DAY_S
from features.tiles import (
    HORIZON_DAYS,
    AdvertiserHistory,
    Change,
    Tile,
    Week,
    apply,
    day_of,
    decode,
    encode,
    merge,
    week_of,
    week_start,
)
from features.vectors import compute
from tocsin.errors import InvalidRecordError
from tocsin.schemas import Activity

quick = settings(max_examples=80, deadline=None)


def event(day: float, amount: float = 1.0, event_id: str = "e") -> Activity:
    return Activity("a", day * DAY_S, amount, "spend", event_id)


def added(*events: Activity) -> list[Change]:
    return [(None, found) for found in events]


versions = st.lists(
    st.builds(
        event,
        st.integers(0, 2_000).map(lambda hours: 12_000 + hours * 11 / 24)
        | st.sampled_from([12_000.5, 12_900.25]),
        st.floats(0, 1e6, allow_nan=False) | st.sampled_from([0.1, 0.2, 1e12]),
    ),
    min_size=1,
    max_size=3,
)
chains = st.lists(versions, min_size=1, max_size=12)
"""For each event, how it was first told and how it was restated."""


def changes_of(chains_: list[list[Activity]], seed: int) -> list[Change]:
    """All changes, events in any order, the versions of one event in theirs."""
    chance = random.Random(seed)  # noqa: S311 - shuffling
    waiting: list[list[Change]] = [list(zip([None, *chain], chain, strict=False)) for chain in chains_]
    changes: list[Change] = []
    while waiting := [chain for chain in waiting if chain]:
        changes.append(chance.choice(waiting).pop(0))
    return changes


def cut(changes: list[Change], seed: int) -> list[list[Change]]:
    chance = random.Random(seed)  # noqa: S311 - shuffling
    places = sorted({0, len(changes), *(chance.randrange(len(changes) + 1) for _ in range(3))})
    return [changes[start:stop] for start, stop in itertools.pairwise(places)]


@quick
@given(chains, st.integers(), st.integers())
def test_any_order_gives_the_same_history(found: list[list[Activity]], one: int, other: int) -> None:
    assert apply(None, changes_of(found, one)) == apply(None, changes_of(found, other))


@quick
@given(chains, st.integers())
def test_one_by_one_gives_the_same_history_as_all_at_once(found: list[list[Activity]], seed: int) -> None:
    changes = changes_of(found, seed)
    history = None
    for change in changes:
        history = apply(history, [change])
    assert history == apply(None, changes)


@quick
@given(chains, st.integers())
def test_parts_merge_in_any_order_to_the_whole(found: list[list[Activity]], seed: int) -> None:
    changes = changes_of(found, seed)
    parts = [apply(None, part) for part in cut(changes, seed)]
    random.Random(seed).shuffle(parts)  # noqa: S311 - shuffling
    merged = parts[0]
    for part in parts[1:]:
        merged = merge(merged, part)
    assert merged == apply(None, changes)


@quick
@given(chains, st.integers())
def test_a_restated_event_leaves_nothing_of_its_past(found: list[list[Activity]], seed: int) -> None:
    restated = apply(None, changes_of(found, seed))
    final = apply(None, added(*(chain[-1] for chain in found)))
    assert restated.lifetime_events == final.lifetime_events == len(found)
    assert restated.lifetime_amount == final.lifetime_amount
    assume(any(tile.events for tile in restated.tiles))
    as_of = (restated.tiles[-1].day + 1) * DAY_S
    assert compute(restated, as_of) == compute(final, as_of)


@quick
@given(chains, st.integers())
def test_histories_are_sorted_and_bounded(found: list[list[Activity]], seed: int) -> None:
    history = apply(None, changes_of(found, seed))
    days = [tile.day for tile in history.tiles]
    weeks = [week.week for week in history.weeks]
    assert days == sorted(set(days))
    assert weeks == sorted(set(weeks))
    assert days[-1] - days[0] <= HORIZON_DAYS


@quick
@given(chains, st.integers())
def test_encoding_keeps_everything(found: list[list[Activity]], seed: int) -> None:
    history = apply(None, changes_of(found, seed))
    assert decode(encode(history)) == history


def test_money_adds_without_rounding() -> None:
    history = apply(None, added(event(1, 0.1), event(1, 0.2), event(1, 0.3)))
    assert history.tiles[0].amount == 0.6
    back = apply(history, [(event(1, 0.3), event(1, 0.0))])
    assert back.tiles[0].amount == 0.3


def test_a_restatement_to_another_day_moves_the_event() -> None:
    history = apply(None, added(event(10, 5.0)))
    moved = apply(history, [(event(10, 5.0), event(12.5, 7.0))])
    assert [(tile.day, tile.events, tile.amount) for tile in moved.tiles] == [(10, 0, 0.0), (12, 1, 7.0)]
    assert moved.last_event_time == 12.5 * DAY_S


def test_the_same_event_again_changes_nothing() -> None:
    history = apply(None, added(event(10, 5.0)))
    assert apply(history, [(event(10, 5.0), event(10, 5.0))]) == history


@pytest.mark.parametrize(("back", "tiles"), [(HORIZON_DAYS, 2), (HORIZON_DAYS + 1, 1)])
def test_a_tile_is_folded_when_older_than_the_horizon(back: int, tiles: int) -> None:
    history = apply(None, added(event(5_000 - back, 2.0), event(5_000, 3.0)))
    assert len(history.tiles) == tiles
    assert history.lifetime_amount == 5.0
    assert history.lifetime_events == 2


def test_a_late_event_beyond_the_horizon_joins_its_week() -> None:
    history = apply(None, added(event(4_000, 2.0), event(5_000, 3.0)))
    late = apply(history, added(event(4_001, 4.0)))
    assert late.weeks == (Week(week_of(4_000), 6_000_000, 2),)
    assert late.tiles == history.tiles


def test_a_folded_event_taken_back_leaves_no_week() -> None:
    history = apply(None, added(event(4_000, 2.0), event(5_000, 3.0)))
    moved = apply(history, [(event(4_000, 2.0), event(4_999, 2.0))])
    assert moved.weeks == ()
    assert moved.lifetime_events == 2


def test_ten_years_of_daily_activity_stay_small() -> None:
    history = apply(None, added(*(event(day, 12.34) for day in range(10_000, 13_650))))
    assert len(history.tiles) == HORIZON_DAYS + 1
    assert len(history.weeks) == 418
    assert len(encode(history)) < 24_000


def test_absurd_sums_saturate_and_still_encode() -> None:
    history = apply(None, added(*(event(1, 1e12) for _ in range(12))))
    assert decode(encode(history)).tiles[0].micros == 2**63 - 1


def test_weeks_run_from_sunday_to_saturday() -> None:
    sunday = day_of(1_527_379_200.0)  # 2018-05-27
    assert week_of(sunday - 1) + 1 == week_of(sunday) == week_of(sunday + 6) == week_of(sunday + 7) - 1
    assert week_start(week_of(sunday + 3)) == sunday


def test_days_before_the_epoch_are_whole_too() -> None:
    assert day_of(-1.0) == -1


def test_no_change_keeps_the_history() -> None:
    history = AdvertiserHistory("a", (Tile(1, 1, 1, 86_400.0),))
    assert apply(history, []) is history


def test_nothing_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to tell"):
        apply(None, [])


def test_two_advertisers_do_not_mix() -> None:
    stranger = Activity("b", 0.0, 1.0, "spend", "e")
    with pytest.raises(ValueError, match="a and b"):
        apply(None, added(event(1), stranger))
    with pytest.raises(ValueError, match="a and b"):
        apply(AdvertiserHistory("a"), added(stranger))


@pytest.mark.parametrize("data", [b"", b"\x02\x93\xa1a\x90\x90", b"\x01", b"\x01\x93\xa1a\x90", b"\x01\xc1"])
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRecordError, match="advertiser history"):
        decode(data)


def test_the_version_comes_first() -> None:
    assert encode(AdvertiserHistory("a")) == b"\x01\x93\xa1a\x90\x90"
