"""Readers and writers of recipients that overlap at every await."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from redis import asyncio as aioredis

from routing.recipients import store as stores
from routing.recipients.store import RecipientStore
from tests.fakes import START
from tests.interleaving import Pauses, pauses, together
from tocsin.clock import to_datetime
from tocsin.wire.recipients import Recipient

IDS = ("ann", "bob", "cid")


def recipient(id_: str) -> Recipient:
    return Recipient(id=id_, updated_at=to_datetime(START))


class Yielding(RecipientStore):
    """Recipients in memory, whose every read gives way as often as it is told, before and after it looks."""

    def __init__(self, give_way: Pauses) -> None:
        super().__init__(cast("aioredis.Redis", None), namespace="t")
        self.version = 0
        self.stored: dict[str, Recipient] = {}
        self._give_way = give_way

    async def _fetch(self, recipient_ids: Any) -> tuple[Any, Any]:
        await self._give_way()
        found = (
            str(self.version).encode(),
            [msgspec.msgpack.encode(one) if (one := self.stored.get(id_)) else None for id_ in recipient_ids],
        )
        await self._give_way()
        return found

    async def put(self, recipient: Recipient) -> None:
        await self._give_way()
        self.version += 1
        written = to_datetime(START + self.version)
        self.stored[recipient.id] = msgspec.structs.replace(recipient, updated_at=written)


steps = st.lists(
    st.one_of(st.sampled_from(IDS), st.lists(st.sampled_from(IDS), min_size=1, max_size=3)), max_size=12
)


@given(steps, pauses)
async def test_readers_see_what_stood_when_they_asked_or_later(
    steps: list[str | list[str]], give_way: Pauses
) -> None:
    store = Yielding(give_way)

    async def read(ids: list[str]) -> None:
        before = {id_: store.stored.get(id_) for id_ in ids}
        for id_, found in zip(ids, await store.get_many(ids), strict=True):
            stood = before[id_]
            assert found is not None or stood is None
            assert found is None or found.id == id_
            assert found is None or stood is None or found.updated_at >= stood.updated_at

    await together(store.put(recipient(step)) if isinstance(step, str) else read(step) for step in steps)
    assert await store.get_many(IDS) == [store.stored.get(id_) for id_ in IDS]


async def test_what_is_remembered_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(stores, "MAX_KNOWN", 4)
    store = Yielding(Pauses([]))
    for number in range(40):
        await store.put(recipient(f"r{number}"))
    for number in range(40):
        await store.get_many([f"r{number}"])
        assert len(store._known) <= 5
