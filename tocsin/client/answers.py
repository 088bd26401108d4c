"""What the client got: answers decoded into structs, failures turned into the project's errors. Pure."""

from __future__ import annotations

import math
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import TypeVar

import msgspec
from msgspec import Struct, UnsetType

from tocsin.client.calls import Call
from tocsin.errors import (
    ConflictError,
    InvalidRecordError,
    ModelUnavailableError,
    NotFoundError,
    OverloadedError,
    RequestFailedError,
    StorageUnavailableError,
    TimedOutError,
    TocsinError,
    UnauthorizedError,
    UnreachableError,
)
from tocsin.resilience.retry import SHED_STATUSES
from tocsin.wire.lanes import Durability
from tocsin.wire.problems import Problem, RecordError

T = TypeVar("T")

PROBLEM_URN = "urn:tocsin:problem:"
EXCERPT_CHARS = 120
_REFUSED = frozenset({400, 413, 415, 422})
_WEAKEST_FIRST = (Durability.MEMORY, Durability.EVERYSEC, Durability.FSYNCED)


class Reply(Struct, frozen=True, kw_only=True):
    """An answer with a status."""

    status: int
    body: bytes = b""
    retry_after: str = ""  # the header, as it came

    @property
    def ok(self) -> bool:
        """Whether the request was carried out."""
        return 200 <= self.status < 300


class FailureKind(StrEnum):
    """Why there is no answer."""

    CONNECT = "connect"  # nothing was sent
    TIMEOUT = "timeout"  # sent, perhaps carried out
    BROKEN = "broken"  # the connection ended early; perhaps carried out


class CallFailure(Struct, frozen=True, kw_only=True):
    """No answer at all."""

    kind: FailureKind
    detail: str


Outcome = Reply | CallFailure


def decode(call: Call, outcome: Outcome, kind: type[T], *, url: str, now: float) -> T:
    """The answer as `kind`.

    Raises:
        TocsinError: the class that fits the failure; an answer of another shape is `RequestFailedError`.
    """
    if not isinstance(outcome, Reply) or not outcome.ok:
        raise failure_error(call, outcome, url=url, now=now)
    try:
        return msgspec.json.decode(outcome.body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise unexpected_answer(call, outcome.status, str(error)) from error


def unexpected_answer(call: Call, status: int, detail: str) -> RequestFailedError:
    """A success that says something else than agreed."""
    return RequestFailedError(
        f"{call.name} answered {status} with something unexpected: {detail}",
        status=status,
        hint="check that the URL is a Tocsin platform of this client's version",
    )


def failure_error(call: Call, outcome: Outcome, *, url: str, now: float) -> TocsinError:
    """The error that fits an outcome other than success.

    Args:
        call: what was asked.
        outcome: what came of it.
        url: the platform's address, for messages.
        now: seconds since the epoch, for a Retry-After that is a date.
    """
    if isinstance(outcome, CallFailure):
        return _silence_error(call, outcome, url)
    problem = decode_problem(outcome)
    if problem is None:
        return _bare_error(call, outcome, url, now)
    return _problem_error(problem, outcome, now)


def decode_problem(reply: Reply) -> Problem | None:
    """The problem detail in a reply, if it holds one."""
    try:
        return msgspec.json.decode(reply.body, type=Problem)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def refused_records(outcome: Outcome) -> list[RecordError] | None:
    """The errors of a request whose every record was bad; None when it failed in another way."""
    if not isinstance(outcome, Reply) or outcome.status not in _REFUSED:
        return None
    problem = decode_problem(outcome)
    return problem.errors or None if problem and not isinstance(problem.errors, UnsetType) else None


def retry_after_s(header: str, now: float) -> float | None:
    """Seconds a Retry-After asks for, from its number or its HTTP date; None when it says neither."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            moment = parsedate_to_datetime(header)
        except (ValueError, TypeError, OverflowError):
            return None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def weakest(durabilities: list[Durability]) -> Durability:
    """What holds for all of several writes; without a write, nothing is promised."""
    return min(durabilities, key=_WEAKEST_FIRST.index, default=Durability.MEMORY)


# --------------------------------------------------------------------------- one error a failure


def _silence_error(call: Call, failure: CallFailure, url: str) -> TocsinError:
    if failure.kind is FailureKind.TIMEOUT:
        return TimedOutError(
            f"{call.name} got no answer from {url} in time",
            hint="raise timeout_s, or look at the platform's load",
        )
    if failure.kind is FailureKind.CONNECT:
        return UnreachableError(f"cannot reach {url} ({failure.detail})", hint="is `tocsin up` running?")
    return UnreachableError(
        f"{url} ended the connection before it answered {call.name} ({failure.detail})",
        hint="is this a Tocsin platform, and is it still running?",
    )


def _problem_error(problem: Problem, reply: Reply, now: float) -> TocsinError:
    message, hint = problem.detail or problem.title, _text(problem.hint)
    code = problem.type.removeprefix(PROBLEM_URN)
    wait_s = retry_after_s(reply.retry_after, now)
    if reply.status in _REFUSED:
        first = problem.errors[0] if problem.errors else None
        return InvalidRecordError(
            first.detail if first else message,
            field=_text(problem.field) or (first.field if first else ""),
            limit=_text(problem.limit) or (first.limit if first else ""),
            hint=hint,
        )
    if code == StorageUnavailableError.code:
        return StorageUnavailableError(message, retry_after_s=1.0 if wait_s is None else wait_s, hint=hint)
    if code == ModelUnavailableError.code:
        return ModelUnavailableError(message, hint=hint)
    return _status_error(reply.status, message, hint, wait_s)


def _bare_error(call: Call, reply: Reply, url: str, now: float) -> TocsinError:
    """For bodies that no Tocsin platform wrote: a proxy's page, or another server's."""
    excerpt = " ".join(reply.body[: 4 * EXCERPT_CHARS].decode("utf-8", "replace").split())[:EXCERPT_CHARS]
    message = f"{call.name} answered {reply.status}" + (f": {excerpt}" if excerpt else " with an empty body")
    if reply.status in _REFUSED:
        return InvalidRecordError(message)
    if reply.status in {502, 503}:
        return UnreachableError(
            f"no server behind {url} ({reply.status})", hint="is the platform still starting?"
        )
    hint = f"is {url} a Tocsin platform?" if 300 <= reply.status < 500 else ""
    return _status_error(reply.status, message, hint, retry_after_s(reply.retry_after, now))


def _status_error(status: int, message: str, hint: str, wait_s: float | None) -> TocsinError:
    simple: dict[int, type[TocsinError]] = {
        401: UnauthorizedError,
        403: UnauthorizedError,
        404: NotFoundError,
        408: TimedOutError,
        409: ConflictError,
        502: UnreachableError,
        504: TimedOutError,
    }
    if status in simple:
        return simple[status](message, hint=hint)
    if status in SHED_STATUSES:
        return OverloadedError(message, retry_after_s=1.0 if wait_s is None else wait_s, hint=hint)
    return RequestFailedError(message, status=status, hint=hint)


def _text(value: str | UnsetType) -> str:
    return "" if isinstance(value, UnsetType) else value
