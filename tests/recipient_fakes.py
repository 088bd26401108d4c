"""Recipients and their windows in memory: the contract of `routing.recipients`, no server."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from routing.deliveries import Delivery
from routing.recipients.windows import WINDOW_S, WindowRequest
from tests.fakes import START
from tocsin.clock import to_datetime
from tocsin.wire.notifications import Attempt, Envelope, Notification
from tocsin.wire.recipients import Recipient, RecipientRequest


class MemoryProfiles:
    """What each recipient wants; `fault` is raised by the next looks."""

    def __init__(self, *recipients: Recipient) -> None:
        self.kept = {one.id: one for one in recipients}
        self.looks: list[list[str]] = []
        self.fault: Exception | None = None

    async def get_many(self, recipient_ids: Sequence[str]) -> list[Recipient | None]:
        self.looks.append(sorted(recipient_ids))
        if self.fault is not None:
            raise self.fault
        return [self.kept.get(one) for one in recipient_ids]

    async def put(self, recipient: Recipient) -> None:
        self.kept[recipient.id] = recipient

    async def delete(self, recipient_id: str) -> bool:
        return self.kept.pop(recipient_id, None) is not None

    async def page(self, *, after: str, limit: int) -> tuple[int, list[Recipient], str]:
        ids = sorted((one for one in self.kept if one.encode() > after.encode()), key=str.encode)
        found = [self.kept[one] for one in ids[:limit]]
        return len(self.kept), found, found[-1].id if len(ids) > limit else ""


class MemoryWindows:
    """The ids let through to each recipient, by time; `fault` is raised instead of counting."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self._let_in: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)

    async def admit(self, lane: str, requests: Sequence[WindowRequest], now: float) -> set[str]:
        if self.fault is not None:
            raise self.fault
        answer: set[str] = set()
        for wish in requests:
            window = self._let_in[lane, wish.recipient_id]
            for one in [one for one, at in window.items() if at <= now - WINDOW_S]:
                del window[one]
            for one in wish.ids:
                if one in window or len(window) < wish.limit:
                    window.setdefault(one, now)
                    answer.add(one)
        return answer


def recipient(id_: str = "r", request: RecipientRequest | None = None) -> Recipient:
    """A recipient that is kept."""
    wanted = request or RecipientRequest()
    given = {name: getattr(wanted, name) for name in RecipientRequest.__struct_fields__}
    return Recipient(id=id_, updated_at=to_datetime(START), **given)


def delivery(
    id_: str = "p2-0-1-0-0",
    *,
    to: str = "r",
    type_: str = "reminder",
    alert_type: str = "",
    source: str = "s",
    channels: tuple[str, ...] = ("log",),
    webhook_url: str = "",
    expires_at: float = 0.0,
    attempts: tuple[Attempt, ...] = (),
) -> Delivery:
    """A notification at the beginning of the pipeline."""
    note = Notification(
        type_, "t", to, alert_type, "", "", source, channels, webhook_url, expires_at, "", {}, START
    )
    return Delivery(id_, Envelope(note, "", attempts))
