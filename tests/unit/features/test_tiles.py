from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.definitions import DAY_S, HOUR_S
from features.tiles import (
    HORIZON_DAYS,
    HOURS_KEPT,
    INT64_MAX,
    SKETCH_K,
    History,
    Tile,
    campaign_hash,
    current,
    day_of,
    decode,
    distinct,
    encode,
    fold,
    hour_of,
    later,
    merge,
    week_of,
    week_start,
)
from tocsin.errors import InvalidRecordError
from tocsin.wire.activity import Activity

quick = settings(max_examples=80, deadline=None)


def event(day: float, amount: float = 1.0, campaign_id: str = "", arrival: float = 0.0) -> Activity:
    return Activity("a", day * DAY_S, amount, "spend", "e", campaign_id, "", arrival)


def history_of(*events: Activity) -> History:
    history = fold("a", events)
    assert history is not None
    return history


events = st.lists(
    st.builds(
        event,
        st.integers(0, 2_000).map(lambda hours: 12_000 + hours * 11 / 24)
        | st.sampled_from([12_000.5, 12_900.25])
        | st.floats(12_899, 12_901),
        st.floats(0, 1e6, allow_nan=False) | st.sampled_from([0.1, 0.2, 1e12]),
        st.integers(0, 200).map(str),
    ),
    min_size=1,
    max_size=30,
)


@quick
@given(events, st.randoms(use_true_random=False))
def test_any_order_gives_the_same_history(found: list[Activity], chance: random.Random) -> None:
    shuffled = chance.sample(found, len(found))
    assert fold("a", found) == fold("a", shuffled)


@quick
@given(events, st.randoms(use_true_random=False))
def test_parts_merge_in_any_order_to_the_whole(found: list[Activity], chance: random.Random) -> None:
    cuts = sorted({0, len(found), *(chance.randrange(len(found) + 1) for _ in range(3))})
    parts = [history_of(*found[start:stop]) for start, stop in itertools.pairwise(cuts)]
    chance.shuffle(parts)
    merged = parts[0]
    for part in parts[1:]:
        merged = merge(merged, part)
    assert merged == fold("a", found)


@quick
@given(events)
def test_histories_are_sorted_bounded_and_survive_encoding(found: list[Activity]) -> None:
    history = history_of(*found)
    for tiles in (history.days, history.hours, history.weeks):
        starts = [tile.start for tile in tiles]
        assert starts == sorted(set(starts))
        assert all(tile.events > 0 for tile in tiles)
    assert history.days[-1].start - history.days[0].start <= HORIZON_DAYS
    assert history.hours[-1].start - history.hours[0].start < HOURS_KEPT
    assert history.newest_event_time == max(one.event_time for one in found)
    assert decode(encode(history)) == history


def test_money_adds_without_rounding() -> None:
    history = history_of(event(1, 0.1), event(1, 0.2), event(1, 0.3))
    assert (history.days[0].micros, history.days[0].low, history.days[0].high) == (600_000, 100_000, 300_000)


@pytest.mark.parametrize(("back", "tiles"), [(HORIZON_DAYS, 2), (HORIZON_DAYS + 1, 1)])
def test_a_day_is_folded_when_older_than_the_horizon(back: int, tiles: int) -> None:
    history = history_of(event(5_000 - back, 2.0), event(5_000, 3.0))
    assert len(history.days) == tiles
    assert len(history.weeks) == 2 - tiles


def test_a_late_event_beyond_the_horizon_joins_its_week() -> None:
    history = history_of(event(4_000, 2.0, "x"), event(5_000, 3.0))
    late = merge(history, history_of(event(4_001, 4.0, "y")))
    hashes = tuple(sorted([campaign_hash("x"), campaign_hash("y")]))
    assert late.weeks == (Tile(week_of(4_000), 2, 6_000_000, 2_000_000, 4_000_000, 4_001 * DAY_S, hashes),)
    assert late.days == history.days


def test_hours_are_kept_behind_the_newest_event() -> None:
    newest = 5_000 * DAY_S
    hours = [Activity("a", newest - back * HOUR_S, 1.0, "spend", "e") for back in (0, 47, 48)]
    assert [tile.start for tile in history_of(*hours).hours] == [hour_of(newest) - 47, hour_of(newest)]


def test_ten_years_of_daily_activity_stay_bounded() -> None:
    history = history_of(*(event(day, 12.34) for day in range(10_000, 13_650)))
    assert len(history.days) == HORIZON_DAYS + 1
    assert len(history.weeks) == 418
    assert len(encode(history)) < 48_000


def test_absurd_sums_saturate_and_still_encode() -> None:
    history = history_of(*(event(1, 1e12) for _ in range(12)))
    assert decode(encode(history)).days[0].micros == INT64_MAX


@pytest.mark.parametrize("count", [0, 1, SKETCH_K])
def test_campaigns_are_counted_exactly_up_to_the_sketch(count: int) -> None:
    history = history_of(event(1), *(event(1, campaign_id=str(n)) for n in range(count) for _ in range(2)))
    assert distinct(history.days[0].campaigns) == count


def test_more_campaigns_are_estimated_always_alike() -> None:
    found = [event(1 + n % 5, campaign_id=str(n)) for n in range(5_000)]
    tiles = history_of(*found).days
    assert all(len(tile.campaigns) == SKETCH_K + 1 for tile in tiles)
    estimate = distinct(one for tile in tiles for one in tile.campaigns)
    assert estimate == distinct([campaign_hash(str(n)) for n in range(5_000)])
    assert estimate == pytest.approx(5_000, rel=0.4)


def test_the_last_version_to_arrive_counts_and_ties_go_by_content() -> None:
    first, second = event(1, 5.0, arrival=10.0), event(1, 4.0, arrival=11.0)
    assert later(first, second) == later(second, first) == second
    tied = event(1, 9.0, arrival=11.0)
    assert current([first, second, tied]) == current([tied, second, first]) == {"e": tied}


def test_weeks_run_from_sunday_to_saturday() -> None:
    sunday = day_of(1_527_379_200.0)  # 2018-05-27
    assert week_of(sunday - 1) + 1 == week_of(sunday) == week_of(sunday + 6) == week_of(sunday + 7) - 1
    assert week_start(week_of(sunday + 3)) == sunday


def test_days_before_the_epoch_are_whole_too() -> None:
    assert day_of(-1.0) == -1


def test_no_events_have_no_history() -> None:
    assert fold("a", []) is None


def test_two_advertisers_do_not_mix() -> None:
    stranger = fold("b", [event(1)])
    assert stranger is not None
    with pytest.raises(ValueError, match="a and b"):
        merge(history_of(event(1)), stranger)


@pytest.mark.parametrize("data", [b"", b"\x01\x93\xa1a\x90\x90", b"\x02", b"\x02\x93\xa1a\x90", b"\x02\xc1"])
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRecordError, match="history"):
        decode(data)


def test_the_bytes_do_not_change() -> None:
    million = b"\xce\x00\x0f\x42\x40"
    tile = b"\x97\x01\x01" + 3 * million + b"\xcb\x40\xf5\x18\x00\x00\x00\x00\x00\x90"
    hour = tile.replace(b"\x97\x01", b"\x97\x18", 1)
    assert encode(history_of(event(1))) == b"\x02\x94\xa1a\x91" + tile + b"\x91" + hour + b"\x90"
