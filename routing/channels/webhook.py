"""The `webhook` channel: one HTTP POST a notification.

The body is JSON; the headers follow the Standard Webhooks names (`webhook-id` is the notification's id, the same
on every try, so a receiver can drop repeats). Redirects are not followed. A target named by a notification must
be a public address unless the operator allows private ones: anybody who may send could otherwise make the
platform call its own network.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx2
import msgspec

from routing.channels import Deliverable, Failure, FailureReason
from tocsin.clock import Clock, to_datetime
from tocsin.schemas import Attempt, Notification

log = logging.getLogger(__name__)

RETRYABLE_STATUSES = frozenset({408, 425, 429})
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class WebhookPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Where to send and for how long to wait."""

    default_url: str = ""  # the operator's own target; may be private
    timeout_s: float = 5.0
    allow_private: bool = False
    max_connections: int = 32


class WebhookChannel:
    """Posts notifications with a deadline over pooled connections."""

    name = "webhook"

    def __init__(
        self, policy: WebhookPolicy, clock: Clock, *, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._slots = asyncio.Semaphore(policy.max_connections)
        self._client = httpx2.AsyncClient(
            timeout=policy.timeout_s,
            limits=httpx2.Limits(max_connections=policy.max_connections),
            follow_redirects=False,
            trust_env=False,  # a proxy from the environment would dodge the address check
            transport=transport,
        )

    async def deliver(self, batch: Sequence[Deliverable]) -> Sequence[Attempt]:
        """One POST each within the deadline, as many at once as there are connections; any 2xx is a delivery."""
        if len(batch) == 1:
            return [await self._timed(batch[0])]
        return await asyncio.gather(*(self._timed(item) for item in batch))

    async def _timed(self, item: Deliverable) -> Attempt:
        at, started = self._clock.now(), self._clock.monotonic()
        try:
            failure = await self.attempt(item.id, item.notification)
        except Exception as error:  # one call's fault must not make the rest of the batch look failed
            log.exception("the call for %s failed", item.id)
            failure = Failure(FailureReason.INTERNAL, f"{type(error).__name__} in the channel")
        took_ms = round((self._clock.monotonic() - started) * 1000, 3)
        if failure is not None:
            return failure.attempt(self.name, at, took_ms)
        return Attempt(at, self.name, ok=True, duration_ms=took_ms)

    async def attempt(self, notification_id: str, notification: Notification) -> Failure | None:
        """One POST; None when it was delivered."""
        url = notification.webhook_url or self._policy.default_url
        if not url:
            return Failure(FailureReason.NOT_CONFIGURED, "no webhook_url and no TOCSIN_WEBHOOK_URL")
        # The deadline begins with the call: waiting for a free connection is not the target's fault.
        async with self._slots:
            return await self._call(url, notification_id, notification)

    async def _call(self, url: str, notification_id: str, notification: Notification) -> Failure | None:
        try:
            async with asyncio.timeout(self._policy.timeout_s):
                if notification.webhook_url and not self._policy.allow_private:
                    refused = await check_public(url)
                    if refused is not None:
                        return refused
                return await self._post(url, notification_id, notification)
        except (TimeoutError, httpx2.TimeoutException):
            return Failure(FailureReason.TIMEOUT, f"no answer within {self._policy.timeout_s:g} s")
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, ValueError) as error:  # bad port, host, label
            return Failure(FailureReason.FORBIDDEN_TARGET, f"not a usable URL: {error}")
        except httpx2.HTTPError as error:
            return Failure(FailureReason.UNREACHABLE, f"{type(error).__name__}: {error}"[:300])

    async def _post(self, url: str, notification_id: str, notification: Notification) -> Failure | None:
        headers = {
            "content-type": "application/json",
            "user-agent": "tocsin",
            "webhook-id": notification_id,
            "webhook-timestamp": str(int(self._clock.now())),
        }
        if notification.traceparent:
            headers["traceparent"] = notification.traceparent
        async with self._client.stream(
            "POST", url, content=payload(notification_id, notification), headers=headers
        ) as answer:
            status = answer.status_code
        if 200 <= status < 300:
            return None
        final = status < 500 and status not in RETRYABLE_STATUSES
        reason = FailureReason.REFUSED if final else FailureReason.TARGET_ERROR
        return Failure(reason, f"the target answered {status}")

    async def close(self) -> None:
        """Close the pooled connections."""
        await self._client.aclose()


def payload(notification_id: str, notification: Notification) -> bytes:
    """The body a receiver gets."""
    return msgspec.json.encode(
        {
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
    )


async def check_public(url: str) -> Failure | None:
    """Why `url` must not be called: not HTTP, or a name that leads to an address that is not public."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return Failure(FailureReason.FORBIDDEN_TARGET, "a webhook URL is http:// or https:// with a host")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            parts.hostname, parts.port or 443, type=socket.SOCK_STREAM
        )
    except OSError as error:
        return Failure(
            FailureReason.UNREACHABLE, f"cannot resolve {parts.hostname}: {error.strerror or error}"
        )
    for *_, address in found:
        if not is_public(str(address[0]).partition("%")[0]):
            return Failure(
                FailureReason.FORBIDDEN_TARGET,
                f"{parts.hostname} is not a public address; TOCSIN_WEBHOOK_ALLOW_PRIVATE=true allows it",
            )
    return None


def is_public(address: str) -> bool:
    """Whether an address is a public unicast one, also by the IPv4 address a transition prefix may carry."""
    ip = ipaddress.ip_address(address)
    if not ip.is_global or ip.is_multicast:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        carried = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            carried = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        return carried is None or is_public(str(carried))
    return True
