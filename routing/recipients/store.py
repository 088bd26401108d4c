"""Recipients and their preferences: the store on Redis."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from redis import asyncio as aioredis

from tocsin.keys import RecipientKeys
from tocsin.storage.errors import translated
from tocsin.telemetry.reports import Fault
from tocsin.wire.recipients import Recipient

log = logging.getLogger(__name__)


MAX_KNOWN = 100_000  # recipients cached while nothing changes
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Recipient).decode


class Profiles(Protocol):
    """Where recipients are kept."""

    async def get_many(self, recipient_ids: Sequence[str]) -> list[Recipient | None]:
        """Each recipient, None for one that is not known."""
        ...

    async def put(self, recipient: Recipient) -> None:
        """Store one, in place of what was stored before."""
        ...

    async def delete(self, recipient_id: str) -> bool:
        """Delete one; whether there was one."""
        ...

    async def page(self, *, after: str, limit: int) -> tuple[int, list[Recipient], str]:
        """How many there are, up to `limit` in the order of their ids, and the id to continue after."""
        ...


class RecipientStore:
    """Recipients on Redis, one string each, and their ids in an index that is paged without a scan.

    Args:
        client: An asyncio client.
        namespace: The prefix of all keys.
    """

    def __init__(self, client: aioredis.Redis, *, namespace: str) -> None:
        self.keys = RecipientKeys(namespace)
        self.unreadable = 0  # records that could not be read, and were taken as not there
        self._client = client
        self._known: dict[str, Recipient | None] = {}  # as of `_version`
        self._version: Any = None

    def faults(self) -> dict[Fault, int]:
        """Faults since this object was made."""
        return {Fault.UNREADABLE_RECIPIENT: self.unreadable}

    async def get_many(self, recipient_ids: Sequence[str]) -> list[Recipient | None]:
        """Each recipient, None for one that is not known.

        One round trip: every change of any recipient moves a version, which is read each time; what was read
        before is used only while it stands.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        if not recipient_ids:
            return []
        # Others rebind these while this one waits, and never empty them.
        known, version = self._known, self._version
        missing = [one for one in recipient_ids if one not in known]
        current, bodies = await self._fetch(missing)
        if current != version:
            known = {}
            if len(missing) < len(recipient_ids):
                missing = list(recipient_ids)
                current, bodies = await self._fetch(missing)
        read = {one: self._read(body) if body else None for one, body in zip(missing, bodies, strict=True)}
        found = [read[one] if one in read else known[one] for one in recipient_ids]
        if self._version == version:  # nobody learned of a change meanwhile
            if current != version or len(known) > MAX_KNOWN:
                self._known, self._version = dict(zip(recipient_ids, found, strict=True)), current
            else:
                known.update(read)
        return found

    async def _fetch(self, recipient_ids: Sequence[str]) -> tuple[Any, Sequence[Any]]:
        """The version, then the recipients: these are as new as it or newer."""
        with translated():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.get(self.keys.version)
                if recipient_ids:
                    pipe.mget([self.keys.profile(one) for one in recipient_ids])
                answers: list[Any] = await pipe.execute()
        return answers[0], answers[1] if recipient_ids else ()

    async def put(self, recipient: Recipient) -> None:
        """Store one, in place of what was stored before.

        Raises:
            StorageUnavailableError: the server did not confirm; trying again does no harm.
        """
        with translated():
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.set(self.keys.profile(recipient.id), _encode(recipient))
                pipe.zadd(self.keys.index, {recipient.id: 0})
                pipe.incr(self.keys.version)
                await pipe.execute()

    async def delete(self, recipient_id: str) -> bool:
        """Delete one; whether there was one.

        Raises:
            StorageUnavailableError: the server did not confirm; trying again does no harm.
        """
        with translated():
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.delete(self.keys.profile(recipient_id))
                pipe.zrem(self.keys.index, recipient_id)
                pipe.incr(self.keys.version)
                removed, *_ = await pipe.execute()
        return bool(removed)

    async def page(self, *, after: str, limit: int) -> tuple[int, list[Recipient], str]:
        """How many there are, up to `limit` in the order of their ids, and the id to continue after (empty: the end).

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        with translated():
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.zcard(self.keys.index)
                pipe.zrange(
                    self.keys.index, f"({after}" if after else "-", "+", bylex=True, offset=0, num=limit + 1
                )
                total, found = await pipe.execute()
        ids = [one.decode() for one in found]
        known = await self.get_many(ids[:limit])
        return int(total), [one for one in known if one], ids[limit - 1] if len(ids) > limit else ""

    def _read(self, body: bytes) -> Recipient | None:
        try:
            return _decode(body)
        except msgspec.MsgspecError:
            # Not an error to raise: it would hold up the recipient's whole partition for good.
            self.unreadable += 1
            # Without the id, which may be a number or an address, and without a trace, which would show the record.
            log.error("the stored record of a recipient cannot be read; treated as absent")  # noqa: TRY400
            return None
