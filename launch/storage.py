"""Storage before anything else comes up: each server is checked, and the lanes are made on theirs."""

from __future__ import annotations

from contextlib import suppress

from tocsin.errors import (
    ArchiveUnavailableError,
    ConfigurationError,
    ModelUnavailableError,
    StorageUnavailableError,
)
from tocsin.settings import Settings
from tocsin.storage.connect import WRITE_TIMEOUT_S, ServerFacts, inspect
from tocsin.storage.errors import translated
from tocsin.storage.servers import MAIN, Server, Servers
from tocsin.streams.lanes import Lane
from tocsin.wire.lanes import LaneName


def check_places(settings: Settings) -> None:
    """Refuse an archive or a registry that can never be: nobody would look at the shards' log for it.

    One that does not answer now is another matter: notifications need neither.

    Raises:
        ConfigurationError: a URI names no place; the message holds none of its credentials.
    """
    from features.shard.archiver import open_archive
    from models.registry.artefacts import open_store

    if "://" in settings.archive:
        with suppress(ArchiveUnavailableError):
            open_archive(settings.archive)
    with suppress(ModelUnavailableError):
        open_store(settings.models_location, "churn")


async def prepare(settings: Settings) -> list[tuple[Server, ServerFacts]]:
    """Check each server and make streams and groups, so that nothing can be sent to a lane nobody sees.

    Returns the servers, the main one first. Their clients are closed.

    Raises:
        ConfigurationError: a server is unsuitable, or p0 was given another one while the old one holds some of it.
        StorageUnavailableError: a server does not answer; names it and the variable.
    """
    servers = Servers(settings, timeout_s=WRITE_TIMEOUT_S)
    try:
        found = [(server, await _prepare(server, settings)) for server in servers.all]
        for server in servers.all:
            if server.name != MAIN:
                await _refuse_left_behind(servers, server, settings)
        return found
    finally:
        await servers.aclose()


async def _prepare(server: Server, settings: Settings) -> ServerFacts:
    try:
        facts = await inspect(server.client)
        for name in server.lanes:
            await Lane.of(server.client, settings, name).ensure_groups()
    except StorageUnavailableError as error:
        raise StorageUnavailableError(
            f"cannot use the storage at {server.address}: {error.message}",
            hint=f"check that the server runs there and that {server.setting} names it with its credentials",
        ) from None
    return facts


async def _refuse_left_behind(servers: Servers, server: Server, settings: Settings) -> None:
    """Nobody would look at what a lane still has on the main server: it would be as good as lost."""
    for name in server.lanes:
        lane = Lane.of(servers.main, settings, LaneName(name))
        depth = await lane.depth()
        with translated():
            dead = int(await servers.main.hlen(lane.keys.dead))
        if depth.blocks or depth.retrying or dead:
            raise ConfigurationError(
                f"{name} still has {depth.blocks} blocks, {depth.retrying} retries and {dead} dead letters on "
                f"{servers.all[0].address}",
                hint=f"start without {server.setting} until they are delivered, replayed or purged",
            )
