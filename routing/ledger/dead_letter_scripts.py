"""The atomic steps of dead letters. They begin with a deletion, so they need no exemption at the memory limit."""

from __future__ import annotations

from typing import Final

from redis import asyncio as aioredis

from tocsin.keys import LaneKeys
from tocsin.storage.script import Script
from tocsin.wire.lanes import WIRE_VERSION

_REPLAY: Final = Script(
    """
if redis.call('HDEL', dead, id) == 0 then return 0 end
redis.call('ZREM', index, id)
redis.call('XADD', stream, '*', 'v', version, 'b', string.char(145) .. envelope)
redis.call('HINCRBY', counts, 'dead', -1)
redis.call('HINCRBY', reports, 'replayed', 1)
return 1
""",
    keys="dead index stream counts reports",
    args="id version envelope",
)


async def replay_letter(
    client: aioredis.Redis,
    keys: LaneKeys,
    *,
    partition: int,
    letter_id: str,
    envelope: bytes,
) -> bool:
    """Put a dead letter back into its lane; it was counted as accepted the first time. False when it is gone.

    Raises:
        RedisError: as the driver raises it.
    """
    moved = await _REPLAY.run(
        client,
        dead=keys.dead,
        index=keys.dead_index,
        stream=keys.stream(partition),
        counts=keys.counts,
        reports=keys.reports,
        id=letter_id,
        version=WIRE_VERSION,
        envelope=envelope,
    )
    return bool(moved)


_PURGE: Final = Script(
    """
if redis.call('HDEL', dead, id) == 0 then return 0 end
redis.call('ZREM', index, id)
redis.call('HINCRBY', counts, 'dead', -1)
redis.call('HINCRBY', counts, 'purged', 1)
return 1
""",
    keys="dead index counts",
    args="id",
)


async def purge_letter(client: aioredis.Redis, keys: LaneKeys, *, letter_id: str) -> bool:
    """Delete a dead letter for good; it moves from `dead` to `purged` in the counts, so that they still add up.
    False when it is gone already.

    Raises:
        RedisError: as the driver raises it.
    """
    return bool(
        await _PURGE.run(client, dead=keys.dead, index=keys.dead_index, counts=keys.counts, id=letter_id)
    )
