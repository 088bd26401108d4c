"""What may be kept and served again, for how long, and what may never be.

    absent ──load──► fresh ──ttl_s──► absent        (or pushed out, oldest use first, when the cache is full)
       └──dropped or put meanwhile: those who wait get what was loaded, and it is not kept

A value that may be kept says so with `Cacheable`; one that is only true at the moment it is read says `NeverCached`.
A cache of the latter does not pass the type checker, and refuses such a value when it gets one all the same.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from tocsin.clock import Clock


class Cacheable:
    """Marks a value that is as good a little later."""

    __slots__ = ()


class NeverCached:
    """Marks a value that is only true now: somebody's safety may hang on it."""

    __slots__ = ()


T = TypeVar("T", bound=Cacheable)


class Cache(Generic[T]):
    """Values by key: bounded in number and age, and loaded once however many ask at the same time.

    Args:
        ttl_s: How long a value is served.
        max_entries: How many are kept; the one not used for longest goes first.
        clock: Time.
        keep_stale: Keep a value that is no longer fresh until it is pushed out, for `last`.
    """

    def __init__(self, *, ttl_s: float, max_entries: int, clock: Clock, keep_stale: bool = False) -> None:
        if ttl_s <= 0 or max_entries < 1:
            raise ValueError("a cache needs a positive ttl_s and room for one entry")
        self._ttl_s = ttl_s
        self._max_entries = max_entries
        self._clock = clock
        self._keep_stale = keep_stale
        self.changes = 0  # values put and dropped: what is read elsewhere may be older than one of them
        self._dropped_at = 0  # the last of them that dropped one
        self._kept: OrderedDict[str, tuple[float, T, int]] = OrderedDict()
        self._loading: dict[str, asyncio.Future[T]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: str, value: T, *, age_s: float = 0.0, seen: int | None = None) -> None:
        """Keep a value that was made `age_s` seconds ago.

        `seen` is `changes` as it was before the value began to be read elsewhere: it is not kept where its key was put
        or anything was dropped since, for then it may be the older one.

        Raises:
            TypeError: the value must never be cached.
        """
        if isinstance(value, NeverCached):
            raise TypeError(f"{type(value).__name__} is true only when it is read: it is never cached")
        kept = self._kept.get(key)
        if seen is not None and (self._dropped_at > seen or (kept is not None and kept[2] > seen)):
            return
        self.changes += 1
        self._loading.pop(key, None)  # who asks from now on must not get what is older
        self._kept[key] = (self._clock.monotonic() + self._ttl_s - age_s, value, self.changes)
        self._kept.move_to_end(key)
        while len(self._kept) > self._max_entries:
            self._kept.popitem(last=False)

    def peek(self, key: str) -> T | None:
        """The value if it is here and fresh."""
        found = self._kept.get(key)
        if found is None:
            return None
        until, value, _ = found
        if self._clock.monotonic() >= until:
            if not self._keep_stale:
                del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return value

    def last(self, key: str) -> T | None:
        """The value kept last, fresh or not: for when there is nothing better, and marked as old."""
        found = self._kept.get(key)
        return None if found is None else found[1]

    def drop(self, key: str) -> None:
        """Forget a value."""
        self.changes += 1
        self._dropped_at = self.changes
        self._loading.pop(key, None)
        self._kept.pop(key, None)

    async def get(self, key: str, load: Callable[[], Awaitable[T]]) -> T:
        """The fresh value, or what `load()` brings; those who ask meanwhile wait for the same load.

        Raises:
            TypeError: what was loaded must never be cached.
            Exception: whatever `load` raises, to all who wait for it; nothing is kept.
        """
        found = self.peek(key)
        if found is not None:
            return found
        loading = self._loading.get(key)
        if loading is None:
            loading = self._loading[key] = asyncio.ensure_future(self._load(key, load, self.changes))
            loading.add_done_callback(lambda done: self._loaded(key, done))
        return await asyncio.shield(loading)  # one who goes away does not take the others' answer along

    async def _load(self, key: str, load: Callable[[], Awaitable[T]], seen: int) -> T:
        value = await load()
        self.put(key, value, seen=seen)
        return value

    def _loaded(self, key: str, done: asyncio.Future[T]) -> None:
        if self._loading.get(key) is done:
            del self._loading[key]
        if not done.cancelled():
            done.exception()  # seen, also when everybody who waited has gone
