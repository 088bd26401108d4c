"""Which heartbeats count."""

from __future__ import annotations

from tocsin.streams.heartbeats import LAPSE_S, Heartbeats
from tocsin.wire.lanes import LaneName


def test_a_consumer_counts_until_its_heartbeat_lapses() -> None:
    beats = Heartbeats(100.0, {"b": 99.9, "a": 97.0, "gone": 96.9})
    assert beats.consumers(3.0) == ["a", "b"]


def test_every_lane_shows_red_within_five_seconds() -> None:
    assert all(LAPSE_S[lane] < 5.0 for lane in LaneName)
    assert LAPSE_S[LaneName.P0] <= 3.0
