"""Commands are packed in C: a patch of redis-py's connection classes, and so of parts it does not document.

A failure here after an upgrade of redis-py names what the upgrade changed; `_QuickPacking` in
`tocsin/storage/connect.py` then has to follow, or to go.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from redis import exceptions as redis_errors
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

from tocsin.storage.connect import _quick, connect

COMMANDS: list[tuple[Any, ...]] = [
    ("PING",),
    ("CONFIG GET", "appendfsync"),  # two words that redis-py sends apart
    (b"SET", "key", b"\x00\xff\r\n"),
    ("ZADD", "key", 1.5, "member"),
    ("ZADD", "key", 1_732_430_000.123456, "member"),
    ("EXPIRE", "key", 86_400),
    ("SET", "ключ", "żółć"),
    ("SET", "key", b""),
    ("SET", "key", b"x" * 100_000),
]


@pytest.mark.parametrize("driver", [Connection, SSLConnection, UnixDomainSocketConnection])
def test_redis_py_still_packs_where_the_patch_replaces_it(driver: type) -> None:
    for name, parameter in (("pack_command", "args"), ("pack_commands", "commands")):
        method = getattr(driver, name, None)
        assert method is not None, (
            f"redis-py's {driver.__name__} has no {name} any more: the patch does nothing"
        )
        assert list(inspect.signature(method).parameters) == ["self", parameter], (
            f"redis-py calls {name} with other arguments: the patch has to take them"
        )


@pytest.mark.parametrize("url", ["redis://localhost:1", "rediss://localhost:1", "unix:///nowhere"])
def test_a_pool_still_makes_connections_of_the_class_that_is_set(url: str) -> None:
    pool: Any = connect(url, timeout_s=1.0).connection_pool
    connection = pool.make_connection()
    assert type(connection).__mro__[1].__name__ == "_QuickPacking", (
        "redis-py's pool no longer makes connections from `connection_class`: they pack in Python again"
    )


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command[0]}-{len(str(command))}")
def test_the_bytes_are_those_redis_py_would_send(command: tuple[Any, ...]) -> None:
    theirs, ours = Connection(), _quick(Connection)()
    text = "redis-py sends other bytes for this command than hiredis packs"
    assert b"".join(ours.pack_command(*command)) == b"".join(theirs.pack_command(*command)), text
    assert b"".join(ours.pack_commands([command] * 3)) == b"".join(theirs.pack_commands([command] * 3)), text


def test_what_cannot_be_sent_is_redis_pys_error() -> None:
    connections: list[Any] = [Connection(), _quick(Connection)()]
    for connection in connections:
        with pytest.raises(redis_errors.DataError):
            connection.pack_command("SET", "key", None)
