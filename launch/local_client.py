"""Talking to the platform that the settings describe."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import msgspec

from tocsin.client import Client
from tocsin.errors import RequestFailedError, TimedOutError, UnreachableError
from tocsin.settings import Settings

TIMEOUT_S = 5.0
SETTLE_DEADLINE_S = 300.0
POLL_S = 0.2
PATIENCE_S = 30.0


def client_of(settings: Settings) -> Client:
    """A client of the platform these settings describe."""
    return Client(settings.base_url, settings.api_key or None, timeout_s=30.0)


def fetch(settings: Settings, path: str = "/v1/status") -> dict[str, Any]:
    """One of the platform's own answers as a dictionary.

    Raises:
        UnreachableError: it is not up.
        RequestFailedError: it answered with an error.
    """
    headers = {"authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    try:
        answer = httpx2.get(settings.base_url + path, headers=headers, timeout=TIMEOUT_S, trust_env=False)
    except httpx2.HTTPError as error:
        raise UnreachableError(
            f"nothing answers at {settings.base_url}: {error}", hint="start it with `tocsin up`"
        ) from None
    try:
        body: dict[str, Any] = msgspec.json.decode(answer.content)
    except msgspec.MsgspecError:
        body = {}
    if answer.status_code != 200 and "checks" not in body:
        raise RequestFailedError(
            f"{path} answered {answer.status_code}: {body.get('detail', 'no detail')}",
            status=answer.status_code,
        )
    return body


def lane_counts(settings: Settings, lane: str) -> dict[str, int]:
    """The totals of one lane.

    Raises:
        TocsinError: the platform does not answer.
    """
    found: dict[str, int] = next(
        item["counts"] for item in _status(settings)["lanes"] if item["lane"] == lane
    )
    return found


def await_lane(settings: Settings, *lanes: str) -> None:
    """Wait until nothing waits, is pending or is to be tried again in these lanes.

    Raises:
        TimedOutError: something still waits after five minutes.
    """
    deadline = time.monotonic() + SETTLE_DEADLINE_S
    while time.monotonic() < deadline:
        waiting = [
            item
            for item in _status(settings)["lanes"]
            if item["lane"] in lanes
            and item["blocks_waiting"] + item["blocks_pending"] + item["retrying"] > 0
        ]
        if not waiting:
            return
        time.sleep(POLL_S)
    raise TimedOutError(f"work still waits in {', '.join(lanes)} after {SETTLE_DEADLINE_S:g} s")


def _status(settings: Settings) -> dict[str, Any]:
    """The platform's status; waits while storage is busy, or half an import would be reported as none."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return fetch(settings)
        except RequestFailedError as error:
            if error.status != 503 or time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)
