"""Where the client meets httpx2: what it connects to and with what, calls and outcomes in its terms."""

from __future__ import annotations

import math
import os
from typing import TypedDict

import httpx2

import tocsin
from tocsin.client.answers import CallFailure, FailureKind, Reply
from tocsin.client.calls import Call
from tocsin.errors import ConfigurationError
from tocsin.secrets import read_secret
from tocsin.wire.limits import MAX_BATCH_RECORDS

DEFAULT_URL = "http://127.0.0.1:8000"
URL_VARIABLE = "TOCSIN_URL"
KEY_VARIABLE = "TOCSIN_API_KEY"


class RequestParts(TypedDict):
    """What httpx2 needs besides the method and the path."""

    params: dict[str, str] | None
    content: bytes | None
    headers: dict[str, str]


def platform_url(given: str | None) -> str:
    """The platform's address: the one given, else from the environment, else the local one.

    Raises:
        ConfigurationError: it is not an HTTP address, or holds a user name or password.
    """
    text = (given or os.environ.get(URL_VARIABLE) or DEFAULT_URL).strip()
    hint = f"for instance {DEFAULT_URL}"
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL as error:
        raise ConfigurationError(f"the platform's URL cannot be read: {error}", hint=hint) from error
    if url.userinfo:
        raise ConfigurationError(
            "the platform's URL holds a user name or password",
            hint=f"leave them out, and give the API key as api_key or {KEY_VARIABLE}",
        )
    if url.scheme not in {"http", "https"} or not url.host or url.query or url.fragment:
        raise ConfigurationError(f"the platform's URL is not an HTTP address: {text}", hint=hint)
    return text.rstrip("/")


def request_headers(api_key: str | None) -> dict[str, str]:
    """Headers of every request.

    Raises:
        ConfigurationError: the key cannot travel in a header, or its file cannot be read. The message does not show it.
    """
    headers = {"Accept": "application/json", "User-Agent": f"tocsin-python/{tocsin.__version__}"}
    key = (read_secret(KEY_VARIABLE, os.environ) if api_key is None else api_key).strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError("the API key holds characters other than printable ASCII")
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return headers


def check_limits(timeout_s: float, retries: int, max_batch: int, retry_total_s: float) -> None:
    """Raise ConfigurationError for the first that is out of range."""
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise ConfigurationError(f"timeout_s must be above 0, not {timeout_s}")
    if retries < 0:
        raise ConfigurationError(f"retries must be 0 or more, not {retries}")
    if not 1 <= max_batch <= MAX_BATCH_RECORDS:
        raise ConfigurationError(f"max_batch must be between 1 and {MAX_BATCH_RECORDS}, not {max_batch}")
    if not retry_total_s >= 0:
        raise ConfigurationError(f"retry_total_s must be 0 or more, not {retry_total_s}")


def request_parts(call: Call) -> RequestParts:
    """A call as arguments of `httpx2.Client.request`."""
    headers = {}
    if call.body:
        headers["Content-Type"] = "application/json"
    if call.key:
        headers["Idempotency-Key"] = call.key
    return RequestParts(params=call.params or None, content=call.body or None, headers=headers)


def reply(response: httpx2.Response) -> Reply:
    """A response, reduced to what decides."""
    return Reply(
        status=response.status_code,
        body=response.content,
        retry_after=response.headers.get("Retry-After", ""),
    )


def failure(error: httpx2.RequestError) -> CallFailure:
    """Why there was no response."""
    if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout)):
        kind = FailureKind.CONNECT
    elif isinstance(error, httpx2.TimeoutException):
        kind = FailureKind.TIMEOUT
    else:
        kind = FailureKind.BROKEN
    return CallFailure(kind=kind, detail=str(error) or type(error).__name__)
