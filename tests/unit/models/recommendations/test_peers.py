from __future__ import annotations

from statistics import median

import pytest

from models.dataset.matrix import Vector
from models.recommendations.peers import PeerPolicy, PeerTable, change_28d, previous_28d


def _vector(size: float | None, recent: float, previous: float) -> dict[str, float | None]:
    return {"weekly_spend_mean": size, "spend_28d": recent, "spend_56d": recent + previous}


def _small_and_large() -> dict[str, Vector]:
    small = {f"s{at}": _vector(10.0 + at, 100.0 + at, 100.0) for at in range(40)}  # up 0 to 39%
    large = {f"l{at}": _vector(1000.0 + at, 50.0 + at, 100.0) for at in range(40)}  # down 50 to 11%
    return {**small, **large}


def test_changes_are_told_where_there_is_a_past() -> None:
    assert change_28d(_vector(1.0, 50.0, 100.0)) == -0.5
    assert change_28d(_vector(1.0, 50.0, 0.0)) is None
    assert change_28d({}) is None
    assert previous_28d(_vector(1.0, 50.0, 30.0)) == 30.0


def test_peers_are_of_the_same_size() -> None:
    table = PeerTable.build(_small_and_large(), PeerPolicy(bands=2))
    small, large = (
        table.compare("new", _vector(15.0, 100.0, 100.0)),
        table.compare("new", _vector(2000.0, 100.0, 100.0)),
    )
    assert small is not None
    assert large is not None
    assert (small.peers, large.peers) == (40, 40)
    assert small.median_change == pytest.approx(0.195)
    assert large.median_change == pytest.approx(-0.305)
    assert small.percentile == 0.0
    assert large.percentile == 1.0


@pytest.mark.parametrize("own", range(0, 40, 3))
def test_nobody_is_its_own_peer(own: int) -> None:
    vectors = _small_and_large()
    found = PeerTable.build(vectors, PeerPolicy(bands=2)).compare(f"s{own}", vectors[f"s{own}"])
    assert found is not None
    others = [at / 100 for at in range(40) if at != own]
    assert found.peers == 39
    assert found.median_change == pytest.approx(median(others))
    assert found.percentile == pytest.approx(own / 39)


def test_bands_merge_rather_than_run_dry() -> None:
    vectors = {f"a{at}": _vector(float(at), 1.0, 1.0) for at in range(30)}
    found = PeerTable.build(vectors).compare("a0", vectors["a0"])
    assert found is not None
    assert found.peers == 29


def test_too_few_peers_say_nothing() -> None:
    vectors = {f"a{at}": _vector(float(at), 1.0, 1.0) for at in range(20)}
    assert PeerTable.build(vectors).compare("a0", vectors["a0"]) is None
    assert PeerTable.build({}).compare("a0", vectors["a0"]) is None
    assert len(PeerTable.build(vectors)) == 20


def test_without_a_size_or_a_change() -> None:
    table = PeerTable.build(_small_and_large())
    assert table.compare("new", _vector(None, 1.0, 1.0)) is None
    found = table.compare("new", _vector(15.0, 1.0, 0.0))
    assert found is not None
    assert found.percentile is None


def test_one_who_outgrew_its_band_is_compared_whole() -> None:
    table = PeerTable.build(_small_and_large(), PeerPolicy(bands=2))
    found = table.compare("s0", _vector(5000.0, 100.0, 100.0))
    assert found is not None
    assert found.peers == 40
