"""The contacts that were validated last, and what a call with an idempotency key became.

Both are stored in Redis, the contacts also in this process for when Redis does not answer. Reading and storing contacts
never stops a call: both have a short deadline, and a failure is counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, TypeVar

import msgspec
from redis import asyncio as aioredis
from redis import exceptions as redis_errors

from routing.emergency.calls import EmergencyPlan, KnownContacts
from tocsin.caching import Cache
from tocsin.clock import Clock
from tocsin.errors import ConflictError
from tocsin.keys import DEDUP_TTL_S, EmergencyKeys
from tocsin.storage.errors import translated
from tocsin.telemetry.reports import Fault

log = logging.getLogger(__name__)

T = TypeVar("T")

CONTACTS_TTL_S = 90 * 86_400
STORE_DEADLINE_S = 0.15
MAX_LOCAL = 10_000
STORE_ERRORS = (redis_errors.RedisError, OSError, TimeoutError)

_encode = msgspec.msgpack.Encoder().encode
_known = msgspec.msgpack.Decoder(KnownContacts)


class KnownContactsStore:
    """The contacts validated last, by caller.

    Args:
        client: The server.
        keys: Of the stored contacts.
        clock: Time.
        deadline_s: How long a call may wait for either.
    """

    def __init__(
        self,
        client: aioredis.Redis,
        keys: EmergencyKeys,
        clock: Clock,
        *,
        deadline_s: float = STORE_DEADLINE_S,
    ) -> None:
        self.failures = 0
        self._client = client
        self._keys = keys
        self._deadline_s = deadline_s
        self._local: Cache[KnownContacts] = Cache(ttl_s=CONTACTS_TTL_S, max_entries=MAX_LOCAL, clock=clock)

    def faults(self) -> dict[Fault, int]:
        """Faults since this object was made."""
        return {Fault.KNOWN_CONTACTS: self.failures}

    async def get(self, caller: str) -> KnownContacts | None:
        """The last validated contacts; from this process when Redis does not answer in time."""
        seen = self._local.changes
        try:
            raw: Any = await self._within_deadline(self._client.get(self._keys.contacts(caller)))
            found = _known.decode(raw) if raw is not None else None
        except (*STORE_ERRORS, msgspec.MsgspecError) as error:
            self._failed("read", error)
            return self._local.peek(caller)
        if found is not None:
            self._local.put(caller, found, seen=seen)
        return found

    async def put(self, caller: str, known: KnownContacts) -> None:
        """Store them here and, if it answers, in Redis."""
        self._local.put(caller, known)
        try:
            await self._within_deadline(
                self._client.set(self._keys.contacts(caller), _encode(known), ex=CONTACTS_TTL_S)
            )
        except STORE_ERRORS as error:
            self._failed("store", error)
        finally:  # a look that began before they were stored may have put older ones here
            self._local.put(caller, known)

    async def _within_deadline(self, work: Awaitable[T]) -> T:
        async with asyncio.timeout(self._deadline_s):
            return await work

    def _failed(self, what: str, error: Exception) -> None:
        self.failures += 1
        log.warning("could not %s validated contacts: %s", what, str(error) or type(error).__name__)


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """A plan with the digest of the request it was made for."""

    fingerprint: str
    plan: EmergencyPlan


_kept = msgspec.msgpack.Decoder(_Kept)


async def settle_plan(
    client: aioredis.Redis,
    keys: EmergencyKeys,
    plan: EmergencyPlan,
    *,
    idempotency_key: str,
    fingerprint: str,
) -> EmergencyPlan:
    """The plan that counts for this key: the first one, so that a repeat gets the receipts of the first call.

    Raises:
        ConflictError: the key was used for another request.
        StorageUnavailableError: the server did not confirm.
        OverloadedError: it is out of memory.
    """
    body = _encode(_Kept(fingerprint, plan))
    with translated():
        first: Any = await client.set(keys.call(idempotency_key), body, nx=True, get=True, ex=DEDUP_TTL_S)
    if first is None:
        return plan
    kept = _kept.decode(first)
    if kept.fingerprint != fingerprint:
        raise ConflictError(
            "this Idempotency-Key was used for a different request", hint="use a new key for each request"
        )
    return kept.plan
