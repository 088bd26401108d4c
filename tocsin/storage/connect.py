"""Connections to Redis or Valkey, each with the deadline its use needs.

A command is never resent by the driver: a resent `append` could store a record twice. A caller that may safely
try again does so itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import hiredis
import msgspec
from redis import asyncio as aioredis
from redis import exceptions as redis_errors
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tocsin.errors import ConfigurationError
from tocsin.settings import Settings
from tocsin.storage.embedded import read_endpoint
from tocsin.storage.errors import translated
from tocsin.wire.lanes import Durability, LaneName

MIN_VERSION = 7
SERVE_TIMEOUT_S = (
    0.5  # a question must degrade within 1.3 s, and may ask twice: for the moment, and for what was then
)
WRITE_TIMEOUT_S = 1.8  # `appendfsync always` on a busy disk; a send answers within its deadline of 2.5 s
CONSUME_TIMEOUT_S = 6.0  # blocking reads wait up to two seconds on purpose


def resolve_url(settings: Settings, lane: LaneName | None = None) -> str:
    """The URL of the server of a lane, or of everything else: a configured one, or the data folder's embedded server.

    Raises:
        ConfigurationError: no URL is set and no embedded server was ever started in the data folder.
    """
    if lane is LaneName.P0 and settings.redis_url_p0:
        return settings.redis_url_p0
    if settings.redis_url:
        return settings.redis_url
    endpoint = read_endpoint(settings.data_path)
    if endpoint is None:
        raise ConfigurationError(
            f"no Redis: TOCSIN_REDIS_URL is empty and no embedded server runs in {settings.data_path}",
            hint="start the platform with `tocsin up`, or set TOCSIN_REDIS_URL",
        )
    return endpoint.url


def connect(url: str, *, timeout_s: float, max_connections: int = 64) -> aioredis.Redis:
    """A client with bounded connections and one deadline for connecting and for each answer."""
    over_network = {} if url.startswith("unix://") else {"socket_keepalive": True}
    client = aioredis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=min(timeout_s, 2.0),
        **over_network,
        max_connections=max_connections,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )
    pool: Any = client.connection_pool
    pool.connection_class = _quick(pool.connection_class)
    return client


class _QuickPacking:
    """Packs commands in C. The driver does so for its blocking connections only, though both send the same bytes.

    A patch of parts that redis-py does not document: `tests/unit/tocsin/storage/test_quick_packing.py` pins them.
    """

    def pack_command(self, *args: Any) -> list[bytes]:
        """One command as bytes to send."""
        return [_packed(args)]

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        """Many of them as one."""
        return [b"".join([_packed(command) for command in commands])]


def _packed(args: Iterable[Any]) -> bytes:
    name, *rest = args
    if isinstance(name, str):
        name = name.encode()
    try:
        packed: bytes = hiredis.pack_command((*name.split(), *rest))
    except TypeError as error:
        raise redis_errors.DataError(str(error)) from None
    return packed


@cache
def _quick(connection_class: type) -> type:
    return type(connection_class.__name__, (_QuickPacking, connection_class), {})


class ServerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The version and durability of a server."""

    flavour: str
    version: str
    durability: Durability
    confirms: bool = False  # WAITAOF is there, and says 1 only once the write is on disk


async def inspect(client: aioredis.Redis) -> ServerFacts:
    """Ask the server what it is and how durable its writes are.

    Raises:
        ConfigurationError: it is older than version 7, or may evict data by itself.
        StorageUnavailableError: it does not answer.
    """
    with translated():
        info: dict[str, Any] = await client.info()
        config = await _config(client)
    flavour = str(info.get("server_name", "redis"))
    version = str(info.get("valkey_version") or info.get("redis_version", "0"))
    if int(str(info.get("redis_version", "0")).split(".")[0]) < MIN_VERSION:
        raise ConfigurationError(f"the server is Redis {version}; version {MIN_VERSION} or newer is needed")
    policy = config.get("maxmemory-policy", str(info.get("maxmemory_policy", "noeviction")))
    if policy != "noeviction":
        raise ConfigurationError(
            f"the server evicts data (maxmemory-policy {policy}): accepted notifications could vanish",
            hint="set maxmemory-policy noeviction on this server",
        )
    durability = _durability(info, config)
    confirms = durability is Durability.EVERYSEC and _confirms(flavour, version)
    return ServerFacts(flavour=flavour, version=version, durability=durability, confirms=confirms)


async def _config(client: aioredis.Redis) -> dict[str, str]:
    """The settings that matter here; empty where an ACL or a hosted server forbids CONFIG."""
    try:
        answer = await client.config_get("appendfsync", "no-appendfsync-on-rewrite", "maxmemory-policy")
    except redis_errors.ResponseError:
        return {}
    return {_text(key): _text(value) for key, value in answer.items()}


def _durability(info: dict[str, Any], config: dict[str, str]) -> Durability:
    """Claim no more than is known: an unreadable `appendfsync` counts as everysec, its default."""
    if not int(info.get("aof_enabled", 0)) or config.get("appendfsync") == "no":
        return Durability.MEMORY
    always = config.get("appendfsync") == "always" and config.get("no-appendfsync-on-rewrite") != "yes"
    return Durability.FSYNCED if always else Durability.EVERYSEC


# Under `everysec`, Redis 7.4 and Valkey from 8.0 on (seen on 9.1.2) say 1 before the write is on disk: redis/redis
# #13793, mended in Redis 8.0. What is not listed here is not believed.
CONFIRMING: dict[str, tuple[tuple[tuple[int, int], tuple[int, int]], ...]] = {
    "redis": (((7, 2), (7, 4)), ((8, 0), (1000, 0))),
    "valkey": (((7, 2), (8, 0)),),
}


def _confirms(flavour: str, version: str) -> bool:
    """Whether WAITAOF is there and can be believed, from the server's name and version."""
    numbers = [int(part) if part.isdigit() else 0 for part in f"{version}.0".split(".")]
    known = (numbers[0], numbers[1])
    return any(first <= known < end for first, end in CONFIRMING.get(flavour, ()))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
