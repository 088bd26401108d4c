"""The storage servers of a platform: one for everything, and another for p0 where one is configured.

    main   p1, p2, activity; recipients, features, breakers     TOCSIN_REDIS_URL, or the embedded server
    p0     the p0 lane and emergency calls                       TOCSIN_REDIS_URL_P0; else they are on main, too

All keys of a lane are on one server, so every atomic step stays one; none spans two servers.
"""

from __future__ import annotations

import msgspec
from redis import asyncio as aioredis

from tocsin.secrets import without_credentials
from tocsin.settings import Settings
from tocsin.storage.connect import connect, resolve_url
from tocsin.wire.lanes import LaneName

MAIN = "main"


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """One server: what it is called, which lanes it holds, and a client. `address` is without its credentials."""

    name: str
    lanes: tuple[LaneName, ...]
    client: aioredis.Redis
    address: str
    setting: str  # the variable that names it


class Servers:
    """A client for each server. Lanes that share a server share its client.

    Args:
        settings: Which servers there are.
        timeout_s: The deadline of each command.
        max_connections: Of each client.

    Raises:
        ConfigurationError: no URL is set and no embedded server was ever started in the data folder.
    """

    def __init__(self, settings: Settings, *, timeout_s: float, max_connections: int = 64) -> None:
        urls = {MAIN: resolve_url(settings)}
        own = resolve_url(settings, LaneName.P0)
        if own != urls[MAIN]:
            urls[LaneName.P0.value] = own
        self.all = tuple(
            Server(
                name=name,
                lanes=tuple(
                    lane for lane in LaneName if (lane.value if lane.value in urls else MAIN) == name
                ),
                client=connect(url, timeout_s=timeout_s, max_connections=max_connections),
                address=without_credentials(url),
                setting="TOCSIN_REDIS_URL" if name == MAIN else f"TOCSIN_REDIS_URL_{name.upper()}",
            )
            for name, url in urls.items()
        )

    @property
    def main(self) -> aioredis.Redis:
        """The server of everything that is not a lane's."""
        return self.all[0].client

    def of(self, lane: LaneName) -> aioredis.Redis:
        """The server of a lane."""
        return next(server.client for server in self.all if lane in server.lanes)

    async def aclose(self) -> None:
        """Close all connections."""
        for server in self.all:
            await server.client.aclose()
