"""The id of an event that came without one."""

from __future__ import annotations

from hashlib import blake2b

_DIGEST_BYTES = 12


def derive_event_id(
    advertiser_id: str,
    event_time: float,
    amount: float,
    kind: str,
    campaign_id: str = "",
    currency: str = "",
) -> str:
    """A stable id from the fields of the event: the same event has the same id however it is sent or imported.

    24 hexadecimal digits. `event_time` is in epoch seconds. Only the two ids may hold a `|`, the first and the last
    of the text, so no two events share one.
    """
    text = f"{advertiser_id}|{float(event_time)!r}|{float(amount)!r}|{kind}"
    if campaign_id or currency:
        text += f"|{currency}|{campaign_id}"
    return blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()
