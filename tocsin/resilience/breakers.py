"""The shared breakers of one process by name, what a delivery stage asks of them, and what all of a pool look like.

A provider's breaker is named `lane:provider` and has the policy of its lane: a target that P2 overwhelms is left alone
by P2 first, and P0 goes on trying. Targets that senders name have breakers by host, of this process alone and no more
than `MAX_HOSTS`: what a caller can make up must not fill anything.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol
from uuid import uuid4

from redis import asyncio as aioredis

from tocsin.clock import Clock
from tocsin.errors import ConfigurationError
from tocsin.keys import BreakerKeys
from tocsin.resilience.breaker import POLICIES, BreakerPolicy
from tocsin.resilience.shared_breaker import SYNC_EVERY_S, BreakerState, BreakerView, SharedBreaker, make_view
from tocsin.storage.errors import translated

MAX_HOSTS = 512


class BreakerGuard(Protocol):
    """What stands before the providers: whether to call one now, and how a call went. Neither waits for anything."""

    def admit(self, provider: str, host: str = "") -> float | None:
        """None is go; else the seconds until it is worth trying again.

        `host` is that of a target which the sender named; it has a breaker of its own then.
        """
        ...

    def record(self, provider: str, *, ok: bool, duration_s: float, reason: str, host: str = "") -> None:
        """How a call that was admitted ended; a refusal by the target is ok: it answered."""
        ...


class Breakers:
    """The breakers of this process, made when first asked for.

    Names come from a closed set (dependencies, lanes and channels), never from a caller's data.

    Args:
        client: Where their state is shared; None: this process is alone.
        namespace: The prefix of their keys.
        clock: Time.
        holder: Who this process is, unique in the pool; by default made up.
        policies: By dependency name.
    """

    def __init__(
        self,
        client: aioredis.Redis | None,
        namespace: str,
        clock: Clock,
        *,
        holder: str = "",
        policies: Mapping[str, BreakerPolicy] = POLICIES,
    ) -> None:
        self._client = client
        self._keys = BreakerKeys(namespace)
        self._clock = clock
        self._holder = holder or f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._policies = policies
        self._breakers: dict[str, SharedBreaker] = {}
        self._news = asyncio.Event()

    def get(self, name: str, policy: str = "") -> SharedBreaker:
        """The breaker of a dependency.

        Args:
            name: Of the dependency.
            policy: Whose thresholds it has; by default those under its own name.

        Raises:
            ConfigurationError: there is no such policy.
        """
        found = self._breakers.get(name)
        if found is None:
            found = self._breakers[name] = self.make(name, policy or name)
        return found

    def make(self, name: str, policy: str) -> SharedBreaker:
        """A breaker that is not kept here, and so not shared.

        Raises:
            ConfigurationError: there is no such policy.
        """
        thresholds = self._policies.get(policy)
        if thresholds is None:
            raise ConfigurationError(f"no breaker policy is called {policy!r}")
        return SharedBreaker(
            thresholds,
            name,
            self._client,
            self._keys,
            self._clock,
            holder=self._holder,
            changed=self._news.set,
        )

    def views(self) -> list[BreakerView]:
        """What this process knows of its breakers, by name."""
        now = self._clock.now()
        return [breaker.view(now) for _, breaker in sorted(self._breakers.items())]

    async def sync(self) -> None:
        """Share all of them once."""
        self._news.clear()
        await asyncio.gather(*(breaker.sync() for breaker in list(self._breakers.values())))

    async def run(self, every_s: float = SYNC_EVERY_S) -> None:
        """Share them every `every_s`, and at once when one changed, until cancelled."""
        while True:
            await self.sync()
            try:
                async with asyncio.timeout(every_s):
                    await self._news.wait()
            except TimeoutError:
                continue


class ChannelGuard:
    """`BreakerGuard` over the shared breakers, for the providers of one lane.

    Args:
        breakers: Those of this process; somebody runs `Breakers.run`.
        lane: `p0`, `p1` or `p2`.
        clock: Time.
    """

    def __init__(self, breakers: Breakers, lane: str, clock: Clock) -> None:
        self._breakers = breakers
        self._lane = lane
        self._clock = clock
        self._alone = Breakers(None, "", clock, holder="alone")
        self._by_host: OrderedDict[tuple[str, str], SharedBreaker] = OrderedDict()

    def admit(self, provider: str, host: str = "") -> float | None:
        """None is go; else the seconds until it is worth trying again."""
        return self._of(provider, host).admit(self._clock.now())

    def record(self, provider: str, *, ok: bool, duration_s: float, reason: str, host: str = "") -> None:
        """How a call that was admitted ended."""
        self._of(provider, host).record(ok, duration_s, reason)

    def _of(self, provider: str, host: str) -> SharedBreaker:
        policy = f"{self._lane}_channels"
        if not host:
            return self._breakers.get(f"{self._lane}:{provider}", policy)
        known = self._by_host
        found = known.pop((provider, host), None)
        if found is None:
            found = self._alone.make(f"{self._lane}:{provider}", policy)
            if len(known) >= MAX_HOSTS:
                closed = (key for key, one in known.items() if one.state is BreakerState.CLOSED)
                known.pop(next(closed, next(iter(known))))
        known[provider, host] = found  # the last used is last
        return found


class OpenDoor:
    """A `BreakerGuard` that lets everything through."""

    def admit(self, provider: str, host: str = "") -> float | None:  # noqa: ARG002 (the port's)
        """Always go."""
        return None

    def record(self, provider: str, *, ok: bool, duration_s: float, reason: str, host: str = "") -> None:
        """Nothing to learn."""


async def read_breakers(client: aioredis.Redis, namespace: str, now: float) -> list[BreakerView]:
    """Every shared breaker of a namespace as the pool knows it, by name.

    Args:
        client: Where they are shared.
        namespace: The prefix of their keys.
        now: Seconds since the epoch.

    Raises:
        StorageUnavailableError: the server does not answer.
    """
    keys = BreakerKeys(namespace)
    with translated():
        found: Any = await client.zrange(keys.names, 0, -1)
        names = sorted(name.decode() for name in found)
        async with client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(keys.state(name))
                pipe.exists(keys.probe(name))
            answers: list[Any] = await pipe.execute()
    pairs = zip(names, answers[::2], answers[1::2], strict=True)
    return [_stored_view(name, state, bool(probed), now) for name, state, probed in pairs if state]


def _stored_view(name: str, stored: Mapping[bytes, bytes], probed: bool, now: float) -> BreakerView:
    opened_at = float(stored.get(b"opened_at", b"0"))
    state = BreakerState(stored.get(b"state", b"closed").decode())
    if state is BreakerState.OPEN and probed:
        state = BreakerState.HALF_OPEN
    opened, closed, probes = (int(stored.get(field, b"0")) for field in (b"opened", b"closed", b"probes"))
    return make_view(
        name,
        state,
        failures=int(stored.get(b"failures", b"0")),
        opened_at=opened_at,
        reason=stored.get(b"reason", b"").decode(),
        retry_in_s=opened_at + float(stored.get(b"reset_s", b"0")) - now,
        totals=(opened, closed, probes),
        opened_for=stored.get(b"opened_for", b"").decode(),
    )
