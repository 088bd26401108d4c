"""Reading many entities at once against reading each vector by itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.definitions import DAY_S, FEATURE_NAMES, HISTORY, HOUR_S, RECENT_ACTIVITY, VIEWS
from features.online.packing import ENTITY_BYTES, PACKERS, Fit
from features.online.reader import Question
from features.online.result import MISSING, NEVER, Answer, Status, VectorRead
from tocsin.keys import FeatureKeys
from tocsin.streams.records import partition_of

NOON = 17_000.5 * DAY_S
KEYS = FeatureKeys("t")
PARTITIONS = 3
thorough = settings(max_examples=300, deadline=None)


def stored(
    number: int = 0, *, as_of: float = NOON, newest: float = NOON - 10, until: float = math.inf
) -> bytes:
    """The vectors of one entity; every value tells its index and the entity."""
    parts: list[bytes] = []
    for packer in PACKERS:
        values = [1_000.0 * number + packer.first + index for index in range(packer.count)]
        values[3] = math.nan
        parts.append(packer.pack(values, as_of=as_of, newest=newest, until=until))
    return b"".join(parts)


def other_schema(body: bytes, view: int) -> bytes:
    at = PACKERS[view].bytes.start + 8
    return body[:at] + b"otherone" + body[at + 8 :]


def question(names: Sequence[str], as_of: float = NOON, partitions: int = PARTITIONS) -> Question:
    return Question(KEYS, names, partitions=partitions, as_of=as_of)


def taken(
    bodies: Sequence[bytes | None], marks: dict[int, float | None] | None = None, as_of: float = NOON
) -> tuple[Answer, list[str]]:
    """What is made of stored values, and who is not answered for."""
    names = [f"n{number}" for number in range(len(bodies))]
    marks = dict.fromkeys(range(PARTITIONS), NOON - 1.0) if marks is None else marks
    told: dict[str, bytes | None] = dict(zip(map(KEYS.vectors, names), bodies, strict=True))
    for partition, mark in marks.items():
        told[KEYS.watermark(partition)] = None if mark is None else f"{mark:.6f}".encode()
    asked = question(names, as_of)
    missing = asked.take([told[key] for key in asked.keys()])  # noqa: SIM118 (no dict)
    return asked.finish(), missing


def expected(body: bytes | None, mark: float | None, as_of: float) -> tuple[list[VectorRead], list[str]]:
    """The views of one entity, one by one, and those of other definitions."""
    reads: list[VectorRead] = []
    mismatches: list[str] = []
    for number, packer in enumerate(PACKERS):
        part = None if body is None else body[packer.bytes]
        fit = None if part is None else packer.fit(part, as_of)
        if part is None or fit is not Fit.FITS:
            reads.append(NEVER[number])
            mismatches += [packer.view.name] if fit is Fit.SCHEMA else []
            continue
        packed = packer.read(part)
        age_s = None if mark is None else max(0.0, as_of - mark)
        fresh = age_s is not None and age_s <= packer.view.ttl_s
        status = Status.PRESENT if fresh else Status.STALE
        reads.append(VectorRead(status, age_s, packed.newest_event_time, packed.values))
    return reads, mismatches


moments = st.sampled_from([NOON, NOON - 5, NOON - 10, NOON - 11, NOON + 1, NOON - HOUR_S, NOON - DAY_S])
bodies = st.one_of(
    st.none(),
    st.builds(
        stored,
        st.integers(0, 9),
        as_of=moments,
        newest=st.sampled_from([NOON - 10, NOON - 5, NOON, NOON + 9, math.nan]),
        until=st.sampled_from([math.inf, NOON - 5, NOON - 4, NOON]),
    ),
    st.builds(other_schema, st.just(stored()), st.integers(0, len(VIEWS) - 1)),
    st.sampled_from([b"x", bytes(ENTITY_BYTES), b"\x01" + stored()[1:]]),
)
some_marks = st.fixed_dictionaries(
    {p: st.sampled_from([None, NOON + 5, NOON - 300, NOON - 301, NOON - 3_601]) for p in range(PARTITIONS)}
)


@given(st.lists(st.one_of(st.just(stored(1)), bodies), max_size=12), some_marks, moments)
@thorough
def test_many_at_once_are_what_each_is_alone(
    found: list[bytes | None], marks: dict[int, float | None], as_of: float
) -> None:
    answer, missing = taken(found, marks, as_of)
    mismatches: Counter[str] = Counter()
    for index, (name, body) in enumerate(zip(answer.advertiser_ids, found, strict=True)):
        reads, other = expected(body, marks[partition_of(name, PARTITIONS)], as_of)
        mismatches.update(other)
        values = [value for read in reads for value in read.values]
        assert repr(answer.reads(index)) == repr(reads)
        assert repr(answer.vector(index)) == repr(tuple(values))
        assert answer.statuses(index) == [read.status for read in reads]
        assert answer.stale()[index] == any(read.status is Status.STALE for read in reads)
        if name not in missing:
            ages = [read.age_s for read in reads if read.age_s is not None]
            assert answer.ages_s()[index] == max(ages, default=None)
        assert (name in missing) == any(read.status is Status.NEVER for read in reads)
        np.testing.assert_array_equal(answer.matrix(FEATURE_NAMES)[index], values)
    assert answer.schema_mismatches == mismatches
    assert answer.matrix(FEATURE_NAMES).shape == (len(found), len(FEATURE_NAMES))
    assert repr(answer.columns(FEATURE_NAMES)) == repr(
        {
            name: [answer.vector(index)[number] for index in range(len(found))]
            for number, name in enumerate(FEATURE_NAMES)
        }
    )


def test_bytes_of_two_entities_never_mix() -> None:
    """One too short and one too long are as many bytes as two."""
    whole = stored(1)
    answer, missing = taken([whole[:-8], whole[-8:] + stored(2), stored(3)])
    assert missing == ["n0", "n1"]
    assert answer.vector(2)[0] == 3_000.0 + PACKERS[0].first


def test_a_view_behind_one_of_another_length_is_still_found() -> None:
    recent, history = PACKERS
    shorter = recent.pack([0.0] * recent.count, as_of=NOON, newest=NOON - 10)[: -8 * 4]
    shorter = shorter[:2] + (recent.count - 4).to_bytes(2, "little") + shorter[4:]
    answer, missing = taken([shorter + stored(5)[history.bytes], stored(6)])
    assert answer.statuses(0) == [Status.NEVER, Status.PRESENT]
    assert answer.reads(0)[1].values[0] == 5_000.0 + history.first
    assert answer.reads(1)[0].values[0] == 6_000.0 + recent.first
    assert (answer.schema_mismatches, missing) == ({"recent_activity": 1}, ["n0"])


def test_a_vector_cut_short_is_none_of_ours() -> None:
    answer, missing = taken([stored()[:-8]])
    assert (answer.statuses(0), missing) == ([Status.PRESENT, Status.NEVER], ["n0"])
    assert answer.schema_mismatches == {"history": 1}


def test_a_vector_behind_another_is_used_when_a_further_view_follows() -> None:
    answer, missing = taken(
        [stored(4) + stored(4)[PACKERS[0].bytes].replace(RECENT_ACTIVITY.schema_hash, b"a" * 8)]
    )
    assert (answer.statuses(0), missing) == ([Status.PRESENT, Status.PRESENT], [])


def test_an_hour_later_the_days_view_still_fits() -> None:
    answer, missing = taken([stored()], as_of=NOON + 1)
    assert answer.statuses(0) == [Status.NEVER, Status.PRESENT]
    assert (missing, answer.schema_mismatches) == (["n0"], {})


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_the_watermark_of_each_owner_is_read(count: int) -> None:
    names = [f"n{number}" for number in range(count)]
    keys = question(names).keys()
    owners = {KEYS.watermark(partition_of(name, PARTITIONS)) for name in names}
    assert owners <= set(keys[: len(keys) - count]) <= {KEYS.watermark(p) for p in range(PARTITIONS)}
    assert keys[-count:] == [KEYS.vectors(name) for name in names]
    assert len(question(names, partitions=256).keys()) <= 2 * count


def test_nobody_is_answered_with_nothing() -> None:
    answer, missing = taken([])
    assert (missing, answer.columns(["spend_7d"]), answer.stale().tolist()) == ([], {"spend_7d": []}, [])


def test_a_name_that_is_no_feature_is_refused() -> None:
    answer, _ = taken([stored()])
    with pytest.raises(KeyError, match="no_such"):
        answer.columns(["spend_7d", "no_such"])


def test_what_is_told_is_seen_everywhere() -> None:
    answer, _ = taken([stored(1), None, stored(3)])
    told = [VectorRead(Status.STALE, 9.0, 1.0, (7.0,) * packer.count) for packer in PACKERS]
    answer.override(1, told)
    assert answer.reads(1) == told
    assert answer.stale().tolist() == [False, True, False]
    assert answer.ages_s()[1] == 9.0
    assert answer.columns(["spend_28d"])["spend_28d"][1] == 7.0
    assert answer.vector(1) == (7.0,) * len(FEATURE_NAMES)
    answer.override(1, MISSING)
    assert np.isnan(answer.matrix(FEATURE_NAMES)[1]).all()
    assert answer.vector(0)[0] == 1_000.0 + PACKERS[0].first


def test_what_a_model_gets_is_its_own() -> None:
    answer, _ = taken([stored(1), stored(2)])
    raw = answer.matrix(["spend_7d"])
    raw[:] = 0.0
    assert answer.matrix(["spend_7d"])[0, 0] != 0.0
    assert HISTORY.names[0] in FEATURE_NAMES
