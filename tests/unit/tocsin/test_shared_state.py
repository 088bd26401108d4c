"""Objects that coroutines share: nothing that was read before an await undoes what happened during it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import asyncio as aioredis

from features.online.as_of import AsOf
from models.rollout.shadow import Shadow, Trial
from routing.emergency.calls import KnownContacts
from routing.emergency.known_contacts import KnownContactsStore
from serve_deployments.serving import lane_set
from serve_deployments.serving.lane_set import LaneSet
from serve_deployments.serving.loaded_models import LoadedModels
from tests.fakes import START, ManualClock
from tests.interleaving import Pauses, pauses, together
from tocsin.caching import Cache, Cacheable
from tocsin.errors import StorageUnavailableError
from tocsin.keys import EmergencyKeys, LaneKeys
from tocsin.storage.connect import ServerFacts
from tocsin.streams import leases as leases_module
from tocsin.streams.leases import LeasePolicy, Leases
from tocsin.wire.lanes import Durability


class Version(msgspec.Struct, Cacheable, frozen=True):
    number: int


# --------------------------------------------------------------------------- the cache


@given(st.lists(st.sampled_from(["read", "change", "replace"]), max_size=12), pauses)
async def test_a_cache_never_goes_back_behind_what_was_dropped_or_put(
    steps: list[str], give_way: Pauses
) -> None:
    cache: Cache[Version] = Cache(ttl_s=10, max_entries=4, clock=ManualClock())
    stored = 0

    async def load() -> Version:
        await give_way()
        found = Version(stored)
        await give_way()
        return found

    async def step(what: str) -> None:
        nonlocal stored
        await give_way()
        if what == "read":
            before = stored
            assert (await cache.get("k", load)).number >= before
            return
        stored += 1
        if what == "change":
            cache.drop("k")
        else:
            cache.put("k", Version(stored))

    await together(step(what) for what in steps)
    assert (await cache.get("k", load)).number == stored


async def test_a_value_dropped_while_it_is_loaded_is_loaded_again() -> None:
    cache: Cache[Version] = Cache(ttl_s=10, max_entries=4, clock=ManualClock())
    gates = [asyncio.Event(), asyncio.Event()]
    stored = iter((1, 2))

    async def load() -> Version:
        number = next(stored)
        await gates[number - 1].wait()
        return Version(number)

    early = asyncio.create_task(cache.get("k", load))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    cache.drop("k")
    late = asyncio.create_task(cache.get("k", load))
    await asyncio.sleep(0)
    for gate in reversed(gates):
        gate.set()
    assert (await early, await late) == (Version(1), Version(2))
    assert cache.peek("k") == Version(2)


def test_what_was_read_before_a_change_is_not_put_over_it() -> None:
    cache: Cache[Version] = Cache(ttl_s=10, max_entries=4, clock=ManualClock())
    seen = cache.changes
    cache.put("k", Version(2))
    cache.put("k", Version(1), seen=seen)
    assert cache.peek("k") == Version(2)
    seen = cache.changes
    cache.drop("k")
    cache.put("k", Version(1), seen=seen)
    assert cache.peek("k") is None
    cache.put("k", Version(3), seen=cache.changes)
    assert cache.peek("k") == Version(3)


# --------------------------------------------------------------------------- contacts of emergency calls


class Contacts:
    """A server for one caller's contacts that can be switched off."""

    def __init__(self, give_way: Pauses) -> None:
        self._give_way = give_way
        self._stored: bytes | None = None
        self.away = False

    async def get(self, _key: str) -> bytes | None:
        await self._give_way()
        if self.away:
            raise OSError("away")
        found = self._stored
        await self._give_way()
        return found

    async def set(self, _key: str, body: bytes, **_options: Any) -> None:
        await self._give_way()
        self._stored = body


@given(st.lists(st.booleans(), max_size=8), pauses)
async def test_the_last_contacts_that_were_validated_are_those_at_hand_while_storage_is_down(
    reads: list[bool], give_way: Pauses
) -> None:
    server = Contacts(give_way)
    store = KnownContactsStore(
        cast("aioredis.Redis", server), EmergencyKeys("t"), ManualClock(), deadline_s=60.0
    )
    last = 0

    async def put_all() -> None:
        nonlocal last
        for number in range(1, 4):
            await store.put("c", KnownContacts((str(number),), START + number))
            last = number

    await together([put_all(), *(store.get("c") for _ in reads)])
    server.away = True
    found = await store.get("c")
    assert found is not None
    assert found.contacts == (str(last),)


# --------------------------------------------------------------------------- leases


class LeaseServer:
    """The scripts of `tocsin.streams.lease_scripts`, in memory; each step gives way before and after."""

    def __init__(self, give_way: Pauses, members: list[str]) -> None:
        self._give_way = give_way
        self.members = members
        self.owners: dict[str, str] = {}

    async def report_alive(self, _client: Any, **_named: Any) -> list[str]:
        await self._give_way()
        found = list(self.members)
        await self._give_way()
        return found

    async def acquire(
        self, _client: Any, *, leases: Sequence[str], name: str, ttl_ms: int, **_named: Any
    ) -> list[bool]:
        await self._give_way()
        assert ttl_ms > 0
        found = [self.owners.setdefault(lease, name) == name for lease in leases]
        await self._give_way()
        return found

    async def release(self, _client: Any, *, leases: Sequence[str], name: str, **_named: Any) -> None:
        await self._give_way()
        for lease in leases:
            if self.owners.get(lease) == name:
                del self.owners[lease]
        await self._give_way()


@given(st.lists(st.sampled_from(["beat a", "beat b", "give up a", "give up b"]), max_size=14), pauses)
async def test_a_partition_given_up_while_leases_are_renewed_is_not_thought_to_be_held(
    steps: list[str], give_way: Pauses
) -> None:
    server = LeaseServer(give_way, ["a"])
    clock = ManualClock()
    members = {
        name: Leases(
            cast("aioredis.Redis", None),
            keys=LaneKeys("t", "p1"),
            name=name,
            partitions=4,
            policy=LeasePolicy(),
            clock=clock,
        )
        for name in "ab"
    }
    with pytest.MonkeyPatch.context() as patch:
        for script in ("report_alive", "acquire", "release"):
            patch.setattr(leases_module, script, getattr(server, script))
        await members["a"].beat()
        server.members.append("b")  # now a has more than its share

        async def step(what: str) -> None:
            member = members[what[-1]]
            if what.startswith("beat"):
                await member.beat()
            else:
                await member.release(member.held()[:2])
            held = {name: set(one.held()) for name, one in members.items()}
            assert not held["a"] & held["b"]

        await together(step(what) for what in steps)
    for name, member in members.items():
        keys = LaneKeys("t", "p1")
        assert all(server.owners.get(keys.lease(partition)) == name for partition in member.held())


# --------------------------------------------------------------------------- what replicas remember


@given(st.integers(1, 8), pauses)
async def test_latest_never_goes_back(readers: int, give_way: Pauses) -> None:
    clock, newest = ManualClock(), 0.0

    async def latest() -> float:
        nonlocal newest
        newest += 86_400.0
        found = newest
        await give_way()
        await give_way()
        return found

    as_of = AsOf("latest", latest, clock)
    known = 0.0

    async def read() -> None:
        nonlocal known
        await give_way()
        before = known
        found = await as_of.now()
        assert found >= before
        known = max(known, found)

    await together(read() for _ in range(readers))


@given(st.integers(2, 8), pauses)
async def test_the_newest_facts_of_a_server_are_kept(callers: int, give_way: Pauses) -> None:
    asked = 0

    async def inspect(_client: Any) -> ServerFacts:
        nonlocal asked
        asked += 1
        found = ServerFacts(flavour="valkey", version=str(asked), durability=Durability.MEMORY)
        clock.advance(1.0)
        await give_way()
        return found

    clock = ManualClock()
    lanes = LaneSet.__new__(LaneSet)
    lanes._facts = {}
    client = cast("aioredis.Redis", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lane_set, "inspect", inspect)
        patch.setattr(time, "monotonic", clock.monotonic)
        await together(lanes._ask(client) for _ in range(callers))
    assert lanes._facts[client][1].version == str(asked)


async def test_all_who_wait_for_a_first_model_share_one_look() -> None:
    looks = 0

    class Slow:
        def head(self) -> Any:
            nonlocal looks
            looks += 1
            raise StorageUnavailableError("away")

    models = LoadedModels(cast("Any", Slow()), ManualClock())
    await together(models.current() for _ in range(20))
    assert looks == 1


# --------------------------------------------------------------------------- a trial that ends meanwhile


class Observed:
    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.waiting = asyncio.Event()
        self.got: list[tuple[str, int]] = []

    async def put(self, trial: str, _epoch: int, _replica: str, counts: dict[str, int]) -> None:
        self.got.append((trial, len(counts)))
        self.waiting.set()
        await self.go_on.wait()

    async def wait_for(self, *_: Any) -> None:
        return None


async def test_what_was_sent_of_one_trial_is_not_taken_for_sent_of_the_next() -> None:
    observed, clock = Observed(), ManualClock()
    shadow = Shadow(cast("Any", observed), cast("Any", None), sample=1.0, clock=clock)
    first, second = (
        Trial(name, START, cast("Any", None), cast("Any", None), 86_400.0) for name in ("one", "two")
    )
    shadow.watch(first)
    shadow._turn(first)
    shadow.observations.drop(3)
    sending = asyncio.create_task(shadow.send())
    await observed.waiting.wait()
    shadow.watch(second)
    shadow._turn(second)
    shadow.observations.drop(3)  # the same counts, of another trial
    observed.go_on.set()
    await sending
    await shadow.send()
    assert [trial for trial, _ in observed.got] == ["one", "two"]
