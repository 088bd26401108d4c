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
from typing import Protocol
from uuid import uuid4

from redis import asyncio as aioredis

from tocsin.background import repeat
from tocsin.clock import Clock
from tocsin.errors import ConfigurationError
from tocsin.keys import BreakerKeys
from tocsin.resilience.breaker import SYNC_EVERY_S, Breaker
from tocsin.resilience.policies import POLICIES, BreakerPolicy
from tocsin.resilience.pool_state import BreakerState, BreakerView

MAX_HOSTS = 512


class BreakerGuard(Protocol):
    """What stands before the providers: whether to call one now, and how a call went. Neither waits for anything."""

    def allows(self, provider: str, host: str = "") -> bool:
        """Whether to call it now. `host` is that of a target which the sender named; it has a breaker of its own."""
        ...

    def retry_after(self, provider: str, host: str = "") -> float:
        """Seconds until it is worth asking again, after `allows` said no."""
        ...

    def record(self, provider: str, *, ok: bool, duration_s: float, reason: str, host: str = "") -> None:
        """How a call that was allowed ended; a refusal by the target is ok: it answered."""
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
        self._breakers: dict[str, Breaker] = {}
        self._news = asyncio.Event()

    def get(self, name: str, policy: str = "") -> Breaker:
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

    def make(self, name: str, policy: str) -> Breaker:
        """A breaker that is not kept here, and so not shared.

        Raises:
            ConfigurationError: there is no such policy.
        """
        thresholds = self._policies.get(policy)
        if thresholds is None:
            raise ConfigurationError(f"no breaker policy is called {policy!r}")
        return Breaker(
            thresholds,
            name,
            self._clock,
            client=self._client,
            keys=self._keys,
            holder=self._holder,
            changed=self._news.set,
        )

    def views(self) -> list[BreakerView]:
        """What this process knows of its breakers, by name."""
        now = self._clock.now()
        return [breaker.view(now) for _, breaker in sorted(self._breakers.items())]

    async def sync(self) -> None:
        """Share all of them once."""
        await asyncio.gather(*(breaker.sync() for breaker in list(self._breakers.values())))

    async def run(self, every_s: float = SYNC_EVERY_S) -> None:
        """Share them every `every_s`, and at once when one changed, until cancelled."""
        await repeat("sharing breakers", self.sync, every_s=every_s, wake=self._news)


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
        self._by_host: OrderedDict[tuple[str, str], Breaker] = OrderedDict()

    def allows(self, provider: str, host: str = "") -> bool:
        """Whether to call it now."""
        return self._of(provider, host).allows(self._clock.now())

    def retry_after(self, provider: str, host: str = "") -> float:
        """Seconds until it is worth asking again."""
        return self._of(provider, host).retry_after(self._clock.now())

    def record(self, provider: str, *, ok: bool, duration_s: float, reason: str, host: str = "") -> None:
        """How a call that was allowed ended."""
        self._of(provider, host).record(ok, duration_s, reason)

    def _of(self, provider: str, host: str) -> Breaker:
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

    def allows(self, provider: str, host: str = "") -> bool:  # noqa: ARG002 (the port's)
        """Always."""
        return True

    def retry_after(self, provider: str, host: str = "") -> float:  # noqa: ARG002 (the port's)
        """At once."""
        return 0.0

    def record(self, provider: str, *, ok: bool, duration_s: float, reason: str, host: str = "") -> None:
        """Nothing to learn."""
