"""From a request to records of a lane: checked, classified, stamped."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from routing.intake.priority import Classifier
from tocsin.clock import to_datetime, to_epoch
from tocsin.errors import InvalidRecordError
from tocsin.streams.records import Placement, Record, partition_of
from tocsin.wire.lanes import Durability, LaneName
from tocsin.wire.limits import MAX_EXPIRY_S, URL_PATTERN
from tocsin.wire.masking import masked_url
from tocsin.wire.notifications import (
    PLATFORM_SOURCE,
    Envelope,
    Notification,
    NotificationRequest,
    Receipt,
)

_encode = msgspec.msgpack.Encoder().encode
_URL = re.compile(URL_PATTERN.removesuffix("$") + r"\Z")


def check_notification(request: NotificationRequest, now: float) -> None:
    """The rules about time, addresses and the platform's own name.

    Raises:
        InvalidRecordError: names the field and the limit.
    """
    if request.source.strip().casefold() == PLATFORM_SOURCE:
        raise InvalidRecordError(
            f"`source` {PLATFORM_SOURCE!r} is the platform's own", field="source", limit="a name of yours"
        )
    if request.expires_at is not None and to_epoch(request.expires_at) <= 0:  # 0 travels as "never"
        raise InvalidRecordError(
            "`expires_at` is too long ago", field="expires_at", limit="> 1970-01-01T00:00:00Z"
        )
    if request.expires_at is not None and to_epoch(request.expires_at) > now + MAX_EXPIRY_S:
        raise InvalidRecordError(
            "`expires_at` is too far ahead",
            field="expires_at",
            limit=f"<= {MAX_EXPIRY_S / 86_400:.0f} days from now",
        )
    check_webhook_url(request.webhook_url)


def check_webhook_url(url: str | None) -> None:
    """Whether a URL is one that can be posted to; None is no URL.

    Raises:
        InvalidRecordError: it is not.
    """
    if url is not None and not _URL.match(url):
        raise InvalidRecordError(
            "`webhook_url` is not an http:// or https:// URL",
            field="webhook_url",
            limit="http:// or https://",
        )


class Accepted(msgspec.Struct, frozen=True):
    """One record bound for a lane, with its index in the request."""

    index: int
    lane: LaneName
    record: Record


class Intake:
    """Turns requests into lane records.

    Args:
        classifier: The priority rules.
        partitions: How many partitions each lane has.
    """

    def __init__(self, classifier: Classifier, partitions: dict[LaneName, int]) -> None:
        self._classifier = classifier
        self._partitions = partitions

    def admit(
        self, requests: Sequence[tuple[int, NotificationRequest]], *, now: float, traceparent: str = ""
    ) -> list[Accepted]:
        """Classify and encode; the order is kept."""
        return [self._one(index, request, now, traceparent) for index, request in requests]

    def _one(self, index: int, request: NotificationRequest, now: float, traceparent: str) -> Accepted:
        lane = self._classifier.lane(
            request.type, request.alert_type, request.severity, request.title, request.priority
        )
        body = _encode(Envelope(to_notification(request, now=now, traceparent=traceparent)))
        partition = partition_of(request.recipient, self._partitions[lane])
        return Accepted(index, lane, Record(partition, body, request.dedup_key or ""))


def receipt_of(item: Accepted, placement: Placement, *, now: float, durability: Durability) -> Receipt:
    """The promise for one record that was stored at `now` (epoch seconds)."""
    return Receipt(
        index=item.index,
        id=placement.id,
        lane=item.lane,
        accepted_at=to_datetime(now),
        durability=durability,
        duplicate=placement.duplicate,
    )


def to_notification(request: NotificationRequest, *, now: float, traceparent: str) -> Notification:
    """A request as it travels."""
    return Notification(
        type=request.type,
        title=request.title,
        recipient=request.recipient,
        alert_type=request.alert_type,
        severity=request.severity,
        body=request.body,
        source=request.source,
        channels=tuple(dict.fromkeys(request.channels)),
        webhook_url=request.webhook_url or "",
        expires_at=to_epoch(request.expires_at) if request.expires_at else 0.0,
        dedup_key=request.dedup_key or "",
        data=request.data,
        accepted_at=now,
        traceparent=traceparent,
        priority=request.priority,
    )


def to_request(notification: Notification) -> NotificationRequest:
    """The original, as it was sent."""
    return NotificationRequest(
        type=notification.type,
        title=notification.title,
        recipient=notification.recipient,
        alert_type=notification.alert_type,
        severity=notification.severity,  # type: ignore[arg-type]  # was checked when it came in
        body=notification.body,
        source=notification.source,
        channels=notification.channels,  # type: ignore[arg-type]  # as above
        webhook_url=notification.webhook_url or None,
        expires_at=to_datetime(notification.expires_at) if notification.expires_at else None,
        dedup_key=notification.dedup_key or None,
        data=notification.data,
        priority=notification.priority,  # type: ignore[arg-type]  # as above
    )


def shown_request(notification: Notification) -> NotificationRequest:
    """The original for people: its webhook's URL may hold a token, so they see the host alone."""
    request = to_request(notification)
    url = request.webhook_url
    return request if url is None else msgspec.structs.replace(request, webhook_url=masked_url(url))
