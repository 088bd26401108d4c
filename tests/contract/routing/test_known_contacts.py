from __future__ import annotations

import asyncio

import psutil
import pytest
from redis import asyncio as aioredis

from routing.emergency.calls import ContactsSource, EmergencyPlan, KnownContacts
from routing.emergency.known_contacts import CONTACTS_TTL_S, KnownContactsStore, settle_plan
from tests.fakes import START, ManualClock
from tocsin.errors import ConflictError
from tocsin.keys import EmergencyKeys

PATIENT_S = 30.0
KNOWN = KnownContacts(("daughter", "neighbour"), START)


@pytest.fixture
def keys(namespace: str) -> EmergencyKeys:
    return EmergencyKeys(namespace)


async def test_contacts_validated_by_one_replica_are_known_to_another(
    client: aioredis.Redis, keys: EmergencyKeys, clock: ManualClock
) -> None:
    first, second = (KnownContactsStore(client, keys, clock, deadline_s=PATIENT_S) for _ in range(2))
    assert await second.get("resident-7") is None
    await first.put("resident-7", KNOWN)
    assert await second.get("resident-7") == KNOWN
    assert await second.get("resident-8") is None
    assert 0 < await client.ttl(keys.contacts("resident-7")) <= CONTACTS_TTL_S


async def test_while_the_server_is_away_this_process_still_knows_them(
    client: aioredis.Redis, keys: EmergencyKeys, clock: ManualClock, process: psutil.Process
) -> None:
    store, stranger = (KnownContactsStore(client, keys, clock, deadline_s=0.1) for _ in range(2))
    await store.put("resident-7", KNOWN)
    before = store.failures  # a busy disk may have been too slow
    process.suspend()
    try:
        async with asyncio.timeout(PATIENT_S):
            assert await store.get("resident-7") == KNOWN
            assert await stranger.get("resident-7") is None
            await store.put("resident-8", KNOWN)
            assert await store.get("resident-8") == KNOWN
    finally:
        process.resume()
    assert (store.failures - before, stranger.failures) == (3, 1)


async def test_contacts_nobody_can_read_are_no_contacts(
    client: aioredis.Redis, keys: EmergencyKeys, clock: ManualClock
) -> None:
    await client.set(keys.contacts("resident-7"), b"\xc1", ex=60)
    store = KnownContactsStore(client, keys, clock, deadline_s=PATIENT_S)
    assert await store.get("resident-7") is None
    assert store.failures == 1


async def test_the_first_plan_of_a_key_counts(client: aioredis.Redis, keys: EmergencyKeys) -> None:
    plans = [
        EmergencyPlan((f"contact-{number}",), ContactsSource.VALIDATED, "", (), (f"contact-{number}",))
        for number in range(8)
    ]
    settled = await asyncio.gather(
        *(settle_plan(client, keys, plan, idempotency_key="k", fingerprint="f") for plan in plans)
    )
    assert len(set(settled)) == 1
    with pytest.raises(ConflictError):
        await settle_plan(client, keys, plans[0], idempotency_key="k", fingerprint="other")
    other = await settle_plan(client, keys, plans[3], idempotency_key="k2", fingerprint="f")
    assert other == plans[3]
