"""Who is hung, with a clock moved by hand."""

from __future__ import annotations

from actors.watchdog import LOOK_S, MAX_GAP_S, HungPolicy, Sighting, Watchdog, is_hung

POLICY = HungPolicy(stopped_s=1.5, hung_s=5.0)


class Watched:
    """A watchdog that looks on time at members whose heartbeats a test sets."""

    def __init__(self, *names: str) -> None:
        self.dog = Watchdog()
        self.now = 100.0
        self.members = {name: Sighting(f"process of {name}", 1.0) for name in names}

    def beat(self, name: str) -> None:
        self.members[name] = Sighting(self.members[name].token, self.now)

    def look(self, for_s: float = 0.0, *, beating: str = "") -> dict[str, float]:
        ends = self.now + for_s
        silent = self.dog.look(self.members, self.now)
        while self.now < ends:
            self.now += LOOK_S
            if beating:
                self.beat(beating)
            silent = self.dog.look(self.members, self.now)
        return silent


def test_one_that_is_silent_stands_out_and_one_that_beats_does_not() -> None:
    watched = Watched("a", "b")
    silent = watched.look(2.0, beating="b")
    assert silent["a"] >= 2.0
    assert silent["b"] == 0.0


def test_a_heartbeat_that_lapsed_is_no_sign_of_life() -> None:
    watched = Watched("a")
    watched.look(1.0)
    watched.members["a"] = Sighting("process of a", None)
    assert watched.look(1.0)["a"] >= 2.0


def test_a_pause_of_the_watcher_or_of_storage_counts_against_nobody() -> None:
    watched = Watched("a")
    watched.look(4.0)
    watched.now += MAX_GAP_S + 30.0
    assert watched.look()["a"] == 0.0


def test_one_that_was_replaced_is_watched_again_under_its_new_process() -> None:
    watched = Watched("a")
    watched.look(6.0)
    watched.dog.replaced("a", "process of a")
    assert watched.look(10.0) == {}
    watched.members["a"] = Sighting("the next process", watched.now)
    assert watched.look() == {"a": 0.0}
    assert watched.look(3.0)["a"] >= 3.0


def test_a_stopped_process_is_replaced_sooner_than_a_slow_one() -> None:
    assert is_hung(1.6, POLICY, stopped=True)
    assert not is_hung(1.6, POLICY, stopped=False)
    assert is_hung(5.0, POLICY, stopped=False)
