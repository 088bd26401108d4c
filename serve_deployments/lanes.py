"""The lanes as an HTTP application holds them: one connection pool, and what the server promised."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tocsin.lanes import Lane
from tocsin.schemas import Durability, LaneName
from tocsin.settings import Settings
from tocsin.storage.connect import WRITE_TIMEOUT_S, connect, inspect, resolve_url

FACTS_TTL_S = 30.0


class LaneSet:
    """Lanes on one server.

    Args:
        settings: Server, namespace and partitions.
        names: The lanes wanted.
        timeout_s: The deadline of each command.
    """

    def __init__(
        self, settings: Settings, names: Sequence[LaneName], *, timeout_s: float = WRITE_TIMEOUT_S
    ) -> None:
        self.client = connect(resolve_url(settings), timeout_s=timeout_s)
        self.lanes = {name: Lane.of(self.client, settings, name) for name in names}
        self._durability: Durability | None = None
        self._asked_at = 0.0

    async def durability(self) -> Durability:
        """How durable a write is, asked again every 30 s: an operator may change it.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        now = time.monotonic()
        if self._durability is None or now - self._asked_at > FACTS_TTL_S:
            self._durability = (await inspect(self.client)).durability
            self._asked_at = now
        return self._durability
