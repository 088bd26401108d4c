"""Child processes of a run, each with an interpreter of its own and a pipe that carries MessagePack."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

T = TypeVar("T")

JOIN_S = 15.0


def send(pipe: Connection, message: Any) -> None:
    """Send a message to the other end of a pipe.

    Raises:
        EOFError: the other end is gone.
    """
    try:
        pipe.send_bytes(msgspec.msgpack.encode(message))
    except OSError as error:
        raise EOFError("the other end of the pipe is gone") from error


def receive(pipe: Connection, kind: type[T]) -> T:
    """Wait for a message of a kind.

    Raises:
        EOFError: the other end is gone.
    """
    try:
        message = pipe.recv_bytes()
    except OSError as error:
        raise EOFError("the other end of the pipe is gone") from error
    return msgspec.msgpack.decode(message, type=kind)


class Worker:
    """A child process of its own interpreter, and a pipe to it.

    It ends when the pipe does, so it outlives neither the `with` block nor a parent that is killed.

    Args:
        target: Called in the child with its end of the pipe, then `args`; returns once the pipe is closed.
        args: Its arguments; passed when the process starts.
    """

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, *args), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid or 0

    def send(self, message: Any) -> None:
        """Send an order."""
        send(self._pipe, message)

    def receive(self, kind: type[T], *, timeout_s: float) -> T:
        """Wait for an answer.

        Raises:
            TimeoutError: none came in time.
            EOFError: the child ended; its error is on standard error.
        """
        if not self._pipe.poll(timeout_s):
            raise TimeoutError(f"process {self.pid} did not answer within {timeout_s:g} s")
        return receive(self._pipe, kind)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(JOIN_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
