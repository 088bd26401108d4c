"""The contract of `routing.recipients`: in memory, and on a real server."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from redis import asyncio as aioredis

from routing.recipients.store import Profiles, RecipientStore
from routing.recipients.windows import WINDOW_S, RedisWindows, WindowRequest, Windows
from tests.fakes import START
from tests.recipient_fakes import MemoryProfiles, MemoryWindows, recipient
from tocsin.errors import StorageUnavailableError
from tocsin.storage.connect import connect
from tocsin.wire.recipients import ChannelChoice, QuietSpan, RecipientRequest

FULL = RecipientRequest(
    channels=ChannelChoice(p0=("webhook", "log"), p2=("log",)),
    muted_types=("weather",),
    muted_sources=("garden",),
    quiet_hours=QuietSpan(start="22:00", end="07:00", timezone="Europe/Berlin"),
    max_per_hour=7,
    webhook_url="https://a.example/é?x=1",
    fallback_contacts=("neighbour", "caretaker"),
    targets={"sms": "+49 1", "email": "a@b.example"},
)


@dataclass
class Desk:
    profiles: Profiles
    windows: Windows


@pytest.fixture(params=["memory", "server"])
def desk(request: pytest.FixtureRequest) -> Desk:
    if request.param == "memory":
        return Desk(MemoryProfiles(), MemoryWindows())
    client: aioredis.Redis = request.getfixturevalue("client")
    namespace: str = request.getfixturevalue("namespace")
    return Desk(RecipientStore(client, namespace=namespace), RedisWindows(client, namespace=namespace))


# --------------------------------------------------------------------------- profiles


async def test_what_was_put_comes_back_whole_in_the_order_asked_for(desk: Desk) -> None:
    full, bare = recipient("a/ü {x}: 1", FULL), recipient("b")
    await desk.profiles.put(full)
    await desk.profiles.put(bare)
    found = await desk.profiles.get_many(["b", "nobody", "a/ü {x}: 1", "b"])
    assert found == [bare, None, full, bare]
    assert await desk.profiles.get_many([]) == []


async def test_a_change_elsewhere_holds_from_the_next_look_on(client: aioredis.Redis, namespace: str) -> None:
    here = RecipientStore(client, namespace=namespace)
    elsewhere = RecipientStore(client, namespace=namespace)
    assert await here.get_many(["a", "b"]) == [None, None]
    await elsewhere.put(recipient("a", FULL))
    assert await here.get_many(["a", "b"]) == [recipient("a", FULL), None]
    assert await here.get_many(["b", "c", "a"]) == [None, None, recipient("a", FULL)]
    await elsewhere.put(recipient("a"))
    assert await here.get_many(["a"]) == [recipient("a")]
    await elsewhere.delete("a")
    assert await here.get_many(["a", "b"]) == [None, None]


async def test_a_put_replaces_what_was_before(desk: Desk) -> None:
    await desk.profiles.put(recipient("a", FULL))
    await desk.profiles.put(recipient("a"))
    assert await desk.profiles.get_many(["a"]) == [recipient("a")]
    assert (await desk.profiles.page(after="", limit=10))[0] == 1


async def test_what_was_deleted_is_gone_and_a_second_time_does_no_harm(desk: Desk) -> None:
    await desk.profiles.put(recipient("a"))
    assert [await desk.profiles.delete("a"), await desk.profiles.delete("a")] == [True, False]
    assert await desk.profiles.get_many(["a"]) == [None]
    assert await desk.profiles.page(after="", limit=10) == (0, [], "")


async def test_pages_are_in_the_order_of_ids_and_go_on_where_the_last_ended(desk: Desk) -> None:
    ids = ["(x", "10", "2", "Z", "a", "ab", "é"]
    for one in reversed(ids):
        await desk.profiles.put(recipient(one))
    seen: list[str] = []
    after, pages = "", 0
    while pages == 0 or after:
        total, found, after = await desk.profiles.page(after=after, limit=3)
        assert total == len(ids)
        seen += [one.id for one in found]
        pages += 1
    assert (seen, pages) == (ids, 3)
    assert await desk.profiles.page(after="é", limit=3) == (7, [], "")


async def test_a_page_that_ends_with_the_last_says_so(desk: Desk) -> None:
    for one in "abcd":
        await desk.profiles.put(recipient(one))
    assert (await desk.profiles.page(after="b", limit=2))[2] == ""
    assert (await desk.profiles.page(after="a", limit=2))[2] == "c"


# --------------------------------------------------------------------------- windows


async def test_there_is_room_for_so_many_and_one_already_in_takes_none(desk: Desk) -> None:
    wish = WindowRequest("a", 2, ["1", "2", "3"])
    for _ in range(2):
        assert await desk.windows.admit("p2", [wish], START) == {"1", "2"}
    assert await desk.windows.admit("p2", [WindowRequest("a", 2, ["3", "2"])], START) == {"2"}


async def test_each_recipient_and_each_lane_has_a_window_of_its_own(desk: Desk) -> None:
    requests = [
        WindowRequest("a", 1, ["1", "2"]),
        WindowRequest("b", 2, ["3", "4"]),
        WindowRequest("c", 1, ["5"]),
    ]
    assert await desk.windows.admit("p2", requests, START) == {"1", "3", "4", "5"}
    assert await desk.windows.admit("p1", requests, START) == {"1", "3", "4", "5"}


async def test_what_is_an_hour_old_makes_room(desk: Desk) -> None:
    assert await desk.windows.admit("p2", [WindowRequest("a", 2, ["1"])], START) == {"1"}
    assert await desk.windows.admit("p2", [WindowRequest("a", 2, ["2", "3"])], START + 10.5) == {"2"}
    assert await desk.windows.admit("p2", [WindowRequest("a", 2, ["3"])], START + WINDOW_S - 0.001) == set()
    assert await desk.windows.admit("p2", [WindowRequest("a", 2, ["3", "4"])], START + WINDOW_S) == {"3"}
    assert await desk.windows.admit("p2", [WindowRequest("a", 2, ["4"])], START + WINDOW_S + 10.5) == {"4"}


async def test_a_lower_limit_holds_at_once(desk: Desk) -> None:
    assert await desk.windows.admit("p2", [WindowRequest("a", 3, ["1", "2"])], START) == {"1", "2"}
    assert await desk.windows.admit("p2", [WindowRequest("a", 1, ["3", "1"])], START + 1) == {"1"}


# --------------------------------------------------------------------------- on a server only


async def test_a_window_ends_by_itself(client: aioredis.Redis, namespace: str) -> None:
    windows = RedisWindows(client, namespace=namespace)
    await windows.admit("p1", [WindowRequest("a", 1, ["1"])], START)
    assert 0 < await client.ttl(windows.keys.window("p1", "a")) <= WINDOW_S


async def test_a_large_batch_is_one_call(client: aioredis.Redis, namespace: str) -> None:
    windows = RedisWindows(client, namespace=namespace)
    requests = [WindowRequest(f"r{number}", 1, [f"{number}", f"{number}+"]) for number in range(2000)]
    assert await windows.admit("p2", requests, START) == {f"{number}" for number in range(2000)}


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x80", b"not a recipient"])
async def test_what_cannot_be_read_is_as_not_there_and_counted(
    client: aioredis.Redis, namespace: str, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = RecipientStore(client, namespace=namespace)
    await store.put(recipient("a"))
    await client.set(store.keys.profile("a"), body)
    assert await store.get_many(["a"]) == [None]
    assert store.unreadable == (1 if body else 0)
    assert (await store.page(after="", limit=1))[1] == []
    assert "cannot be read" in caplog.text or not body


async def test_a_server_that_is_away_is_an_error_to_retry() -> None:
    gone = connect("redis://127.0.0.1:1", timeout_s=0.5)
    store, windows = RecipientStore(gone, namespace="t"), RedisWindows(gone, namespace="t")
    for work in (
        store.get_many(["a"]),
        store.put(recipient()),
        store.delete("a"),
        store.page(after="", limit=1),
        windows.admit("p2", [WindowRequest("a", 1, ["1"])], START),
    ):
        with pytest.raises(StorageUnavailableError):
            await work
    await gone.aclose()
