from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import msgspec
import pytest

from serve_deployments.emergency_calls import EmergencyCallIntake
from tests.support import eventually, free_settings
from tocsin import Client
from tocsin.errors import OverloadedError
from tocsin.keys import BreakerKeys
from tocsin.ports import free_port
from tocsin.settings import Settings
from tocsin.storage.connect import connect, resolve_url
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import NotificationState

pytestmark = pytest.mark.integration


def call(**changes: Any) -> dict[str, Any]:
    return {
        "caller": f"resident-{uuid4().hex[:8]}",
        "kind": "medical",
        "contacts": ["daughter", "neighbour"],
        "location": "Flat 4",
        "message": "Fall in the bathroom",
    } | changes


class Services:
    """The contacts and device services as one real HTTP server: vouches for all but `stranger`."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        services = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = msgspec.json.decode(self.rfile.read(int(self.headers["content-length"])))
                self._answer({"valid": [name for name in body["contacts"] if name != "stranger"]})

            def do_GET(self) -> None:
                self._answer({"state": "smoke chamber open"})

            def _answer(self, body: dict[str, Any]) -> None:
                time.sleep(services.delay_s)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(msgspec.json.encode(body))

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def services() -> Iterator[Services]:
    made = Services()
    yield made
    made.stop()


@pytest.fixture
async def wired(settings: Settings, services: Services) -> AsyncIterator[Settings]:
    """The platform's settings with both services; afterwards no breaker they opened is left."""
    yield msgspec.structs.replace(settings, contacts_url=services.url, device_status_url=services.url)
    client, keys = connect(resolve_url(settings), timeout_s=2), BreakerKeys(settings.namespace)
    for name in ("emergency_contacts", "device_status"):
        await client.delete(keys.state(name), keys.probe(name))
    await client.aclose()


@asynccontextmanager
async def serving(app: EmergencyCallIntake) -> AsyncIterator[httpx2.AsyncClient]:
    """The application in this process, without Serve."""
    transport = httpx2.ASGITransport(app=app.__serve_build_asgi_app__())
    async with httpx2.AsyncClient(transport=transport, base_url="http://tocsin.test") as http:
        yield http


# --------------------------------------------------------------------------- through the platform


def test_a_call_tells_everybody_also_without_a_contacts_service(settings: Settings, client: Client) -> None:
    answer = httpx2.post(settings.base_url + "/v1/emergency-calls", json=call(device_id="alarm-3"))
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert body["contacts"] == ["daughter", "neighbour", "112"]
    assert (body["contacts_source"], body["device_state"], body["degraded"]) == ("as_given", "unknown", True)
    assert [receipt["lane"] for receipt in body["receipts"]] == ["p0"] * 3
    for receipt in body["receipts"]:
        status = client.wait(receipt["id"], timeout_s=60)
        assert status.state is NotificationState.DELIVERED
    told = Path(settings.data_path / "deliveries")
    text = "".join(file.read_text(encoding="utf-8") for file in told.glob("router-p0-*.jsonl"))
    assert "its state is unknown; assumed operational" in text
    assert all(receipt["id"] in text for receipt in body["receipts"])


def test_a_repeat_with_the_same_key_tells_nobody_twice(settings: Settings) -> None:
    url, request, key = settings.base_url + "/v1/emergency-calls", call(), {"idempotency-key": uuid4().hex}
    first, again = (httpx2.post(url, json=request, headers=key).json() for _ in range(2))
    assert [r["id"] for r in again["receipts"]] == [r["id"] for r in first["receipts"]]
    assert all(receipt["duplicate"] for receipt in again["receipts"])
    other = httpx2.post(url, json=request | {"kind": "fire"}, headers=key)
    assert other.status_code == 409


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b'{"caller": "c", "kind": "fire", "contacts": []}', 422, "contacts"),
        (b'{"caller": "c", "kind": "boredom", "contacts": ["a"]}', 422, "kind"),
        (b"nonsense", 422, "body"),
    ],
)
def test_an_unusable_call_says_what_is_wrong(
    settings: Settings, body: bytes, status: int, field: str
) -> None:
    answer = httpx2.post(
        settings.base_url + "/v1/emergency-calls", content=body, headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["field"]) == (status, field)


# --------------------------------------------------------------------------- the application itself


async def test_validated_then_slow_then_down(wired: Settings, services: Services) -> None:
    request = call(contacts=["daughter", "stranger"], device_id="alarm-3")
    async with serving(EmergencyCallIntake(wired)) as http:
        await http.post("/", json=call())  # connections and scripts are warm
        answer = (await http.post("/", json=request)).json()
        assert (answer["contacts"], answer["contacts_source"]) == (["daughter"], "validated")
        assert (answer["device_state"], answer["degraded"]) == ("smoke chamber open", False)

        services.delay_s = 5.0
        started = time.monotonic()
        answer = (await http.post("/", json=request)).json()
        assert time.monotonic() - started < 2.0  # 0.3 s, and a busy machine
        assert answer["contacts"] == ["daughter", "stranger", "112"]
        assert (answer["contacts_source"], answer["device_state"]) == ("last_known", "unknown")
        assert [reason.split(" ")[1] for reason in answer["degraded_reasons"]] == ["timeout", "timeout"]

        services.stop()
        answer = (await http.post("/", json=request)).json()
        assert answer["contacts_source"] == "last_known"
        assert answer["degraded_reasons"][0].startswith("contacts: unreachable")


async def test_another_replica_knows_the_contacts_and_the_breaker(
    wired: Settings, services: Services
) -> None:
    request = call()
    first, second = EmergencyCallIntake(wired), EmergencyCallIntake(wired)
    async with serving(first) as http:
        assert (await http.post("/", json=request)).json()["contacts_source"] == "validated"
        services.stop()
        for _ in range(3):
            await http.post("/", json=request)
        await first.breakers.sync()
    await second.breakers.sync()
    async with serving(second) as http:
        answer = (await http.post("/", json=request)).json()
        assert answer["contacts_source"] == "last_known"
        assert answer["degraded_reasons"][0].startswith("contacts: breaker_open")

    def shown() -> bool:
        status = httpx2.get(wired.base_url + "/v1/status").json()
        return any(
            (found["name"], found["state"], found["failures"]) == ("emergency_contacts", "open", 3)
            for found in status["breakers"]
        )

    eventually(shown, what="the open breaker in the status")


async def test_a_repeat_is_the_first_call_though_the_service_fell_between(
    wired: Settings, services: Services
) -> None:
    request, key = call(), {"idempotency-key": uuid4().hex}
    async with serving(EmergencyCallIntake(wired)) as http:
        first = (await http.post("/", json=request, headers=key)).json()
        services.stop()
        again = await http.post("/", json=request, headers=key)
        assert again.status_code == 202, again.text
        assert again.json()["contacts"] == first["contacts"]
        assert [r["id"] for r in again.json()["receipts"]] == [r["id"] for r in first["receipts"]]


async def test_only_storage_that_refuses_is_an_error(tmp_path: Path) -> None:
    gone = msgspec.structs.replace(free_settings(tmp_path), redis_url=f"redis://127.0.0.1:{free_port()}/0")
    async with serving(EmergencyCallIntake(gone)) as http:
        answer = await http.post("/", json=call())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_storage_without_memory_is_no_fault_of_the_caller(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = EmergencyCallIntake(settings)

    async def full(*_: Any, **__: Any) -> None:
        raise OverloadedError("the storage server is at its memory limit", retry_after_s=5.0)

    monkeypatch.setattr(app._lanes.lanes[LaneName.P0], "append", full)
    async with serving(app) as http:
        answer = await http.post("/", json=call())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
