"""Emergency calls: a person needs help, and somebody must be notified whatever else is broken.

    call ──► contacts validated within 300 ms? ──yes──────────────────────────► validated
                  │ no
                  └──► a list of this caller's is stored? ─────yes──► last_known  + as given + emergency number
                            │ no
                            └────────────────────────────────────────► as_given    + emergency number

No failure stops the call. When the contacts are uncertain, more people are notified rather than fewer: the last known
ones, those the call names, and the local emergency number. The device's state is read at the same time. The result is
one P0 notification for each contact; the caller stores them.
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
from routing.intake.mending import fit
from routing.intake.text import clean
from tocsin.caching import Cacheable
from tocsin.wire.notifications import FieldChange, NotificationRequest, Receipt

CONTACTS_DEADLINE_S = 0.3
MAX_CONTACTS = 10
MAX_LOCATION = 256
MAX_MESSAGE = 2048

Contact = Annotated[str, Meta(min_length=1, max_length=256)]


class ContactsSource(StrEnum):
    """Where the notified contacts come from."""

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
    location: Annotated[
        str, Meta(description=f"Cut at {MAX_LOCATION} characters", examples=["Flat 4, kitchen"])
    ] = ""
    device_id: Annotated[str, Meta(max_length=128, description="The device that raised the alarm")] = ""
    message: Annotated[str, Meta(description=f"Cut at {MAX_MESSAGE} characters")] = ""


class EmergencyCallAccepted(msgspec.Struct, frozen=True, kw_only=True):
    """The call is stored and will be delivered: its contacts, where they come from, and a receipt for each."""

    contacts: list[str]
    contacts_source: ContactsSource
    device_state: str  # empty: the call names no device
    degraded: bool
    degraded_reasons: list[str]
    receipts: list[Receipt]  # in the order of `contacts`
    changed: tuple[FieldChange, ...] = ()  # texts of the call that were cleaned or cut


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
    validated: tuple[str, ...] = ()  # to be stored for later calls


class ContactsDirectory(Protocol):
    """Validates the contacts of a caller."""

    async def validate(self, call: EmergencyCallRequest) -> tuple[str, ...]:
        """The call's valid contacts, in its order; raises `LookupFailedError`."""
        ...


class ContactsStore(Protocol):
    """Stores the contacts validated last. Neither method raises, and both have a short deadline."""

    async def get(self, caller: str) -> KnownContacts | None:
        """The contacts of a caller that were validated last; None where there are none."""
        ...

    async def put(self, caller: str, known: KnownContacts) -> None:
        """Store them."""
        ...


class ContactsAnswer(msgspec.Struct, frozen=True):
    """The service's answer: `{"valid": ["daughter", "neighbour"]}`; other fields are ignored."""

    valid: Annotated[tuple[Contact, ...], Meta(max_length=100)]


class ContactsClient:
    """Asks the contacts service: `POST TOCSIN_CONTACTS_URL` with caller, kind and contacts.

    Args:
        lookup: Reaches the service, with a deadline of `CONTACTS_DEADLINE_S`.
    """

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    async def validate(self, call: EmergencyCallRequest) -> tuple[str, ...]:
        """The call's contacts that the service confirms, in the call's order; others it names are ignored.

        Raises:
            LookupFailedError: it gave no usable answer in time.
        """
        question = {"caller": call.caller, "kind": call.kind, "contacts": call.contacts}
        answer = await self._lookup.ask("POST", ContactsAnswer, body=question)
        return tuple(contact for contact in dict.fromkeys(call.contacts) if contact in answer.valid)


def mend_call(call: EmergencyCallRequest) -> tuple[EmergencyCallRequest, tuple[FieldChange, ...]]:
    """A call with its location and message cleaned and cut, and what was changed; who is meant is never touched."""
    location, of_location = fit("location", call.location, MAX_LOCATION)
    message, of_message = fit("message", call.message, MAX_MESSAGE)
    mended = msgspec.structs.replace(call, location=location, message=message)
    return mended, (*of_location, *of_message)


class EmergencyCalls:
    """Plans whom to notify, and of what.

    Args:
        directory: Validates contacts.
        known: The contacts validated before.
        devices: The state of devices.
        emergency_number: Notified too when the contacts are uncertain.
    """

    def __init__(
        self,
        directory: ContactsDirectory,
        known: ContactsStore,
        devices: DeviceStatus,
        *,
        emergency_number: str,
    ) -> None:
        self._directory = directory
        self._known = known
        self._devices = devices
        self._number = emergency_number

    async def plan(self, call: EmergencyCallRequest) -> EmergencyPlan:
        """Whom to notify, within the longer of the two deadlines; a service that fails does not fail the call."""
        contacts, device = await asyncio.gather(self._contacts(call), self._device(call.device_id))
        state, reason = device
        return msgspec.structs.replace(
            contacts, device_state=state, reasons=(*contacts.reasons, *([reason] if reason else []))
        )

    async def store_contacts(self, call: EmergencyCallRequest, plan: EmergencyPlan, now: float) -> None:
        """Store the validated contacts, for when the service is down. Call it after the call is stored."""
        if plan.validated:
            await self._known.put(call.caller, KnownContacts(plan.validated, now))

    async def _contacts(self, call: EmergencyCallRequest) -> EmergencyPlan:
        try:
            valid = await self._directory.validate(call)
            if valid:
                return EmergencyPlan(valid, ContactsSource.VALIDATED, "", (), valid)
            reason = "contacts: none of them is valid"
        except LookupFailedError as error:
            reason = f"contacts: {_plain(error)}"
        known = await self._known.get(call.caller)
        source = ContactsSource.LAST_KNOWN if known else ContactsSource.AS_GIVEN
        notified = dict.fromkeys((*(known.contacts if known else ()), *call.contacts, self._number))
        return EmergencyPlan(tuple(notified), source, "", (reason,))

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
    body = clean("\n".join(line for line in lines if line))
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
            title=clean(f"{TITLES[call.kind]}: {call.caller} calls for help"),
            recipient=contact,
            body=body,
            source="emergency-calls",
            data={name: clean(str(value)) for name, value in data.items() if value},
        )
        for contact in plan.contacts
    ]


TITLES = {"fire": "Fire", "medical": "Medical emergency", "security": "Security alarm", "other": "Emergency"}


def accepted(
    plan: EmergencyPlan, receipts: Sequence[Receipt], changed: tuple[FieldChange, ...] = ()
) -> EmergencyCallAccepted:
    """The answer to the caller."""
    return EmergencyCallAccepted(
        contacts=list(plan.contacts),
        contacts_source=plan.source,
        device_state=plan.device_state,
        degraded=bool(plan.reasons),
        degraded_reasons=list(plan.reasons),
        receipts=list(receipts),
        changed=changed,
    )


def _device_line(call: EmergencyCallRequest, plan: EmergencyPlan) -> str:
    if not call.device_id:
        return ""
    if plan.device_state == UNKNOWN:
        return f"Device {call.device_id}: its state is unknown; assumed operational"
    return f"Device {call.device_id}: {plan.device_state}"


def _plain(error: LookupFailedError) -> str:
    """The reason and its detail; dashboards count the reason."""
    return (
        f"{error.reason} ({error.message})"
        if error.reason is not LookupReason.NOT_CONFIGURED
        else error.reason
    )
