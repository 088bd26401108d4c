"""One request to an outside service: a deadline, a breaker, an answer of bounded size and checked shape.

Every failure has a `LookupReason`: the caller goes on without the answer and must report why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

import httpx2
import msgspec

from tocsin.errors import InvalidRecordError, TocsinError
from tocsin.resilience.breaker import Breaker, BreakerOpenError
from tocsin.resilience.retry import RETRYABLE_STATUSES

T = TypeVar("T")

MAX_ANSWER_BYTES = 65_536


class LookupReason(StrEnum):
    """Why there is no answer."""

    NOT_CONFIGURED = "not_configured"
    BREAKER_OPEN = "breaker_open"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    SERVICE_ERROR = "service_error"
    REFUSED = "refused"  # our request is wrong; says nothing about the service's health
    MALFORMED = "malformed"


class LookupFailedError(TocsinError):
    """A service has no answer for us."""

    code = "lookup-failed"
    retryable = True

    def __init__(self, reason: LookupReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class _RefusedError(InvalidRecordError):
    """A 4xx: of the class that never opens a breaker."""


class Lookup:
    """Asks one service.

    Args:
        url: Of the service; empty: there is none.
        http: Pooled connections; follows no redirects.
        breaker: The service's.
        deadline_s: For connecting, asking and reading together.
    """

    def __init__(self, url: str, http: httpx2.AsyncClient, breaker: Breaker, *, deadline_s: float) -> None:
        self._url = url
        self._http = http
        self._breaker = breaker
        self._deadline_s = deadline_s

    async def ask(
        self, method: str, answer: type[T], *, params: Mapping[str, str] | None = None, body: Any = None
    ) -> T:
        """Ask once and check the answer against the type `answer`.

        Raises:
            LookupFailedError: there is no usable answer within the deadline; its `reason` says why.
        """
        if not self._url:
            raise LookupFailedError(LookupReason.NOT_CONFIGURED, "no such service is configured")
        try:
            return await self._breaker.call(lambda: self._bounded(method, answer, params, body))
        except BreakerOpenError as error:
            raise LookupFailedError(LookupReason.BREAKER_OPEN, error.message) from None
        except _RefusedError as error:
            raise LookupFailedError(LookupReason.REFUSED, error.message) from None

    async def _bounded(self, method: str, answer: type[T], params: Mapping[str, str] | None, body: Any) -> T:
        try:
            async with asyncio.timeout(self._deadline_s):
                raw = await self._fetch(method, params, body)
        except (TimeoutError, httpx2.TimeoutException):
            raise LookupFailedError(
                LookupReason.TIMEOUT, f"no answer within {self._deadline_s * 1000:.0f} ms"
            ) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise LookupFailedError(LookupReason.UNREACHABLE, f"{type(error).__name__}") from None
        try:
            return msgspec.json.decode(raw, type=answer)
        except msgspec.MsgspecError as error:
            raise LookupFailedError(LookupReason.MALFORMED, f"not an answer: {error}") from None

    async def _fetch(self, method: str, params: Mapping[str, str] | None, body: Any) -> bytes:
        headers = {"accept": "application/json", "cache-control": "no-store", "user-agent": "tocsin"}
        content = None
        if body is not None:
            headers["content-type"] = "application/json"
            content = msgspec.json.encode(body)
        async with self._http.stream(
            method, self._url, params=params, content=content, headers=headers
        ) as answer:
            status = answer.status_code
            if 400 <= status < 500 and status not in RETRYABLE_STATUSES:
                raise _RefusedError(f"the service refused the question with {status}")
            if status != 200:
                raise LookupFailedError(LookupReason.SERVICE_ERROR, f"the service answered {status}")
            raw = b""
            async for chunk in answer.aiter_bytes():
                raw += chunk
                if len(raw) > MAX_ANSWER_BYTES:
                    raise LookupFailedError(
                        LookupReason.MALFORMED, f"an answer of more than {MAX_ANSWER_BYTES} bytes"
                    )
            return raw
