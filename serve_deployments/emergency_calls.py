"""`/v1/emergency-calls`: a person needs help; reach those who can give it, whatever else is broken."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import httpx2
import msgspec
from starlette.requests import Request

from routing.emergency.calls import (
    CONTACTS_DEADLINE_S,
    ContactsClient,
    EmergencyCallAccepted,
    EmergencyCallRequest,
    EmergencyCalls,
    EmergencyPlan,
    accepted,
    compose,
    mend_call,
)
from routing.emergency.device_status import DEVICE_DEADLINE_S, DeviceStatusClient
from routing.emergency.known_contacts import KnownContactsStore, settle_plan
from routing.emergency.lookups import Lookup
from routing.intake.intake import Intake, receipt_of
from routing.intake.priority import Classifier
from serve_deployments.http.application import (
    Application,
    Endpoint,
    traceparent_of,
)
from serve_deployments.http.bodies import read_json
from serve_deployments.notifications import IDEMPOTENCY_KEY, fingerprint_of, idempotency_key
from serve_deployments.serving.lane_set import LaneSet
from tocsin.clock import Clock, SystemClock
from tocsin.errors import InvalidRecordError, OverloadedError, StorageUnavailableError
from tocsin.keys import EmergencyKeys
from tocsin.resilience.breakers import Breakers
from tocsin.settings import Settings
from tocsin.telemetry.reports import Reports, faults_of
from tocsin.wire.decoding import (
    choices_of,
    explain,
    loosely_decoded,
    refuse_control_characters,
    refuse_repeated_names,
)
from tocsin.wire.lanes import NOTIFICATION_LANES, LaneName
from tocsin.wire.notifications import FieldChange, Receipt

MAX_CONNECTIONS = 32
_CHOICES = choices_of(EmergencyCallRequest)


class EmergencyCallIntake(Application):
    """Takes emergency calls.

    Args:
        settings: Everything that can be set.
        clock: Time.
        transport: How the contacts and device services are reached; by default over the network.
    """

    endpoints: ClassVar[tuple[Endpoint, ...]] = (
        Endpoint(
            method="POST",
            path="/",
            handler="call",
            summary="Call for help",
            description=(
                "Tells each contact with a P0 notification. The contacts are validated when the service that does "
                "so answers within 300 ms; else the call goes out all the same, to the last known contacts, those "
                "given and the local emergency number, and `degraded_reasons` says why. Only storage that refuses "
                "the call is an error. `location` and `message` are cleaned of control characters and cut rather "
                "than refused; `changed` says so."
            ),
            request=EmergencyCallRequest,
            answer=EmergencyCallAccepted,
            status=202,
            parameters=(IDEMPOTENCY_KEY,),
            problems=(401, 409, 413, 415, 422, 503),
        ),
    )

    def __init__(
        self,
        settings: Settings | None = None,
        clock: Clock | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(settings)
        settings = self.settings
        self._clock = clock or SystemClock()
        self._lanes = LaneSet(settings, NOTIFICATION_LANES)
        self._keys = EmergencyKeys(settings.namespace)
        self._intake = Intake(Classifier(), {name: settings.partitions(name) for name in NOTIFICATION_LANES})
        self._http = httpx2.AsyncClient(
            limits=httpx2.Limits(max_connections=MAX_CONNECTIONS),
            follow_redirects=False,
            trust_env=False,
            transport=transport,
        )
        self._server = self._lanes.servers.of(LaneName.P0)  # also of what a call keeps: it needs no other
        self.breakers = Breakers(self._lanes.client, settings.namespace, self._clock)
        contacts = Lookup(
            settings.contacts_url,
            self._http,
            self.breakers.get("emergency_contacts"),
            deadline_s=CONTACTS_DEADLINE_S,
        )
        devices = Lookup(
            settings.device_status_url,
            self._http,
            self.breakers.get("device_status"),
            deadline_s=DEVICE_DEADLINE_S,
        )
        known = KnownContactsStore(self._server, self._keys, self._clock)
        reports = self._lanes.lanes[LaneName.P0].keys.reports
        self._reports = Reports(self._server, reports, lambda: faults_of(known))
        self._calls = EmergencyCalls(
            ContactsClient(contacts),
            known,
            DeviceStatusClient(devices, self._clock),
            emergency_number=settings.emergency_number,
        )

    async def warm(self) -> None:
        """Share the breakers, and report faults, for as long as the replica runs."""
        try:
            await asyncio.gather(self.breakers.run(), self._reports.run())
        finally:
            await self._http.aclose()

    async def call(self, request: Request) -> EmergencyCallAccepted:
        """Decide whom to reach, store it, and only then answer 202."""
        now, key = self._clock.now(), idempotency_key(request)
        body = await read_json(request)
        call, changed = decode_call(body)
        plan = await self._calls.plan(call)
        try:
            if key:
                plan = await settle_plan(
                    self._server,
                    self._keys,
                    plan,
                    idempotency_key=key,
                    fingerprint=fingerprint_of(body),
                )
            receipts = await self._store(call, plan, now, request, key=key, fingerprint=fingerprint_of(body))
        except OverloadedError as error:  # storage out of memory: nobody sent too fast
            raise StorageUnavailableError(error.message, retry_after_s=error.retry_after_s) from error
        await self._calls.store_contacts(call, plan, now)
        return accepted(plan, receipts, changed)

    async def _store(
        self,
        call: EmergencyCallRequest,
        plan: EmergencyPlan,
        now: float,
        request: Request,
        *,
        key: str,
        fingerprint: str,
    ) -> list[Receipt]:
        """All notifications of the call in one step: everybody is reached, or the caller learns that nobody is."""
        requests = list(enumerate(compose(call, plan)))
        admitted = self._intake.admit(requests, now=now, traceparent=traceparent_of(request))
        placements, durability = await self._lanes.append(
            LaneName.P0,
            [item.record for item in admitted],
            idempotency_key=f"emergency-call:{key}" if key else "",  # keys of /v1/notifications are others
            fingerprint=fingerprint if key else "",
        )
        return [
            receipt_of(item, placement, now=now, durability=durability)
            for item, placement in zip(admitted, placements, strict=True)
        ]


def decode_call(body: bytes) -> tuple[EmergencyCallRequest, tuple[FieldChange, ...]]:
    """One call with its texts mended, and what was changed; raw control characters and broken text do not stop it.

    Raises:
        InvalidRecordError: names the field.
    """
    try:
        call = msgspec.json.decode(body, type=EmergencyCallRequest)
        refuse_repeated_names(body)
    except msgspec.ValidationError as error:
        raise _refusal(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        call, changes = mend_call(_loosely(body, error))
        refuse_control_characters(call)  # what is left of them stands in who is meant
        return call, changes
    return mend_call(call)


def _loosely(body: bytes, fault: Exception) -> EmergencyCallRequest:
    found = loosely_decoded(body)
    if not isinstance(found, dict):
        raise _refusal(fault)
    try:
        return msgspec.convert(found, EmergencyCallRequest)
    except msgspec.ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: Exception) -> InvalidRecordError:
    complaint = explain(error, 0, _CHOICES)
    field = complaint.field or ("" if isinstance(error, msgspec.ValidationError) else "body")
    return InvalidRecordError(complaint.detail, field=field, limit=complaint.limit)
