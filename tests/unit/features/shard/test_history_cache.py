from __future__ import annotations

from features.shard.history_cache import HistoryCache
from features.tiles import History, fold
from tocsin.wire.activity import Activity


def history_of(name: str, amount: float = 1.0) -> History:
    history = fold(name, [Activity(name, 86_400.0, amount, "spend", "e")])
    assert history is not None
    return history  # a day and an hour: two tiles


def test_what_was_written_under_our_token_is_believed() -> None:
    memory = HistoryCache()
    memory.believe(0, b"before")
    memory.expect(0, b"ours", {"a": history_of("a")})
    assert memory.get(0, "a") is None
    memory.believe(0, b"ours")
    assert memory.get(0, "a") == history_of("a")


def test_what_was_not_written_is_forgotten() -> None:
    memory = HistoryCache()
    memory.believe(0, b"before")
    memory.learn(0, "a", history_of("a"))
    memory.expect(0, b"ours", {"a": history_of("a", 2.0)})
    memory.believe(0, b"before")
    assert memory.get(0, "a") == history_of("a")
    memory.believe(0, b"ours")  # too late: somebody else's, by chance or by design
    assert memory.get(0, "a") is None


def test_another_token_or_none_clears_one_partition() -> None:
    memory = HistoryCache()
    for partition in (0, 1):
        memory.believe(partition, b"t")
        memory.learn(partition, "a", history_of("a"))
    memory.believe(0, b"other")
    assert (memory.get(0, "a"), memory.get(1, "a")) == (None, history_of("a"))
    memory.believe(1, b"")  # the server lost its data
    assert len(memory) == 0
    assert memory.tiles == 0


def test_what_was_used_longest_ago_goes_first() -> None:
    memory = HistoryCache(max_tiles=6)
    memory.believe(0, b"t")
    for name in "abc":
        memory.learn(0, name, history_of(name))
    assert memory.get(0, "a") is not None
    memory.learn(0, "d", history_of("d"))
    assert memory.get(0, "b") is not None  # nothing goes while a unit is at work
    memory.learn(0, "b", history_of("b"))
    memory.trim()
    assert [name for name in "abcd" if memory.get(0, name)] == ["a", "b", "d"]
    assert memory.tiles == 6


def test_without_the_server_the_newest_is_told_sure_or_not() -> None:
    memory = HistoryCache()
    memory.believe(0, b"t")
    memory.learn(0, "a", history_of("a"))
    memory.expect(0, b"next", {"a": history_of("a", 2.0)})
    assert memory.last_known(0, "a") == history_of("a", 2.0)
    assert memory.last_known(0, "b") is None
    assert memory.last_known(1, "a") is None
