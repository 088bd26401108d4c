"""`point_in_time` against brute force and against the online vectors, and what may not leak into it."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from pandas.testing import assert_frame_equal

from features.columns import SchemaMismatchError
from features.definitions import DAY_S, FEATURE_NAMES, HOUR_S
from features.event_table import SCHEMA
from features.offline.archive import Archive
from features.offline.point_in_time import event_frame, event_table, point_in_time
from features.simulator import simulate
from features.tiles import fold
from features.vectors import values
from tests.unit.features.oracle import expected
from tocsin.errors import NotFoundError
from tocsin.wire.activity import Activity

FIRST = 17_000  # as a day from the epoch
START = FIRST * DAY_S
thorough = settings(max_examples=100, deadline=None)

# Few values, so that times, arrivals and moments coincide; and any value, so that they do not.
times = st.one_of(
    st.integers(0, 100).map(lambda day: START + day * DAY_S),
    st.integers(0, 60).map(lambda hour: START + hour * HOUR_S),
    st.floats(START, START + 90 * DAY_S),
    st.floats(START, START + 900 * DAY_S),
)
activities = st.builds(
    Activity,
    st.sampled_from(["a", "b", "ü"]),
    times,
    st.one_of(st.sampled_from([0.0, 0.1, 0.2, 98_765_432.654321, 1e10, 1e12]), st.floats(0, 1e6)),
    st.sampled_from(["spend", "campaign"]),
    st.integers(0, 12).map(str),
    st.sampled_from(["", "c1", "c2", "c3"]),
    st.just(""),
    st.one_of(st.just(0.0), times),
    st.booleans(),
)
tellings = st.lists(activities, max_size=40)
rows = st.lists(st.tuples(st.sampled_from(["a", "b", "ü", "nobody"]), times), min_size=1, max_size=12)


def known(told: list[Activity], as_of: float) -> list[Activity]:
    """By brute force: the version of each event that was known at a moment, from the words of the definition."""
    by_id: dict[str, list[Activity]] = {}
    for one in told:
        by_id.setdefault(one.event_id, []).append(one)
    seen = []
    for versions in by_id.values():
        versions.sort(
            key=lambda a: (a.arrival, a.event_time, a.amount, a.kind, a.campaign_id, a.currency, a.backdated)
        )
        first = versions[0]
        there = [one for one in versions if one.arrival <= as_of]
        if there:
            seen.append(there[-1])
        elif first.backdated and first.event_time <= as_of:
            seen.append(first)
    return [structs.replace(one, event_id=str(number)) for number, one in enumerate(seen)]


def asked(rows: list[tuple[str, float]]) -> pa.Table:
    names, moments = zip(*rows, strict=True)
    return pa.table({"advertiser_id": pa.array(names, pa.string()), "as_of": pa.array(moments, pa.float64())})


def found(table: pa.Table) -> list[tuple[float, ...]]:
    return list(zip(*(table[name].to_pylist() for name in FEATURE_NAMES), strict=True))


def same(left: tuple[float, ...], right: tuple[float, ...]) -> bool:
    return np.array_equal(np.array(left), np.array(right), equal_nan=True)


def differing(told: list[Activity], rows: list[tuple[str, float]], table: pa.Table) -> list[object]:
    """Rows that are not, to the last bit, what the online code makes of the events known at their moments."""
    wrong: list[object] = []
    for (name, as_of), row in zip(rows, found(table), strict=True):
        events = known([one for one in told if one.advertiser_id == name], as_of)
        history = fold(name, [one for one in events if one.event_time < as_of])
        online = values(history, as_of)
        if not same(row, online):
            wrong.append((name, as_of, dict(zip(FEATURE_NAMES, zip(row, online, strict=True), strict=True))))
    return wrong


@thorough
@given(tellings, rows, st.randoms(use_true_random=False), st.sampled_from([1, 7, 1_000]))
def test_rows_are_what_the_online_code_makes_of_what_was_known(
    told: list[Activity], rows: list[tuple[str, float]], chance: random.Random, batch_rows: int
) -> None:
    shuffled = [*told, *chance.sample(told, chance.randrange(len(told) + 1))]
    chance.shuffle(shuffled)
    table = point_in_time(event_table(shuffled), asked(rows), batch_rows=batch_rows)
    assert not differing(told, rows, table)


@thorough
@given(tellings, rows)
def test_rows_are_what_their_definitions_say(told: list[Activity], rows: list[tuple[str, float]]) -> None:
    told = [structs.replace(one, amount=min(one.amount, 1e10)) for one in told]
    for (name, as_of), row in zip(rows, found(point_in_time(event_table(told), asked(rows))), strict=True):
        wanted = expected(known([one for one in told if one.advertiser_id == name], as_of), as_of)
        for feature, value in zip(FEATURE_NAMES, row, strict=True):
            brute = wanted[feature]
            if (
                feature.startswith(("spend_slope", "spend_volatility")) and brute is not None
            ):  # it rounds on its way
                assert value == pytest.approx(brute, rel=1e-9, abs=1e-6)
            else:
                assert same((value,), (math.nan if brute is None else brute,)), feature


@thorough
@given(tellings, rows, times, st.floats(0, 400 * DAY_S), st.randoms(use_true_random=False))
def test_nothing_that_happens_or_arrives_later_changes_a_row(
    told: list[Activity], rows: list[tuple[str, float]], as_of: float, shift: float, chance: random.Random
) -> None:
    """What arrives after a moment, or happens after it, in any form and order: rows up to it stay as they are."""
    kept = [one for one in told if one.arrival <= as_of and one.event_time < as_of]
    restated = [
        structs.replace(
            one,
            event_time=chance.choice([one.event_time, one.event_time - shift, one.event_time + shift]),
            arrival=math.nextafter(max(as_of, one.arrival), math.inf) + shift,
            amount=chance.random(),
            campaign_id=chance.choice(["", "x", "c1"]),
            backdated=one.backdated and one in kept,  # a first version would be a past that we did not know
        )
        for one in told
    ]
    future = [
        structs.replace(one, event_id=f"later-{one.event_id}", event_time=max(one.event_time, as_of) + shift)
        for one in told
    ]
    later = [*restated, *future]
    chance.shuffle(later)
    past = [(name, min(moment, as_of)) for name, moment in rows]
    before = point_in_time(event_table(kept), asked(past))
    after = point_in_time(event_table([*later, *kept]), asked(past))
    assert all(map(same, found(before), found(after)))


@thorough
@given(tellings, st.lists(st.tuples(st.sampled_from("ab"), times, times), min_size=1, max_size=8))
def test_a_row_may_ask_what_was_known_at_another_moment(
    told: list[Activity], rows: list[tuple[str, float, float]]
) -> None:
    entities = asked([row[:2] for row in rows]).append_column("known_at", pa.array([row[2] for row in rows]))
    for (name, as_of, known_at), row in zip(
        rows, found(point_in_time(event_table(told), entities)), strict=True
    ):
        events = known([one for one in told if one.advertiser_id == name], known_at)
        assert same(row, values(fold(name, [one for one in events if one.event_time < as_of]), as_of))


def test_many_campaigns_are_estimated_as_online() -> None:
    told = [
        Activity("a", START + at * HOUR_S, 1.0, "spend", str(at), f"c{at % 90}", "", 0.0)
        for at in range(2_000)
    ]
    rows = [
        ("a", START + day * DAY_S + second) for day in (1, 2, 3, 8, 30, 83, 90) for second in (0.0, 5_000.5)
    ]
    assert not differing(told, rows, point_in_time(event_table(told), asked(rows)))


def test_a_long_simulated_history_is_the_same_online() -> None:
    told = simulate(advertisers=25, weeks=60, end=START).activities
    rows = [(one.advertiser_id, START - back * 3.7 * DAY_S) for back in range(0, 60, 7) for one in told[::40]]
    assert not differing(told, rows, point_in_time(event_table(told), asked(rows), batch_rows=100))


def test_a_restatement_counts_from_when_it_arrived() -> None:
    told = [
        Activity("a", START, 1.0, "spend", "1", arrival=START + 10),
        Activity("a", START, 10.0, "spend", "1", arrival=START + 5 * DAY_S),
    ]
    moments = [START + 5, START + 10, START + DAY_S, START + 5 * DAY_S - 1, START + 5 * DAY_S]
    frame = pd.DataFrame({"advertiser_id": "a", "as_of": moments})
    spend = point_in_time(event_frame(told), frame)["lifetime_spend"].tolist()
    assert math.isnan(spend[0])
    assert spend[1:] == [1.0, 1.0, 1.0, 10.0]


def test_of_many_versions_one_counts_at_any_moment() -> None:
    told = [Activity("a", START, float(n), "spend", "1", arrival=START + n * DAY_S) for n in range(1, 6)]
    moments = [START + n * DAY_S + shift for n in range(1, 6) for shift in (0.0, 1.0)]
    table = point_in_time(event_table(told), asked([("a", moment) for moment in moments]))
    assert table["events_lifetime"].to_pylist() == [1.0] * 10
    assert table["lifetime_spend"].to_pylist() == [float(n) for n in range(1, 6) for _ in range(2)]


def test_quotients_of_large_sums_are_rounded_once() -> None:
    chance = random.Random(3)  # noqa: S311 (made-up data)
    told = [Activity("a", START + day * DAY_S, chance.random() * 5e7, "spend", str(day)) for day in range(85)]
    rows = [("a", START + day * DAY_S) for day in range(20, 90)]
    assert not differing(told, rows, point_in_time(event_table(told), asked(rows)))


def test_an_event_moved_to_later_is_gone_from_then_on() -> None:
    told = [
        Activity("a", START, 1.0, "spend", "1", arrival=START),
        Activity("a", START + 50 * DAY_S, 1.0, "spend", "1", arrival=START + 10 * DAY_S),
    ]
    rows = [("a", START + day * DAY_S) for day in (9, 10, 51)]
    seen = point_in_time(event_table(told), asked(rows))["events_lifetime"].to_pylist()
    assert same(tuple(seen), (1.0, math.nan, 1.0))


def test_an_import_of_the_past_is_known_at_its_own_time_until_it_is_restated() -> None:
    imported = START + 100 * DAY_S
    told = [
        Activity("a", START, 1.0, "spend", "1", arrival=imported, backdated=True),
        Activity("a", START, 7.0, "spend", "1", arrival=imported + DAY_S, backdated=True),
        Activity("a", START, 50.0, "spend", "2", arrival=imported),
    ]
    rows = [("a", START + DAY_S), ("a", imported), ("a", imported + DAY_S)]
    assert point_in_time(event_table(told), asked(rows))["lifetime_spend"].to_pylist() == [1.0, 51.0, 57.0]


def test_rows_come_back_in_their_order_with_their_columns() -> None:
    told = [Activity("b", START, 1.0, "spend", "1"), Activity("a", START + DAY_S, 2.0, "spend", "1")]
    frame = pd.DataFrame(
        {"label": [7, 8, 9], "as_of": [START + 9 * DAY_S] * 3, "advertiser_id": ["a", "nobody", "b"]},
        index=[30, 10, 20],
    )
    answer = point_in_time(event_frame(told), frame, features=["lifetime_spend"])
    assert_frame_equal(answer[["label", "as_of", "advertiser_id"]], frame)
    assert answer.columns.tolist() == ["label", "as_of", "advertiser_id", "lifetime_spend"]
    assert answer["lifetime_spend"].fillna(-1).tolist() == [2.0, -1.0, 1.0]
    both = point_in_time(event_table(told), pa.Table.from_pandas(frame), features=["lifetime_spend"])
    assert both["lifetime_spend"].to_pylist()[0] == 2.0


def test_moments_may_be_timestamps() -> None:
    told = event_table([Activity("a", START, 1.0, "spend", "1")])
    when = pd.to_datetime([START, START + 0.5], unit="s")
    for moments in (when, when.tz_localize("UTC"), when.tz_localize("UTC").tz_convert("Asia/Tokyo")):
        frame = pd.DataFrame({"advertiser_id": "a", "as_of": moments})
        assert point_in_time(told, frame)["events_1d"].fillna(0).tolist() == [0.0, 1.0]


def test_no_rows_and_no_events_give_a_table_of_the_same_shape() -> None:
    empty = pa.table({"advertiser_id": pa.array([], pa.string()), "as_of": pa.array([], pa.float64())})
    assert len(point_in_time(event_table([]), empty)) == 0
    answer = point_in_time(event_table([]), asked([("a", START)]))
    assert answer.column_names == ["advertiser_id", "as_of", *FEATURE_NAMES]
    assert math.isnan(answer["spend_7d"][0].as_py())


def test_the_archive_answers_as_the_table_does(tmp_path: Path) -> None:
    told = simulate(advertisers=25, weeks=60, end=START).activities
    archive = Archive(str(tmp_path))
    for number in range(0, len(told), 100):
        archive.append(event_table(told[number : number + 100]), f"part-{number}")
    rows = [(name, START - 30.5 * DAY_S) for name in sorted({one.advertiser_id for one in told})]
    rows += [(name, START) for name, _ in rows]
    table = point_in_time(event_table(told), asked(rows))
    for batch_rows in (50, 1_000_000):
        assert all(map(same, found(table), found(point_in_time(archive, asked(rows), batch_rows=batch_rows))))


def test_faults_are_named() -> None:
    events = event_frame([Activity("a", START, 1.0, "spend", "1")])
    rows = pd.DataFrame({"advertiser_id": ["a"], "as_of": [START]})
    with pytest.raises(
        SchemaMismatchError, match=r"^events lack the column amount; they have advertiser_id, "
    ):
        point_in_time(events.drop(columns="amount"), rows)
    with pytest.raises(SchemaMismatchError, match=r"^entities lack the column as_of"):
        point_in_time(events, rows.drop(columns="as_of"))
    with pytest.raises(SchemaMismatchError, match=r"^as_of has nulls"):
        point_in_time(events, rows.assign(as_of=math.nan))
    with pytest.raises(SchemaMismatchError, match=r"^event_time in row 0 is 'soon', expected"):
        point_in_time(events.assign(event_time="soon"), rows)
    with pytest.raises(SchemaMismatchError, match=r"^events have 1 nulls in kind"):
        point_in_time(events.assign(kind=None).astype({"kind": "str"}), rows)
    with pytest.raises(NotFoundError, match="no feature 'spend_9d'"):
        point_in_time(events, rows, features=["spend_9d"])


def test_columns_an_activity_has_defaults_for_may_be_missing() -> None:
    events = event_frame([Activity("a", START, 1.0, "spend", "1")])
    short = events.drop(columns=["campaign_id", "currency", "arrival", "backdated"])
    rows = pd.DataFrame({"advertiser_id": ["a"], "as_of": [START + 1]})
    assert_frame_equal(point_in_time(short, rows), point_in_time(events, rows))
    assert events.columns.tolist() == SCHEMA.names
