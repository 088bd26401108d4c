"""Apprise for real, against a server on this machine that takes its JSON notifications."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from routing.channels import Failure, FailureReason
from routing.channels.apprise import MAX_THREADS, AppriseProvider
from tests.fakes import START, Item
from tocsin.errors import ConfigurationError
from tocsin.wire.notifications import Notification

NOTE = Notification("fire", "Smoke", "r", "smoke", "Severe", "Leave", "s", ("sms",), "", 0.0, "", {}, START)


class Service:
    """Answers by the path: a number is the status; `hang` waits until it is let go."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.let_go = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # the base class's name
                body = self.rfile.read(int(self.headers["content-length"]))
                service.got.append((self.path, json.loads(body)))
                if self.path.startswith("/hang"):
                    service.let_go.wait(10)
                last = self.path.rpartition("/")[2]
                self.send_response(int(last) if last.isdigit() and len(last) == 3 else 200)
                self.end_headers()

            def log_message(self, *_args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"json://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self.let_go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def service() -> Iterator[Service]:
    one = Service()
    yield one
    one.close()


async def send(template: str, target: str = "", *, timeout_s: float = 5.0) -> Failure | None:
    provider = AppriseProvider("sms", template, name="sms", timeout_s=timeout_s)
    try:
        return await provider.call([Item("n", NOTE, {"sms": target} if target else {})])
    finally:
        await provider.close()


async def test_a_notification_goes_to_the_recipients_address(service: Service) -> None:
    assert await send(f"{service.url}/to/{{target}}", "+49301") is None
    ((path, body),) = service.got
    assert path == "/to/+49301"
    assert (body["title"], body["message"], body["type"]) == ("Smoke", "Leave", "failure")


@pytest.mark.parametrize(
    "address", ["a/../b", "a?x=1", "a#y", "1,2", "1 2", "a%2Fb", "a&to=b", "", "x" * 257]
)
async def test_what_is_more_than_one_address_calls_nobody(service: Service, address: str) -> None:
    failure = await send(f"{service.url}/to/{{target}}", address)
    assert failure is not None
    assert (failure.permanent, service.got) == (True, [])


async def test_a_mail_address_is_an_address(service: Service) -> None:
    assert await send(f"{service.url}/to/{{target}}", "a.b+c@d.example") is None
    assert service.got[0][0] == "/to/a.b+c@d.example"


async def test_without_an_address_there_is_nothing_to_call(service: Service) -> None:
    failure = await send(f"{service.url}/{{target}}")
    assert failure is not None
    assert (failure.reason, failure.permanent, service.got) == (FailureReason.NO_TARGET, True, [])


async def test_a_fixed_url_needs_no_address(service: Service) -> None:
    assert await send(f"{service.url}/room") is None


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (400, FailureReason.REFUSED),
        (401, FailureReason.REFUSED),
        (429, FailureReason.TARGET_ERROR),
        (503, FailureReason.TARGET_ERROR),
    ],
)
async def test_what_the_service_answers_decides_whether_to_try_again(
    service: Service, status: int, reason: FailureReason
) -> None:
    assert await send(f"{service.url}/{status}") == Failure(reason, f"the service answered {status}")


async def test_nobody_there_is_unreachable(service: Service) -> None:
    service.close()
    failure = await send(f"{service.url}/secret-token/{{target}}", "1")
    assert failure is not None
    assert failure.reason is FailureReason.UNREACHABLE
    assert "secret-token" not in failure.detail


async def test_a_service_that_hangs_keeps_its_threads_and_no_more_are_made(service: Service) -> None:
    provider = AppriseProvider("sms", f"{service.url}/hang", name="sms", timeout_s=0.3)
    items = [Item("n", NOTE)]
    for _ in range(MAX_THREADS + 2):
        failure = await provider.call(items)
        assert failure is not None
        assert failure.reason is FailureReason.TIMEOUT
    assert len(service.got) == MAX_THREADS
    service.let_go.set()
    provider._timeout_s = 5.0  # the threads come back as their calls end
    assert await provider.call(items) is None
    await provider.close()


@pytest.mark.parametrize("template", ["nosuch://x/{target}", "not a url", "twilio://short"])
def test_a_url_that_cannot_be_used_is_named_by_its_setting_without_its_secrets(template: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AppriseProvider("sms", template, name="sms")
    assert "TOCSIN_SMS_PROVIDERS" in caught.value.message
    assert "short" not in caught.value.message
