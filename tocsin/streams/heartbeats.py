"""Who consumes a lane: the one answer that readiness, status, metrics and the supervisor go by.

    beats ──every `heartbeat_s`──► alive ──silent for `lapse_s`──► not counted ──beats──► alive

A member reports itself from its consumer loop (`tocsin.streams.leases`). The server's own clock stamps and judges
heartbeats, and a reader judges them itself: where every member is stopped, nobody else would clear the list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from redis import asyncio as aioredis

from tocsin.actor_names import SUPERVISOR
from tocsin.keys import LaneKeys
from tocsin.processes import ProcessRecord
from tocsin.storage.errors import translated
from tocsin.streams.lease_scripts import report_alive
from tocsin.wire.lanes import LaneName

LAPSE_S: Mapping[str, float] = {
    LaneName.P0: 3.0,
    LaneName.P1: 4.0,
    LaneName.P2: 4.0,
    LaneName.ACTIVITY: 4.0,
    SUPERVISOR: 5.0,
}
"""How long after its last heartbeat a member counts as a consumer (s). Readiness turns within 5 s."""

SUPERVISOR_BEAT_S = 1.0


class Heartbeats(msgspec.Struct, frozen=True):
    """Heartbeats as the server holds them: its time, and each member's last one. Seconds since the epoch."""

    now_s: float
    last: dict[str, float]

    def consumers(self, lapse_s: float) -> list[str]:
        """Members heard of within `lapse_s`, sorted."""
        return sorted(name for name, at in self.last.items() if self.now_s - at <= lapse_s)


async def read_heartbeats(client: aioredis.Redis, keys: LaneKeys) -> Heartbeats:
    """The heartbeats of one pool.

    Raises:
        StorageUnavailableError: the server does not answer.
    """
    with translated():
        async with client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.zrange(keys.members, 0, -1, withscores=True)
            (seconds, micros), members = await pipe.execute()
    return Heartbeats(seconds + micros / 1e6, {name.decode(): score / 1000 for name, score in members})


async def read_consumers(client: aioredis.Redis, keys: LaneKeys) -> list[str]:
    """Who consumes a lane now: the names of its living members, sorted.

    Raises:
        StorageUnavailableError: the server does not answer.
    """
    return (await read_heartbeats(client, keys)).consumers(LAPSE_S[keys.lane])


async def read_processes(
    client: aioredis.Redis, keys: LaneKeys, names: Sequence[str]
) -> dict[str, ProcessRecord]:
    """The processes of those members that said which they are.

    Raises:
        StorageUnavailableError: the server does not answer.
    """
    with translated():
        records: list[Any] = await client.mget([keys.process(name) for name in names]) if names else []
    found: dict[str, ProcessRecord] = {}
    for name, record in zip(names, records, strict=True):
        if record is not None:
            try:
                found[name] = msgspec.json.decode(record, type=ProcessRecord)
            except msgspec.MsgspecError:  # of another version: nothing is known of it
                continue
    return found


class SupervisorHeartbeat:
    """The supervisor's own heartbeat, kept as that of a pool with one member.

    Args:
        client: The main server.
        namespace: The prefix of all keys.
        process: Whose heartbeat it is.
    """

    def __init__(self, client: aioredis.Redis, namespace: str, process: ProcessRecord) -> None:
        self._client = client
        self._keys = LaneKeys(namespace, SUPERVISOR)
        self._record = msgspec.json.encode(process)
        self._first = True

    async def beat(self) -> None:
        """Report alive.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        with translated():
            await report_alive(
                self._client,
                members=self._keys.members,
                process=self._keys.process(SUPERVISOR),
                name=SUPERVISOR,
                record=self._record,
                first=self._first,
                ttl_ms=int(LAPSE_S[SUPERVISOR] * 1000),
            )
        self._first = False
