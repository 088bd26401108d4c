from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import msgspec
import pytest

from routing.emergency.calls import (
    ContactsClient,
    ContactsSource,
    EmergencyCallRequest,
    EmergencyCalls,
    EmergencyPlan,
    KnownContacts,
    accepted,
    compose,
)
from routing.emergency.device_status import DeviceStatusClient, LiveReading
from routing.emergency.lookups import MAX_ANSWER_BYTES, Lookup, LookupFailedError, LookupReason
from routing.intake.intake import Intake
from routing.intake.priority import Classifier
from serve_deployments.emergency_calls import decode_call
from tests.fakes import START, ManualClock
from tocsin.caching import NeverCached
from tocsin.errors import InvalidRecordError
from tocsin.resilience.breakers import Breakers
from tocsin.resilience.pool_state import BreakerState
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import NotificationRequest

URL = "http://contacts.test/validate"
PATIENT_S, SHORT_S = 30.0, 0.02  # only who waits for nothing has a short deadline
Answer = Callable[[httpx2.Request], Any]


def call(**changes: Any) -> EmergencyCallRequest:
    base = {"caller": "resident-7", "kind": "medical", "contacts": ["daughter", "neighbour"]}
    return msgspec.convert(base | changes, EmergencyCallRequest)


class Service:
    """A service somewhere else that behaves as told, and notes what it is asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[httpx2.Request] = []

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answer(request)
        if asyncio.iscoroutine(answer):
            answer = await answer
        return answer if isinstance(answer, httpx2.Response) else httpx2.Response(200, json=answer)


async def _hang() -> None:
    await asyncio.Event().wait()


def _drop(_: httpx2.Request) -> None:
    raise httpx2.ConnectError("refused")


def _status(status: int) -> Answer:
    return lambda _: httpx2.Response(status)


FAULTS: dict[str, tuple[Answer, LookupReason]] = {
    "slow": (lambda _: _hang(), LookupReason.TIMEOUT),
    "down": (_drop, LookupReason.UNREACHABLE),
    "error": (_status(500), LookupReason.SERVICE_ERROR),
    "busy": (_status(429), LookupReason.SERVICE_ERROR),
    "moved": (_status(302), LookupReason.SERVICE_ERROR),
    "not json": (lambda _: httpx2.Response(200, content=b"<html>"), LookupReason.MALFORMED),
    "other shape": (lambda _: {"valid": "daughter"}, LookupReason.MALFORMED),
    "endless": (
        lambda _: httpx2.Response(
            200, content=b'{"valid": ["daughter"], "state": "ok"}' + b" " * MAX_ANSWER_BYTES
        ),
        LookupReason.MALFORMED,
    ),
}


class Memory:
    """Contacts remembered in a dictionary."""

    def __init__(self, **known: tuple[str, ...]) -> None:
        self.known = {
            caller.replace("_", "-"): KnownContacts(contacts, START) for caller, contacts in known.items()
        }

    async def get(self, caller: str) -> KnownContacts | None:
        return self.known.get(caller)

    async def put(self, caller: str, known: KnownContacts) -> None:
        self.known[caller] = known


class Bench:
    """The orchestration over services that misbehave."""

    def __init__(self, clock: ManualClock, memory: Memory | None = None) -> None:
        self.contacts = Service(lambda _: {"valid": ["neighbour", "daughter"]})
        self.devices = Service(lambda _: {"state": "operational"})
        self.memory = memory or Memory()
        self.clock = clock
        self.breakers = Breakers(None, "t", clock)
        self.deadline_s = PATIENT_S
        self._https: list[httpx2.AsyncClient] = []

    def lookup(self, service: Service, breaker: str, url: str = URL) -> Lookup:
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(service))
        self._https.append(http)
        return Lookup(url, http, self.breakers.get(breaker), deadline_s=self.deadline_s)

    def calls(self, contacts_url: str = URL, device_url: str = URL) -> EmergencyCalls:
        return EmergencyCalls(
            ContactsClient(self.lookup(self.contacts, "emergency_contacts", contacts_url)),
            self.memory,
            self.device_client(device_url),
            emergency_number="112",
        )

    def device_client(self, url: str = URL) -> DeviceStatusClient:
        return DeviceStatusClient(self.lookup(self.devices, "device_status", url), self.clock)

    def fault(self, name: str) -> tuple[Answer, LookupReason]:
        if name == "slow":
            self.deadline_s = SHORT_S
        return FAULTS[name]

    async def close(self) -> None:
        for http in self._https:
            await http.aclose()


@pytest.fixture
async def bench(clock: ManualClock) -> AsyncIterator[Bench]:
    made = Bench(clock)
    yield made
    await made.close()


# --------------------------------------------------------------------------- contacts


async def test_validated_contacts_are_told_and_nobody_else(bench: Bench) -> None:
    plan = await bench.calls().plan(call(contacts=["daughter", "stranger", "neighbour", "daughter"]))
    assert plan.contacts == ("daughter", "neighbour")
    assert (plan.source, plan.reasons) == (ContactsSource.VALIDATED, ())
    (question,) = bench.contacts.requests
    assert msgspec.json.decode(question.content)["caller"] == "resident-7"


async def test_a_contact_only_the_service_names_is_not_told(bench: Bench) -> None:
    bench.contacts.answer = lambda _: {"valid": ["daughter", "attacker"]}
    assert (await bench.calls().plan(call())).contacts == ("daughter",)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_call_without_validation_goes_to_more_people(bench: Bench, fault: str) -> None:
    bench.contacts.answer, reason = bench.fault(fault)
    plan = await bench.calls().plan(call())
    assert plan.contacts == ("daughter", "neighbour", "112")
    assert plan.source is ContactsSource.AS_GIVEN
    assert plan.reasons[0].startswith(f"contacts: {reason}")
    assert not plan.validated


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_last_known_contacts_come_first(clock: ManualClock, fault: str) -> None:
    bench = Bench(clock, Memory(resident_7=("son", "daughter")))
    bench.contacts.answer, _ = bench.fault(fault)
    plan = await bench.calls().plan(call())
    assert plan.contacts == ("son", "daughter", "neighbour", "112")
    assert plan.source is ContactsSource.LAST_KNOWN
    await bench.close()


async def test_without_a_service_the_contacts_are_taken_as_given(bench: Bench) -> None:
    plan = await bench.calls(contacts_url="").plan(call())
    assert (plan.source, plan.reasons) == (ContactsSource.AS_GIVEN, ("contacts: not_configured",))
    assert not bench.contacts.requests


async def test_when_none_is_valid_somebody_is_told_all_the_same(bench: Bench) -> None:
    bench.contacts.answer = lambda _: {"valid": []}
    plan = await bench.calls().plan(call())
    assert plan.contacts == ("daughter", "neighbour", "112")
    assert plan.reasons == ("contacts: none of them is valid",)


async def test_only_what_was_validated_is_remembered(bench: Bench, clock: ManualClock) -> None:
    calls = bench.calls()
    await calls.store_contacts(call(), await calls.plan(call()), clock.now())
    assert bench.memory.known["resident-7"].contacts == ("daughter", "neighbour")
    bench.contacts.answer = _drop
    plan = await calls.plan(call(contacts=["plumber"]))
    assert plan.contacts == ("daughter", "neighbour", "plumber", "112")
    await calls.store_contacts(call(), plan, clock.now())
    assert bench.memory.known["resident-7"].contacts == ("daughter", "neighbour")


async def test_the_breaker_opens_after_three_failures_and_probes_after_thirty_seconds(
    bench: Bench, clock: ManualClock
) -> None:
    calls, healthy = bench.calls(), bench.contacts.answer
    bench.contacts.answer = _status(503)
    for _ in range(5):
        plan = await calls.plan(call())
    assert len(bench.contacts.requests) == 3
    assert plan.reasons[0].startswith("contacts: breaker_open")
    bench.contacts.answer = healthy
    clock.advance(30)
    assert (await calls.plan(call())).source is ContactsSource.VALIDATED
    assert bench.breakers.get("emergency_contacts").state is BreakerState.CLOSED


async def test_a_refused_question_never_opens_the_breaker(bench: Bench) -> None:
    bench.contacts.answer = _status(422)
    calls = bench.calls()
    for _ in range(5):
        plan = await calls.plan(call())
    assert len(bench.contacts.requests) == 5
    assert plan.reasons[0].startswith("contacts: refused")


# --------------------------------------------------------------------------- devices


async def test_every_question_about_a_device_is_a_request(bench: Bench, clock: ManualClock) -> None:
    client = bench.device_client()
    states = iter(("operational", "smoke chamber open", "silent"))
    bench.devices.answer = lambda _: {"state": next(states), "battery": 3}
    readings = await asyncio.gather(*(client.fetch("d/../7?x") for _ in range(3)))
    assert len(bench.devices.requests) == 3
    assert {reading.state for reading in readings} == {"operational", "smoke chamber open", "silent"}
    assert all(isinstance(reading, NeverCached) for reading in readings)
    assert readings[0] == LiveReading(device_id="d/../7?x", state=readings[0].state, read_at=clock.now())
    request = bench.devices.requests[0]
    assert request.headers["cache-control"] == "no-store"
    assert (request.url.path, request.url.params["device_id"]) == ("/validate", "d/../7?x")


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_unknown_device_is_assumed_operational_and_the_message_says_so(
    bench: Bench, fault: str
) -> None:
    bench.devices.answer, reason = bench.fault(fault)
    request = call(device_id="alarm-3")
    plan = await bench.calls().plan(request)
    assert (plan.source, plan.device_state) == (ContactsSource.VALIDATED, "unknown")
    assert plan.reasons[0].startswith(f"device: {reason}")
    assert plan.reasons[0].endswith("its state is unknown and assumed operational")
    assert "Device alarm-3: its state is unknown; assumed operational" in compose(request, plan)[0].body


async def test_no_device_is_no_question(bench: Bench) -> None:
    plan = await bench.calls().plan(call())
    assert (plan.device_state, bench.devices.requests) == ("", [])


async def test_both_services_slow_cost_one_deadline(bench: Bench) -> None:
    bench.contacts.answer = bench.devices.answer = lambda _: _hang()
    bench.deadline_s = SHORT_S
    async with asyncio.timeout(PATIENT_S):
        plan = await bench.calls().plan(call(device_id="alarm-3"))
    assert len(plan.reasons) == 2


async def test_a_lookup_says_what_went_wrong(bench: Bench) -> None:
    bench.devices.answer, _ = bench.fault("slow")
    with pytest.raises(LookupFailedError, match="no answer within 20 ms") as caught:
        await bench.device_client().fetch("d")
    assert caught.value.reason is LookupReason.TIMEOUT
    assert caught.value.retryable


# --------------------------------------------------------------------------- the notifications


@pytest.mark.parametrize("kind", ["fire", "medical", "security", "other"])
def test_every_call_is_p0_within_the_limits_of_a_notification(kind: str) -> None:
    long = call(kind=kind, caller="c" * 128, message="m" * 2048, location="l" * 256, device_id="d" * 128)
    plan = EmergencyPlan(("a" * 256, "112"), ContactsSource.AS_GIVEN, "s" * 64, ("r",))
    notifications = compose(long, plan)
    assert [notification.recipient for notification in notifications] == ["a" * 256, "112"]
    for notification in notifications:
        assert (
            msgspec.json.decode(msgspec.json.encode(notification), type=NotificationRequest) == notification
        )
    intake = Intake(Classifier(), dict.fromkeys((LaneName.P0, LaneName.P1, LaneName.P2), 4))
    admitted = intake.admit(list(enumerate(notifications)), now=START)
    assert {item.lane for item in admitted} == {LaneName.P0}


def test_the_message_carries_what_helps() -> None:
    request = call(kind="fire", message="Smoke everywhere", location="Flat 4", device_id="alarm-3")
    plan = EmergencyPlan(("daughter",), ContactsSource.VALIDATED, "operational", ())
    (notification,) = compose(request, plan)
    assert notification.title == "Fire: resident-7 calls for help"
    assert notification.body.splitlines() == [
        "Smoke everywhere",
        "Location: Flat 4",
        "Device alarm-3: operational",
    ]
    assert notification.data["contacts_source"] == "validated"
    assert accepted(plan, []).degraded is False


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"contacts": []}, "contacts"),
        ({"contacts": ["x"] * 11}, "contacts"),
        ({"contacts": [""]}, "contacts"),
        ({"kind": "boredom"}, "kind"),
        ({"caller": ""}, "caller"),
        ({"device_id": "d" * 129}, "device_id"),
    ],
)
def test_what_is_wrong_with_a_call_is_named(changes: dict[str, Any], field: str) -> None:
    body = {"caller": "c", "kind": "fire", "contacts": ["a"]} | changes
    with pytest.raises(InvalidRecordError) as caught:
        decode_call(msgspec.json.encode(body))
    assert caught.value.field.startswith(field)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"caller": "c", "extra": 1}', b"\xff"])
def test_what_is_no_call_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRecordError):
        decode_call(body)
