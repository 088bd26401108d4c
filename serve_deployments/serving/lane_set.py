"""The lanes as an HTTP application holds them: connections to their servers, and what those promise."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from redis import asyncio as aioredis

from tocsin.errors import TocsinError
from tocsin.settings import Settings
from tocsin.storage.connect import WRITE_TIMEOUT_S, ServerFacts, inspect
from tocsin.storage.servers import Servers
from tocsin.streams.lanes import Lane
from tocsin.streams.records import Placement, Record
from tocsin.wire.lanes import Durability, LaneName

FACTS_TTL_S = 30.0
FACTS_WAIT_S = 0.25  # of a send's deadline; the write itself gets the most of it
CONFIRM_MS = 1200  # under `everysec` a sync begins once a second; below WRITE_TIMEOUT_S
MAX_CONFIRMING = 32  # of the 64 requests of a replica, and of the connections to a server

UNKNOWN = ServerFacts(flavour="", version="", durability=Durability.MEMORY)


class LaneSet:
    """Lanes, each on its server.

    Args:
        settings: Servers, namespace and partitions.
        names: The lanes wanted.
        timeout_s: The deadline of each command.
    """

    def __init__(
        self, settings: Settings, names: Sequence[LaneName], *, timeout_s: float = WRITE_TIMEOUT_S
    ) -> None:
        self.servers = Servers(settings, timeout_s=timeout_s)
        self.client = self.servers.main
        self.lanes = {name: Lane.of(self.servers.of(name), settings, name) for name in names}
        self._facts: dict[aioredis.Redis, tuple[float, ServerFacts]] = {}
        self._confirming = 0

    async def durability(self, name: LaneName) -> Durability:
        """How durable a write to a lane is, asked again every 30 s: an operator may change it.

        Raises:
            ConfigurationError: its server may lose data by itself.
            StorageUnavailableError: its server does not answer.
        """
        return (await self._ask(self.lanes[name].client)).durability

    async def append(
        self,
        name: LaneName,
        records: Sequence[Record],
        *,
        idempotency_key: str = "",
        fingerprint: str = "",
    ) -> tuple[list[Placement], Durability]:
        """Store records in a lane, and say how durable that is.

        A p0 waits for the disk, up to 1.2 s, where the server syncs once a second and can be asked; its delivery does
        not. It is stored also where the server reports nothing about itself.

        Raises:
            ConfigurationError: as `durability`; never for p0.
            TocsinError: as `Lane.append` raises it.
        """
        lane, urgent = self.lanes[name], name is LaneName.P0
        try:
            facts = await self._ask(lane.client)
        except TocsinError:
            if not urgent:
                raise
            facts = UNKNOWN
        if not (urgent and facts.confirms and self._confirming < MAX_CONFIRMING):
            stored = await lane.append(records, idempotency_key=idempotency_key, fingerprint=fingerprint)
            return stored, facts.durability
        self._confirming += 1
        try:
            stored, synced = await lane.append_synced(
                records, wait_ms=CONFIRM_MS, idempotency_key=idempotency_key, fingerprint=fingerprint
            )
        finally:
            self._confirming -= 1
        return stored, Durability.FSYNCED if synced else facts.durability

    def others(self, name: LaneName) -> set[LaneName]:
        """The lanes that are on another server than this one."""
        return {one for one, lane in self.lanes.items() if lane.client is not self.lanes[name].client}

    async def aclose(self) -> None:
        """Close all connections."""
        await self.servers.aclose()

    async def _ask(self, client: aioredis.Redis) -> ServerFacts:
        now = time.monotonic()
        asked_at, facts = self._facts.get(client, (0.0, None))
        if facts is None:
            facts = await inspect(client)
        elif now - asked_at > FACTS_TTL_S:
            try:
                async with asyncio.timeout(FACTS_WAIT_S):
                    facts = await inspect(client)
            except TimeoutError:
                return facts  # as before; the write finds out whether it hangs
        else:
            return facts
        if (
            self._facts.get(client, (now, None))[0] <= now
        ):  # else somebody asked later, and has the newer ones
            self._facts[client] = (now, facts)
        return facts
