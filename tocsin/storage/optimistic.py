"""Writes that hold only while the state they were worked out from has not changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from redis import exceptions as redis_errors
from redis.asyncio.client import Pipeline

MOVED = "another member changed the state this was worked out from"


class Guarded(msgspec.Struct, frozen=True):
    """A stage of a settlement with its condition.

    `expected` are strings on the server and the values they must hold; empty: not be there. The stage itself has to
    change them.
    """

    stage: Callable[[Pipeline], None]
    expected: Mapping[str, bytes]

    def __call__(self, pipe: Pipeline) -> None:
        """As the stage."""
        self.stage(pipe)


async def watch(pipe: Pipeline, expected: Mapping[str, bytes]) -> None:
    """Tie a transaction to what some strings hold: it fails should one change.

    Raises:
        WatchError: one has changed already.
    """
    untyped: Any = pipe
    await untyped.watch(*expected)
    found = await untyped.mget(list(expected))  # answered at once while watching
    if [value or b"" for value in found] != list(expected.values()):
        raise redis_errors.WatchError
    untyped.multi()
