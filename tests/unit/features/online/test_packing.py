from __future__ import annotations

import math
import struct

import msgspec
import pytest

from features.definitions import HISTORY, RECENT_ACTIVITY, VIEWS, Feature, FeatureView
from features.online.packing import Fit, Packer

NOON = 17_000.5 * 86_400
VALUES = tuple(float(n) for n in range(len(RECENT_ACTIVITY.features)))


def packed(view: FeatureView = RECENT_ACTIVITY, *, until: float = math.inf) -> bytes:
    return Packer(view).pack(VALUES, as_of=NOON, newest=NOON - 10, until=until)


def test_a_vector_is_what_the_table_says() -> None:
    data = packed()
    assert struct.unpack_from("<BBHI8sqddd", data) == (
        2,
        0,
        14,
        0,
        RECENT_ACTIVITY.schema_hash,
        17_000 * 24 + 12,
        NOON - 10,
        math.inf,
        NOON,
    )
    assert struct.unpack_from("<14d", data, 48) == VALUES
    assert len(data) == 48 + 8 * 14


def test_what_was_packed_comes_out() -> None:
    read = Packer(RECENT_ACTIVITY).read(packed())
    assert (read.newest_event_time, read.until, read.computed_as_of) == (NOON - 10, math.inf, NOON)
    assert read.values == VALUES


@pytest.mark.parametrize(
    ("as_of", "fit"),
    [
        (NOON, Fit.FITS),
        (NOON - 9, Fit.FITS),
        (NOON - 10, Fit.MOMENT),  # the newest event counts after its time only
        (NOON + 1, Fit.MOMENT),  # the next hour
        (NOON - 3_600, Fit.MOMENT),
    ],
)
def test_a_vector_answers_for_its_step_after_its_newest_event(as_of: float, fit: Fit) -> None:
    assert Packer(RECENT_ACTIVITY).fit(packed(), as_of) is fit


def test_a_vector_answers_until_the_next_event_counts() -> None:
    data = packed(until=NOON - 5)
    assert Packer(RECENT_ACTIVITY).fit(data, NOON - 5) is Fit.FITS
    assert Packer(RECENT_ACTIVITY).fit(data, NOON - 4) is Fit.MOMENT


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"step_s": 7_200.0},
        {"features": RECENT_ACTIVITY.features[:-1]},
        {"features": RECENT_ACTIVITY.features[::-1]},
        {
            "features": (
                *RECENT_ACTIVITY.features[:-1],
                msgspec.structs.replace(RECENT_ACTIVITY.features[-1], window_days=8),
            )
        },
    ],
)
def test_a_vector_of_other_definitions_is_not_used(change: dict[str, object]) -> None:
    changed = msgspec.structs.replace(RECENT_ACTIVITY, **change)
    assert Packer(changed).fit(packed(), NOON) is Fit.SCHEMA


def test_words_for_people_do_not_change_the_schema() -> None:
    def reworded(feature: Feature) -> Feature:
        return msgspec.structs.replace(feature, description="said otherwise")

    changed = msgspec.structs.replace(
        RECENT_ACTIVITY,
        owner="somebody",
        ttl_s=1.0,
        features=tuple(map(reworded, RECENT_ACTIVITY.features)),
    )
    assert changed.schema_hash == RECENT_ACTIVITY.schema_hash
    assert RECENT_ACTIVITY.schema_hash != HISTORY.schema_hash


@pytest.mark.parametrize("data", [b"", b"\x01", packed()[:-1], b"\x01" + packed()[1:]])
def test_other_bytes_are_no_vector(data: bytes) -> None:
    assert Packer(RECENT_ACTIVITY).fit(data, NOON) is Fit.SCHEMA
    if len(data) != len(packed()):
        with pytest.raises(ValueError, match="no vector of recent_activity"):
            Packer(RECENT_ACTIVITY).read(data)


def test_every_view_has_a_hash_of_its_own() -> None:
    assert len({view.schema_hash for view in VIEWS}) == len(VIEWS)
