from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import InvalidRecordError
from tocsin.streams.leases import share
from tocsin.streams.records import Entry, Position, pack_block, partition_of

NAMES = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=12, unique=True)


@given(NAMES, st.integers(1, 256))
def test_every_partition_has_one_owner_and_shares_differ_by_at_most_one(
    members: list[str], partitions: int
) -> None:
    shares = [share(name, members, partitions) for name in members]
    assert sorted(p for owned in shares for p in owned) == list(range(partitions))
    sizes = [len(owned) for owned in shares]
    assert max(sizes) - min(sizes) <= 1


@given(NAMES, st.integers(1, 64), st.randoms(use_true_random=False))
def test_members_agree_in_whatever_order_they_see_each_other(
    members: list[str], partitions: int, random: Random
) -> None:
    shuffled = list(members)
    random.shuffle(shuffled)
    assert share(members[0], members, partitions) == share(members[0], shuffled, partitions)


def test_who_is_no_member_owns_nothing() -> None:
    assert share("x", ["a", "b"], 4) == []
    assert share("x", [], 4) == []


@given(st.text(max_size=40), st.integers(1, 256))
def test_a_key_has_one_partition_in_range(key: str, partitions: int) -> None:
    assert partition_of(key, partitions) == partition_of(key, partitions)
    assert 0 <= partition_of(key, partitions) < partitions


def test_partitions_are_the_same_in_every_process() -> None:
    assert [partition_of(key, 8) for key in ("home-1", "home-2", "é")] == [0, 2, 6]


@given(
    st.sampled_from(["p0", "p1", "p2", "activity"]),
    st.integers(0, 255),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 9999),
)
def test_an_id_reads_back(lane: str, partition: int, ms: int, seq: int, index: int) -> None:
    entry = Entry(lane, partition, f"{ms}-{seq}", 1, b"")
    assert Position.parse(entry.record_id(index)) == Position(lane, partition, f"{ms}-{seq}", index)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "p0",
        "p0-1-2-3",
        "p0-1-2-3-4-5",
        "p0--1-2-3",
        "p0-x-2-3-4",
        "p0-1-2-3-",
        "p0-1-2-3-٣",
        "p0-1-2-3- 4",
    ],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        Position.parse(text)
    assert caught.value.field == "id"


@given(st.lists(st.integers() | st.text(), max_size=300))
def test_a_block_is_an_array_of_its_records(values: list[int | str]) -> None:
    kept = [v for v in values if isinstance(v, str) or abs(v) < 2**63]
    assert msgspec.msgpack.decode(pack_block([msgspec.msgpack.encode(v) for v in kept])) == kept


@pytest.mark.parametrize("text", [f"p0-1-{2**64}-0-0", f"p0-1-1-{2**64}-0", "p0-1-" + "9" * 60 + "-0-0"])
def test_a_position_no_server_can_have_is_refused(text: str) -> None:
    with pytest.raises(InvalidRecordError):
        Position.parse(text)
