"""What was served last, and how long it may be served again."""

from __future__ import annotations

import msgspec

from features.definitions import RECENT_ACTIVITY
from features.online.last_served import LastServed
from features.online.packing import PACKERS
from features.online.result import Status, VectorRead
from tests.unit.features.online.test_reader import NOON, PARTITIONS, stored, taken

LEFT_S = RECENT_ACTIVITY.ttl_s - 1.0  # `taken` answers with an age of a second


def test_what_was_answered_comes_back_older_and_stale() -> None:
    answer, _ = taken([stored(1), stored(2)])
    last_served = LastServed(10)
    last_served.keep(answer)
    aged = [msgspec.structs.replace(r, status=Status.STALE, age_s=1.0 + LEFT_S) for r in answer.reads(1)]
    assert repr(last_served.find("n1", NOON + LEFT_S)) == repr(aged)
    assert last_served.find("n1", NOON + LEFT_S + 1) is None
    assert last_served.find("n9", NOON) is None


def test_what_was_computed_is_kept_too() -> None:
    answer, _ = taken([None, stored(2)])
    answer.override(0, [VectorRead(Status.PRESENT, 3.0, 1.0, (7.0,) * packer.count) for packer in PACKERS])
    last_served = LastServed(10)
    last_served.keep(answer)
    found = last_served.find("n0", NOON + 5)
    assert found is not None
    assert [(read.status, read.age_s, read.values[0]) for read in found] == [(Status.STALE, 8.0, 7.0)] * 2


def test_what_is_not_known_or_of_unknown_age_is_not_kept() -> None:
    last_served = LastServed(10)
    last_served.keep(taken([None])[0])
    assert last_served.find("n0", NOON) is None
    last_served.keep(taken([stored()], dict.fromkeys(range(PARTITIONS)))[0])
    assert last_served.find("n0", NOON) is None


def test_the_last_asked_for_stay() -> None:
    last_served = LastServed(2)
    answer, _ = taken([stored(0), stored(1)])
    last_served.keep(answer)
    last_served.keep(taken([stored(0)])[0])  # n0 again
    three, _ = taken([None, None, stored(2)])
    last_served.keep(three)
    assert last_served.find("n1", NOON) is None
    assert last_served.find("n0", NOON) is not None
    assert last_served.find("n2", NOON) is not None


def test_an_answer_that_took_longer_does_not_replace_a_newer_one() -> None:
    last_served = LastServed(2)
    old, new = taken([stored(1)])[0], taken([stored(2)])[0]
    new.as_of = NOON + 10.0
    last_served.keep(new)
    last_served.keep(old)
    found = last_served.find("n0", NOON + 10.0)
    assert found is not None
    assert repr([read.values for read in found]) == repr([read.values for read in new.reads(0)])
