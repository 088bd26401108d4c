from __future__ import annotations

from features.shard.history_cache import HistoryCache
from features.tiles import History, fold
from tocsin.wire.activity import Activity


def history_of(name: str, amount: float = 1.0) -> History:
    history = fold(name, [Activity(name, 86_400.0, amount, "spend", "e")])
    assert history is not None
    return history  # a day and an hour: two tiles


def test_staged_histories_are_confirmed_by_their_token() -> None:
    cache = HistoryCache()
    cache.confirm(0, b"before")
    cache.stage(0, b"ours", {"a": history_of("a")})
    assert cache.get(0, "a") is None
    cache.confirm(0, b"ours")
    assert cache.get(0, "a") == history_of("a")


def test_staged_histories_are_dropped_under_another_token() -> None:
    cache = HistoryCache()
    cache.confirm(0, b"before")
    cache.add(0, "a", history_of("a"))
    cache.stage(0, b"ours", {"a": history_of("a", 2.0)})
    cache.confirm(0, b"before")
    assert cache.get(0, "a") == history_of("a")
    cache.confirm(0, b"ours")  # too late: it was dropped
    assert cache.get(0, "a") is None


def test_another_token_or_none_clears_one_partition() -> None:
    cache = HistoryCache()
    for partition in (0, 1):
        cache.confirm(partition, b"t")
        cache.add(partition, "a", history_of("a"))
    cache.confirm(0, b"other")
    assert (cache.get(0, "a"), cache.get(1, "a")) == (None, history_of("a"))
    cache.confirm(1, b"")  # the server lost its data
    assert len(cache) == 0
    assert cache.tiles == 0


def test_the_least_recently_used_is_evicted_first() -> None:
    cache = HistoryCache(max_tiles=6)
    cache.confirm(0, b"t")
    for name in "abc":
        cache.add(0, name, history_of(name))
    assert cache.get(0, "a") is not None
    cache.add(0, "d", history_of("d"))
    assert cache.get(0, "b") is not None  # nothing is evicted before `trim`
    cache.add(0, "b", history_of("b"))
    cache.trim()
    assert [name for name in "abcd" if cache.get(0, name)] == ["a", "b", "d"]
    assert cache.tiles == 6


def test_last_known_prefers_a_staged_history() -> None:
    cache = HistoryCache()
    cache.confirm(0, b"t")
    cache.add(0, "a", history_of("a"))
    cache.stage(0, b"next", {"a": history_of("a", 2.0)})
    assert cache.last_known(0, "a") == history_of("a", 2.0)
    assert cache.last_known(0, "b") is None
    assert cache.last_known(1, "a") is None
