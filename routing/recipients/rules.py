"""The rules about recipients that a schema cannot state."""

from __future__ import annotations

import re
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec

from routing.channels import ACCOUNTS
from routing.channels.addresses import is_one_address
from routing.intake.intake import check_webhook_url
from tocsin.clock import to_datetime
from tocsin.errors import ContradictionError, InvalidRecordError
from tocsin.wire.masking import MASK, masked_url
from tocsin.wire.recipients import MAX_ID, Recipient, RecipientRequest

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def check_recipient(recipient_id: str, request: RecipientRequest) -> None:
    """The rules about ids, times and addresses.

    Raises:
        InvalidRecordError: names the field and the limit.
        ContradictionError: it names itself.
    """
    if not 1 <= len(recipient_id) <= MAX_ID or _CONTROL.search(recipient_id):
        raise InvalidRecordError(
            "the recipient's id cannot be used",
            field="id",
            limit=f"1 to {MAX_ID} characters, no control characters",
        )
    quiet = request.quiet_hours
    if quiet is not None and zone_of(quiet.timezone) is None:
        raise InvalidRecordError(
            f"no timezone {quiet.timezone!r}",
            field="quiet_hours.timezone",
            limit="an IANA name, e.g. Europe/Berlin",
        )
    contacts = request.fallback_contacts
    if len(set(contacts)) < len(contacts):
        raise InvalidRecordError(
            "a recipient cannot fall back twice on another", field="fallback_contacts", limit="distinct ids"
        )
    if recipient_id in contacts:
        raise ContradictionError(
            "a recipient cannot fall back on itself", field="fallback_contacts", limit="ids of others"
        )
    for name, target in request.targets.items():
        if name in ACCOUNTS and target != MASK and not is_one_address(target):
            raise InvalidRecordError(
                f"the target for {name} is not one address",
                field=f"targets.{name}",
                limit="at most 256 characters; no spaces, commas, semicolons, slashes, ?, #, % or &",
            )
    check_webhook_url(request.webhook_url)


@lru_cache(maxsize=1024)
def zone_of(name: str) -> ZoneInfo | None:
    """A timezone by its IANA name; None when there is none here."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not known, no name at all, the folder of a region
        return None


def kept(recipient_id: str, request: RecipientRequest, before: Recipient | None, *, now: float) -> Recipient:
    """The recipient to store for a request: a masked target stands for the one stored before.

    Raises:
        ContradictionError: a target or the webhook's URL is masked, and none was stored before that it could stand for.
    """
    known = before.targets if before else {}
    targets = {}
    for channel, target in request.targets.items():
        if target == MASK and channel not in known:
            raise ContradictionError(
                f"there is no target for {channel!r} to keep",
                field=f"targets.{channel}",
                limit="an address",
            )
        targets[channel] = known[channel] if target == MASK else target
    given = {name: getattr(request, name) for name in RecipientRequest.__struct_fields__}
    given |= {"targets": targets, "webhook_url": _kept_url(request, before)}
    return Recipient(**given | {"id": recipient_id, "updated_at": to_datetime(now)})


def _kept_url(request: RecipientRequest, before: Recipient | None) -> str | None:
    if request.webhook_url is None or not request.webhook_url.endswith(f"/{MASK}"):
        return request.webhook_url
    stored = before.webhook_url if before else None
    if stored is None or masked_url(stored) != request.webhook_url:
        raise ContradictionError(
            "there is no webhook URL of that host to keep",
            hint=f"send the whole `webhook_url`, without {MASK}",
        )
    return stored


def masked(recipient: Recipient) -> Recipient:
    """A recipient with its targets and the webhook's path masked: shows that there is one, not which."""
    return msgspec.structs.replace(
        recipient,
        targets=dict.fromkeys(recipient.targets, MASK),
        webhook_url=None if recipient.webhook_url is None else masked_url(recipient.webhook_url),
    )
