"""Who is told, and how they want it: the store on Redis, and the rules a schema cannot state."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import msgspec
from redis import asyncio as aioredis

from routing.channels import ACCOUNTS
from routing.channels.addresses import is_one_address
from routing.intake.intake import check_webhook_url
from tocsin.clock import to_datetime
from tocsin.errors import InvalidRecordError
from tocsin.keys import RecipientKeys
from tocsin.storage.errors import translated
from tocsin.storage.scripts import LET_IN, Script
from tocsin.telemetry.reports import Fault
from tocsin.wire.recipients import MASK, MAX_ID, Recipient, RecipientRequest

log = logging.getLogger(__name__)


WINDOW_S = 3600
MAX_KNOWN = 100_000  # recipients remembered while nothing changes
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Recipient).decode


# --------------------------------------------------------------------------- ports


class Profiles(Protocol):
    """Where recipients are kept."""

    async def get_many(self, recipient_ids: Sequence[str]) -> list[Recipient | None]:
        """What each wants, None for one that is not known."""
        ...

    async def put(self, recipient: Recipient) -> None:
        """Keep one, in place of what was kept before."""
        ...

    async def delete(self, recipient_id: str) -> bool:
        """Forget one; whether there was one."""
        ...

    async def page(self, *, after: str, limit: int) -> tuple[int, list[Recipient], str]:
        """How many there are, up to `limit` in the order of their ids, and the id to go on after."""
        ...


class Wish(msgspec.Struct, frozen=True):
    """Notifications that want into one recipient's window, which may hold `limit`."""

    recipient_id: str
    limit: int
    ids: Sequence[str]


class Windows(Protocol):
    """Counts what was let through to each recipient in the last hour."""

    async def let_in(self, lane: str, wishes: Sequence[Wish], now: float) -> set[str]:
        """The ids let through, in order while there is room; one let through before is again, and counts once."""
        ...


# --------------------------------------------------------------------------- rules


def check_recipient(recipient_id: str, request: RecipientRequest) -> None:
    """The rules about ids, times and addresses.

    Raises:
        InvalidRecordError: names the field and the limit.
    """
    if not 1 <= len(recipient_id) <= MAX_ID or _CONTROL.search(recipient_id):
        raise InvalidRecordError(
            "the recipient's id cannot be used",
            field="id",
            limit=f"1 to {MAX_ID} characters, no control characters",
        )
    quiet = request.quiet_hours
    if quiet is not None and zone_of(quiet.timezone) is None:
        raise InvalidRecordError(
            f"no timezone {quiet.timezone!r}",
            field="quiet_hours.timezone",
            limit="an IANA name, e.g. Europe/Berlin",
        )
    if quiet is not None and quiet.start == quiet.end:
        raise InvalidRecordError(
            "quiet hours begin and end at the same time",
            field="quiet_hours.end",
            limit="other than `start`",
            hint="mute types or sources to hear nothing of them at any time",
        )
    contacts = request.fallback_contacts
    if recipient_id in contacts or len(set(contacts)) < len(contacts):
        raise InvalidRecordError(
            "a recipient cannot fall back on itself, nor twice on another",
            field="fallback_contacts",
            limit="distinct ids of others",
        )
    for name, target in request.targets.items():
        if name in ACCOUNTS and target != MASK and not is_one_address(target):
            raise InvalidRecordError(
                f"the target for {name} is not one address",
                field=f"targets.{name}",
                limit="at most 256 characters; no spaces, commas, semicolons, slashes, ?, #, % or &",
            )
    check_webhook_url(request.webhook_url)


@lru_cache(maxsize=1024)
def zone_of(name: str) -> ZoneInfo | None:
    """A timezone by its IANA name; None when there is none here."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not known, no name at all, the folder of a region
        return None


def kept(recipient_id: str, request: RecipientRequest, before: Recipient | None, *, now: float) -> Recipient:
    """What to keep of a request: a masked target stands for the one kept before.

    Raises:
        InvalidRecordError: a target is masked and there was none before.
    """
    known = before.targets if before else {}
    targets = {}
    for channel, target in request.targets.items():
        if target == MASK and channel not in known:
            raise InvalidRecordError(
                f"there is no target for {channel!r} to keep", field=f"targets.{channel}", limit="an address"
            )
        targets[channel] = known[channel] if target == MASK else target
    given = {name: getattr(request, name) for name in RecipientRequest.__struct_fields__}
    return Recipient(**given | {"id": recipient_id, "updated_at": to_datetime(now), "targets": targets})


def masked(recipient: Recipient) -> Recipient:
    """As it may be shown: that there is a target, not which."""
    return msgspec.structs.replace(recipient, targets=dict.fromkeys(recipient.targets, MASK))


# --------------------------------------------------------------------------- on Redis


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
        """What was survived since this object was made."""
        return {Fault.UNREADABLE_RECIPIENT: self.unreadable}

    async def get_many(self, recipient_ids: Sequence[str]) -> list[Recipient | None]:
        """What each wants, None for one that is not known.

        One round trip: every change of any recipient moves a version, which is asked for each time; what was read
        before is used only while it stands.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        if not recipient_ids:
            return []
        missing = [one for one in recipient_ids if one not in self._known]
        version, bodies = await self._fetch(missing)
        if version != self._version:
            self._known.clear()
            self._version = version
            if len(missing) < len(recipient_ids):
                missing = list(recipient_ids)
                _, bodies = await self._fetch(missing)
        elif len(self._known) > MAX_KNOWN:
            kept = {one: self._known[one] for one in recipient_ids if one in self._known}
            self._known = kept
        for one, body in zip(missing, bodies, strict=True):
            self._known[one] = self._read(one, body) if body else None
        return [self._known[one] for one in recipient_ids]

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
        """Keep one, in place of what was kept before.

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
        """Forget one; whether there was one.

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
        """How many there are, up to `limit` in the order of their ids, and the id to go on after (empty: the end).

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

    def _read(self, recipient_id: str, body: bytes) -> Recipient | None:
        try:
            return _decode(body)
        except msgspec.MsgspecError:
            # Not an error to raise: it would hold up the recipient's whole partition for good.
            self.unreadable += 1
            log.error("what is kept of recipient %r cannot be read; told as if nothing were", recipient_id)  # noqa: TRY400 (a trace would show what it holds)
            return None


class RedisWindows:
    """Windows on Redis: the ids let through, by time, in a sorted set that ends an hour after the last.

    Args:
        client: An asyncio client.
        namespace: The prefix of all keys.
    """

    def __init__(self, client: aioredis.Redis, *, namespace: str) -> None:
        self.keys = RecipientKeys(namespace)
        self._client = client
        self._let_in = Script(LET_IN)

    async def let_in(self, lane: str, wishes: Sequence[Wish], now: float) -> set[str]:
        """The ids let through, in order while there is room; one round trip.

        Raises:
            StorageUnavailableError: the server did not confirm; trying again counts nothing twice.
        """
        keys = [self.keys.window(lane, wish.recipient_id) for wish in wishes]
        args: list[Any] = [now, now - WINDOW_S, WINDOW_S]
        for wish in wishes:
            args += [wish.limit, len(wish.ids), *wish.ids]
        with translated():
            answer = await self._let_in.run(self._client, keys, args)
        ids = (one for wish in wishes for one in wish.ids)
        return {one for one, let_in in zip(ids, answer, strict=True) if let_in}
