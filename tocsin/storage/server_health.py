"""How a server that starts is doing: asked over its port, and read from its log once it has ended.

What a start goes through:

no answer ──► loading, so many bytes ──► answers
    └──────────────┴──► nothing new for too long: given up
"""

from __future__ import annotations

import contextlib
from typing import Final

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

ANSWER_TIMEOUT_S = 5.0  # while it loads it looks at its connections only now and then
FIRST_ANSWER_S = 60.0
STALLED_S = 120.0  # loading, and not a byte further: a disk that hangs
TELL_EVERY_S = 5.0
FULL_BYTES = 16 * 1024 * 1024  # a disk with less left cannot take an append-only file any further
_NO_SPACE: Final = ("No space left on device", "ENOSPC", "Disk quota exceeded")
_DAMAGED: Final = (
    "Bad file format reading the append only file",
    "Unexpected end of file reading the append only file",
    "Wrong signature trying to load",
    "Bad data format",
    "Internal error in RDB reading",
    "corrupted",
    "Invalid AOF manifest file format",
    "AOF file doesn't exist",
)
_NO_RETRY: Final = Retry(NoBackoff(), 0)


class Loading(msgspec.Struct, frozen=True, kw_only=True):
    """A server that reads its files: alive, and not to be disturbed."""

    loaded_bytes: int
    total_bytes: int
    eta_s: int

    def __str__(self) -> str:
        if not self.total_bytes:
            return "loading its data"
        part = min(100, 100 * self.loaded_bytes // self.total_bytes)
        return f"loading its data, {part}% of {self.total_bytes / 1e6:,.0f} MB, about {self.eta_s} s left"


def probe(port: int, password: str) -> Loading | bool:
    """Ask a server on loopback, with five seconds for each answer: True when it serves, False when nothing answers."""
    client = redis.Redis(
        port=port,
        password=password,
        socket_timeout=ANSWER_TIMEOUT_S,
        socket_connect_timeout=ANSWER_TIMEOUT_S,
        retry=_NO_RETRY,
    )
    try:
        return bool(client.ping())
    except redis.BusyLoadingError:
        return _progress(client)
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()


def _progress(client: redis.Redis) -> Loading:
    found: dict[str, object] = {}
    with contextlib.suppress(redis.RedisError, OSError):  # it said that it loads: that is enough
        found = client.info("persistence")  # answered while loading
    return Loading(
        loaded_bytes=_number(found.get("loading_loaded_bytes")),
        total_bytes=_number(found.get("loading_total_bytes")),
        eta_s=max(0, _number(found.get("loading_eta_seconds"))),
    )


def _number(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0


class StartPatience:
    """How long to wait for a server that starts: as long as it gets on.

    Args:
        now: Seconds on any steady clock, as for every `now` here.
    """

    def __init__(self, now: float) -> None:
        self._moved_at = now
        self._told_at = now
        self._loaded = -1
        self._limit_s = FIRST_ANSWER_S

    def note(self, loading: Loading, now: float) -> str:
        """Take in that it loads. Returns a line for people when one is due, else an empty one."""
        self._limit_s = STALLED_S
        if loading.loaded_bytes != self._loaded:
            self._loaded, self._moved_at = loading.loaded_bytes, now
        if now - self._told_at < TELL_EVERY_S:
            return ""
        self._told_at = now
        return str(loading)

    def is_over(self, now: float) -> bool:
        """Whether nothing new was heard for too long."""
        return now - self._moved_at > self._limit_s


class Ending(msgspec.Struct, frozen=True):
    """Why a server ended, and what to do about it; empty where its log says nothing that we know."""

    reason: str = ""
    hint: str = ""


def why_it_ended(log: str, free_bytes: int, folder: str) -> Ending:
    """Read the end of a server's log for what a person can mend.

    Args:
        log: What it wrote since it was started.
        free_bytes: What is left on its disk.
        folder: Of its files, for the hint.
    """
    if free_bytes < FULL_BYTES or any(mark in log for mark in _NO_SPACE):
        return Ending(
            f"the disk is full ({free_bytes / 1e6:,.1f} MB left for {folder})",
            f"make room (`df -h {folder}`), but delete nothing in it; then start again",
        )
    if any(mark in log for mark in _DAMAGED):
        return Ending(
            f"its append-only file in {folder}/appendonlydir is damaged",
            "`tocsin repair-storage` keeps a copy and cuts the file off at the damage; then start again",
        )
    return Ending()
