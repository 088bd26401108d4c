"""The `webhook` channel: an HTTP POST, signed as Standard Webhooks has it.

A p0 or p1 is one call with the notification as a JSON object; p2 go as `{"notifications": [...]}`, up to
`batch_records` for the same target in one call. `webhook-id` is the same on every try of the same content and each
notification carries its own id, so a receiver can drop repeats. Redirects are not followed. A target that answers
"not now" with `Retry-After` is not called again before, within `max_retry_after_s`; the others are.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec

from routing.channels import Deliverable, Failure, FailureReason
from routing.channels.addresses import public_address
from tocsin.clock import Clock, to_datetime
from tocsin.errors import ConfigurationError
from tocsin.resilience.retry import RETRYABLE_STATUSES
from tocsin.wire.notifications import Notification

MAX_LEFT_ALONE = 1024  # targets whose `Retry-After` is remembered
SECRET_PREFIX = "whsec_"  # noqa: S105 (the prefix, not a secret)
_SECONDS = re.compile(r"[0-9]+")
_encode = msgspec.json.Encoder().encode


class WebhookPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Where to send, how, and for how long to wait."""

    url: str = ""  # the operator's own target; may be private
    serves_named: bool = True  # also calls the targets that notifications name
    timeout_s: float = 5.0
    allow_private: bool = False
    max_connections: int = 32
    secret: str = ""  # `whsec_` and base64; empty: calls are not signed
    batch_records: int = 0  # 0: a call each
    max_retry_after_s: float = (
        900.0  # a target that wants to be left alone for longer is called after so long
    )

    def __repr__(self) -> str:
        return f"WebhookPolicy(configured={bool(self.url)}, {self.timeout_s:g} s, signed={bool(self.secret)})"


class WebhookProvider:
    """Posts notifications with a deadline over pooled connections; any 2xx is a delivery.

    Args:
        policy: Where and how.
        clock: For the time in the signature.
        name: Unique among the providers of a lane.
        transport: In place of the network, for tests.

    Raises:
        ConfigurationError: the secret is not base64.
    """

    def __init__(
        self,
        policy: WebhookPolicy,
        clock: Clock,
        *,
        name: str = "webhook",
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = name
        self.max_calls = policy.max_connections
        self._policy = policy
        self._clock = clock
        self._key = decode_secret(policy.secret)
        self._left_alone: OrderedDict[str, float] = OrderedDict()  # until when (stopwatch, s), by URL
        self._client = _client(policy, transport, keep_alive=True)
        # By address, connections of two names would be taken for each other's: these are not kept.
        self._by_address = _client(policy, transport, keep_alive=False)

    def calls(self, batch: Sequence[Deliverable]) -> Sequence[Sequence[int]]:
        """One call each, or one for up to `batch_records` with the same target."""
        by_target: dict[str, list[int]] = {}
        for place, item in enumerate(batch):
            if self._policy.serves_named or not item.notification.webhook_url:
                by_target.setdefault(item.notification.webhook_url, []).append(place)
        size = self._policy.batch_records or 1
        return [
            places[start : start + size]
            for places in by_target.values()
            for start in range(0, len(places), size)
        ]

    def host(self, items: Sequence[Deliverable]) -> str:
        """`host:port` of a target that the notification names."""
        own = items[0].notification.webhook_url
        try:
            return urlsplit(own).netloc.rpartition("@")[2].casefold() if own else ""
        except ValueError:  # no URL; the call will say so
            return ""

    def retry_after(self, items: Sequence[Deliverable]) -> float:
        """For how many seconds their target has asked not to be called; 0: it may be."""
        url = self._url(items)
        until = self._left_alone.get(url)
        if until is None:
            return 0.0
        left_s = until - self._clock.monotonic()
        if left_s <= 0:
            del self._left_alone[url]
        return max(0.0, left_s)

    def _url(self, items: Sequence[Deliverable]) -> str:
        return items[0].notification.webhook_url or self._policy.url

    def _leave_alone(self, url: str, answer: httpx2.Response) -> None:
        wait_s = min(retry_after_s(answer.headers, self._clock.now()), self._policy.max_retry_after_s)
        if wait_s <= 0:
            return
        self._left_alone[url] = self._clock.monotonic() + wait_s
        self._left_alone.move_to_end(url)
        while len(self._left_alone) > MAX_LEFT_ALONE:
            self._left_alone.popitem(last=False)

    async def call(self, items: Sequence[Deliverable]) -> Failure | None:
        """One call; None when it was delivered."""
        own = items[0].notification.webhook_url
        url = self._url(items)
        if not url:
            return Failure(FailureReason.NOT_CONFIGURED, "no webhook_url and no TOCSIN_WEBHOOK_URL")
        try:
            async with asyncio.timeout(self._policy.timeout_s):
                address = ""
                if own and not self._policy.allow_private:
                    found = await public_address(url)
                    if isinstance(found, Failure):
                        return found
                    address = found
                return await self._post(url, address, items)
        except (TimeoutError, httpx2.TimeoutException):
            return Failure(FailureReason.TIMEOUT, f"no answer within {self._policy.timeout_s:g} s")
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, ValueError):
            # What the library says of it may show a part of it, and that part may be a secret.
            return Failure(
                FailureReason.FORBIDDEN_TARGET, "not a usable URL: its port, host or scheme is wrong"
            )
        except httpx2.HTTPError as error:
            return Failure(FailureReason.UNREACHABLE, f"{type(error).__name__}: {error}"[:300])

    async def _post(self, url: str, address: str, items: Sequence[Deliverable]) -> Failure | None:
        message_id, body = self._message(items)
        headers = self._headers(message_id, body, items)
        client, target, extensions = self._client, httpx2.URL(url), {}
        if address:  # the address that was checked, under the name in the URL
            headers["host"] = target.netloc.decode("ascii").rpartition("@")[2]
            extensions = {"sni_hostname": target.host}
            client, target = self._by_address, target.copy_with(host=address)
        async with client.stream(
            "POST", target, content=body, headers=headers, extensions=extensions
        ) as answer:
            status = answer.status_code
        if 200 <= status < 300:
            return None
        if status < 500 and status not in RETRYABLE_STATUSES:
            return Failure(FailureReason.REFUSED, f"the target answered {status}")
        self._leave_alone(url, answer)
        return Failure(FailureReason.TARGET_ERROR, f"the target answered {status}")

    def _message(self, items: Sequence[Deliverable]) -> tuple[str, bytes]:
        """The id and the body of one call."""
        if not self._policy.batch_records:
            return items[0].id, _encode(payload(items[0].id, items[0].notification))
        ids = "\n".join(item.id for item in items)
        message_id = f"batch-{hashlib.blake2b(ids.encode(), digest_size=16).hexdigest()}"
        return message_id, _encode({"notifications": [payload(item.id, item.notification) for item in items]})

    def _headers(self, message_id: str, body: bytes, items: Sequence[Deliverable]) -> dict[str, str]:
        timestamp = str(int(self._clock.now()))
        headers = {
            "content-type": "application/json",
            "user-agent": "tocsin",
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
        }
        if self._key:
            headers["webhook-signature"] = sign(self._key, message_id, timestamp, body)
        if len(items) == 1 and items[0].notification.traceparent:
            headers["traceparent"] = items[0].notification.traceparent
        return headers

    async def close(self) -> None:
        """Close the pooled connections."""
        await self._client.aclose()
        await self._by_address.aclose()


def _client(
    policy: WebhookPolicy, transport: httpx2.AsyncBaseTransport | None, *, keep_alive: bool
) -> httpx2.AsyncClient:
    most = policy.max_connections
    return httpx2.AsyncClient(
        timeout=policy.timeout_s,
        limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most if keep_alive else 0),
        follow_redirects=False,
        trust_env=False,  # a proxy from the environment would dodge the address check
        transport=transport,
    )


def payload(notification_id: str, notification: Notification) -> dict[str, Any]:
    """What a receiver gets of one notification."""
    return {
        "id": notification_id,
        "accepted_at": to_datetime(notification.accepted_at),
        "type": notification.type,
        "alert_type": notification.alert_type,
        "severity": notification.severity,
        "title": notification.title,
        "body": notification.body,
        "recipient": notification.recipient,
        "source": notification.source,
        "data": notification.data,
    }


def retry_after_s(headers: Mapping[str, str], now: float) -> float:
    """The seconds that `Retry-After` asks for (RFC 9110): a number of them, or a date; 0 where it says neither.

    A date is held against the answer's own `Date` where there is one: the two clocks may differ.
    """
    text = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    until = _http_date(text)
    if until is None:
        return 0.0
    answered = _http_date(headers.get("date", ""))
    return max(0.0, until - (now if answered is None else answered))


def _http_date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, OverflowError):
        return None


def decode_secret(secret: str) -> bytes:
    """The key in a `whsec_…` secret; empty for none.

    Raises:
        ConfigurationError: it is not base64, or shorter than 24 bytes.
    """
    if not secret:
        return b""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        key = b""
    if len(key) < 24:
        raise ConfigurationError("TOCSIN_WEBHOOK_SECRET is not whsec_ and base64 of at least 24 bytes")
    return key


def sign(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """The `webhook-signature` of a call (https://www.standardwebhooks.com): HMAC-SHA256 over id, time and body."""
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
