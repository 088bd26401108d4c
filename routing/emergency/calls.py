"""Emergency calls: a person needs help, and somebody must hear of it whatever else is broken.

    call ──► contacts validated within 300 ms? ──yes──────────────────────────► validated
                  │ no
                  └──► a list of this caller's is remembered? ──yes──► last_known  + as given + emergency number
                            │ no
                            └────────────────────────────────────────► as_given    + emergency number

Nothing on the way stops the call. When the contacts are uncertain, more people are told rather than fewer: the last
known ones, those the call names, and the local emergency number. The device's state is asked for at the same time.
What comes out are P0 notifications, one for each contact; storing them is the caller's part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta

from routing.emergency.device_status import DeviceStatus
from routing.emergency.lookups import Lookup, LookupFailedError, LookupReason
from tocsin.caching import Cacheable
from tocsin.wire.notifications import NotificationRequest, Receipt

CONTACTS_DEADLINE_S = 0.3
MAX_CONTACTS = 10

Contact = Annotated[str, Meta(min_length=1, max_length=256)]


class ContactsSource(StrEnum):
    """How much is known of the contacts that were told."""

    VALIDATED = "validated"
    LAST_KNOWN = "last_known"
    AS_GIVEN = "as_given"


class EmergencyCallRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A call for help. Each contact becomes the recipient of a P0 notification."""

    caller: Annotated[str, Meta(min_length=1, max_length=128, description="Who calls: an opaque id of yours")]
    kind: Literal["fire", "medical", "security", "other"]
    contacts: Annotated[
        tuple[Contact, ...], Meta(min_length=1, max_length=MAX_CONTACTS, description="Who is to be told")
    ]
    location: Annotated[str, Meta(max_length=256, examples=["Flat 4, kitchen"])] = ""
    device_id: Annotated[str, Meta(max_length=128, description="The device that raised the alarm")] = ""
    message: Annotated[str, Meta(max_length=2048)] = ""


class EmergencyCallAccepted(msgspec.Struct, frozen=True, kw_only=True):
    """The call is stored and goes out: who is told, on what grounds, and a receipt for each."""

    contacts: list[str]
    contacts_source: ContactsSource
    device_state: str  # empty: the call names no device
    degraded: bool
    degraded_reasons: list[str]
    receipts: list[Receipt]  # in the order of `contacts`


class KnownContacts(msgspec.Struct, Cacheable, frozen=True, array_like=True):
    """The contacts of a caller as they were last validated, at `at` (epoch seconds)."""

    contacts: tuple[str, ...]
    at: float


class EmergencyPlan(msgspec.Struct, frozen=True, array_like=True):
    """What a call becomes: decided once, and the same for a repeat with its idempotency key."""

    contacts: tuple[str, ...]
    source: ContactsSource
    device_state: str
    reasons: tuple[str, ...]
    validated: tuple[str, ...] = ()  # worth remembering


class ContactsDirectory(Protocol):
    """Says which contacts of a caller are good."""

    async def validate(self, call: EmergencyCallRequest) -> tuple[str, ...]:
        """Those of the call's contacts that are, in its order; raises `LookupFailedError`."""
        ...


class ContactsMemory(Protocol):
    """Remembers what was validated. Neither method raises, and neither takes long."""

    async def recall(self, caller: str) -> KnownContacts | None:
        """What is known of a caller."""
        ...

    async def remember(self, caller: str, known: KnownContacts) -> None:
        """Keep it."""
        ...


class ContactsAnswer(msgspec.Struct, frozen=True):
    """The service's answer: `{"valid": ["daughter", "neighbour"]}`; other fields are passed over."""

    valid: Annotated[tuple[Contact, ...], Meta(max_length=100)]


class ContactsClient:
    """Asks the contacts service: `POST TOCSIN_CONTACTS_URL` with caller, kind and contacts.

    Args:
        lookup: Reaches the service, with a deadline of `CONTACTS_DEADLINE_S`.
    """

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    async def validate(self, call: EmergencyCallRequest) -> tuple[str, ...]:
        """Those of the call's contacts the service vouches for, in the call's order; others it names do not count.

        Raises:
            LookupFailedError: it gave no usable answer in time.
        """
        question = {"caller": call.caller, "kind": call.kind, "contacts": call.contacts}
        answer = await self._lookup.ask("POST", ContactsAnswer, body=question)
        return tuple(contact for contact in dict.fromkeys(call.contacts) if contact in answer.valid)


class EmergencyCalls:
    """Decides who is told what.

    Args:
        directory: Validates contacts.
        memory: What was validated before.
        devices: The state of devices.
        emergency_number: Told too when the contacts are uncertain.
    """

    def __init__(
        self,
        directory: ContactsDirectory,
        memory: ContactsMemory,
        devices: DeviceStatus,
        *,
        emergency_number: str,
    ) -> None:
        self._directory = directory
        self._memory = memory
        self._devices = devices
        self._number = emergency_number

    async def plan(self, call: EmergencyCallRequest) -> EmergencyPlan:
        """Whom to tell, within the longer of the two deadlines; never fails for a service that does."""
        contacts, device = await asyncio.gather(self._contacts(call), self._device(call.device_id))
        state, reason = device
        return msgspec.structs.replace(
            contacts, device_state=state, reasons=(*contacts.reasons, *([reason] if reason else []))
        )

    async def remember(self, call: EmergencyCallRequest, plan: EmergencyPlan, now: float) -> None:
        """Keep what was validated, for the day the service is down; after the call is stored."""
        if plan.validated:
            await self._memory.remember(call.caller, KnownContacts(plan.validated, now))

    async def _contacts(self, call: EmergencyCallRequest) -> EmergencyPlan:
        try:
            valid = await self._directory.validate(call)
            if valid:
                return EmergencyPlan(valid, ContactsSource.VALIDATED, "", (), valid)
            reason = "contacts: none of them is valid"
        except LookupFailedError as error:
            reason = f"contacts: {_plain(error)}"
        known = await self._memory.recall(call.caller)
        source = ContactsSource.LAST_KNOWN if known else ContactsSource.AS_GIVEN
        told = dict.fromkeys((*(known.contacts if known else ()), *call.contacts, self._number))
        return EmergencyPlan(tuple(told), source, "", (reason,))

    async def _device(self, device_id: str) -> tuple[str, str]:
        """The device's state and, where it is not known, why."""
        if not device_id:
            return "", ""
        try:
            return (await self._devices.fetch(device_id)).state, ""
        except LookupFailedError as error:
            return UNKNOWN, f"device: {_plain(error)}; its state is unknown and assumed operational"


UNKNOWN = "unknown"


def compose(call: EmergencyCallRequest, plan: EmergencyPlan) -> list[NotificationRequest]:
    """The notifications of a call, one for each contact of the plan, in its order; all are P0."""
    lines = [call.message, f"Location: {call.location}" if call.location else "", _device_line(call, plan)]
    body = "\n".join(line for line in lines if line)
    data = {
        "caller": call.caller,
        "kind": call.kind,
        "location": call.location,
        "device_id": call.device_id,
        "device_state": plan.device_state,
        "contacts_source": plan.source,
    }
    return [
        NotificationRequest(
            type="emergency",
            alert_type=call.kind,
            severity="Extreme",
            title=f"{TITLES[call.kind]}: {call.caller} calls for help",
            recipient=contact,
            body=body,
            source="emergency-calls",
            data={name: str(value) for name, value in data.items() if value},
        )
        for contact in plan.contacts
    ]


TITLES = {"fire": "Fire", "medical": "Medical emergency", "security": "Security alarm", "other": "Emergency"}


def accepted(plan: EmergencyPlan, receipts: Sequence[Receipt]) -> EmergencyCallAccepted:
    """The answer to the caller."""
    return EmergencyCallAccepted(
        contacts=list(plan.contacts),
        contacts_source=plan.source,
        device_state=plan.device_state,
        degraded=bool(plan.reasons),
        degraded_reasons=list(plan.reasons),
        receipts=list(receipts),
    )


def _device_line(call: EmergencyCallRequest, plan: EmergencyPlan) -> str:
    if not call.device_id:
        return ""
    if plan.device_state == UNKNOWN:
        return f"Device {call.device_id}: its state is unknown; assumed operational"
    return f"Device {call.device_id}: {plan.device_state}"


def _plain(error: LookupFailedError) -> str:
    """Label and words; the label is what dashboards count."""
    return (
        f"{error.reason} ({error.message})"
        if error.reason is not LookupReason.NOT_CONFIGURED
        else error.reason
    )
