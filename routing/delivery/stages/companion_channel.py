"""CompanionChannel: a p0 never depends on one kind of account alone."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from routing.channels import ACCOUNTS
from routing.deliveries import Delivery


class CompanionChannel:
    """Gives a p0 whose channels all go through the operator's accounts one more that does not.

    Args:
        companion: The channel to add: `webhook` where the operator has a target, else `log`.
    """

    def __init__(self, companion: str) -> None:
        self._companion = companion

    async def __call__(self, batch: Sequence[Delivery], now: float) -> int:  # noqa: ARG002 (part of the port)
        """Decides nothing."""
        for delivery in batch:
            note = delivery.notification
            if ACCOUNTS.issuperset(note.channels):
                delivery.wanted = msgspec.structs.replace(note, channels=(*note.channels, self._companion))
        return 0
