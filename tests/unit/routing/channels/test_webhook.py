from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from email.utils import format_datetime

import httpx2
import msgspec
import pytest

from routing.channels import Failure, FailureReason, provided
from routing.channels.provided import ProvidedChannel
from routing.channels.webhook import MAX_LEFT_ALONE, WebhookPolicy, WebhookProvider, decode_secret, sign
from tests.fakes import START, Item, ManualClock
from tocsin.clock import to_datetime
from tocsin.errors import ConfigurationError
from tocsin.resilience.breakers import OpenDoor
from tocsin.wire.notifications import Notification

OWN = "http://10.0.0.5/hook"
NOTE = Notification(
    "fire", "t", "r", "smoke", "Severe", "b", "s", ("webhook",), "", 0.0, "", {"k": "v"}, START
)
NAMES = {
    "public.example": ["93.184.216.34"],
    "private.example": ["10.0.0.5"],
    "both.example": ["93.184.216.34", "127.0.0.1"],
    "v6.example": ["2606:2800:220:1:248:1893:25c8:1946"],
    "v6-private.example": ["fd00::1"],
}


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names lead where the table above says; addresses to themselves."""
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *args: int, **options: int) -> list[tuple[object, ...]]:
        if host in NAMES:
            return [(0, 0, 0, "", (address, port)) for address in NAMES[host]]
        return [*real(host, port, flags=socket.AI_NUMERICHOST)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


class Target:
    """A receiver that answers with a status (or an error) and keeps what it got."""

    def __init__(self, answer: int | Exception | httpx2.Response = 200) -> None:
        self.answer = answer
        self.got: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.got.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer if isinstance(self.answer, httpx2.Response) else httpx2.Response(self.answer)


def webhook(policy: WebhookPolicy, transport: httpx2.MockTransport) -> ProvidedChannel:
    clock = ManualClock()
    return ProvidedChannel(
        "webhook", [WebhookProvider(policy, clock, transport=transport)], OpenDoor(), clock
    )


async def attempt(channel: ProvidedChannel, notification_id: str, note: Notification) -> Failure | None:
    """One try of one notification."""
    (((made,), *_),) = await channel.deliver([Item(notification_id, note)])
    return None if made.ok else Failure(FailureReason(made.reason), made.detail)


async def post(
    target: Target, url: str = "", *, allow_private: bool = False, default_url: str = OWN
) -> Failure | None:
    policy = WebhookPolicy(url=default_url, allow_private=allow_private)
    channel = webhook(policy, httpx2.MockTransport(target))
    try:
        return await attempt(channel, "p0-1-7-0-3", msgspec.structs.replace(NOTE, webhook_url=url))
    finally:
        await channel.close()


# --------------------------------------------------------------------------- answers


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_2xx_is_a_delivery(status: int) -> None:
    target = Target(status)
    assert await post(target) is None
    assert len(target.got) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422])
async def test_a_4xx_is_a_refusal_for_good(status: int) -> None:
    failure = await post(Target(status))
    assert failure == Failure(FailureReason.REFUSED, f"the target answered {status}")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_a_busy_or_broken_target_is_tried_again(status: int) -> None:
    failure = await post(Target(status))
    assert failure == Failure(FailureReason.TARGET_ERROR, f"the target answered {status}")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_refusal_and_is_not_followed(status: int) -> None:
    target = Target(httpx2.Response(status, headers={"location": "http://127.0.0.1/secret"}))
    failure = await post(target, "http://public.example/")
    assert failure is not None
    assert (failure.reason, failure.permanent) == (FailureReason.REFUSED, True)
    assert [request.headers["host"] for request in target.got] == ["public.example"]


@pytest.mark.parametrize(
    "error", [httpx2.ConnectTimeout("t"), httpx2.ReadTimeout("t"), httpx2.PoolTimeout("t"), TimeoutError()]
)
async def test_a_timeout_is_tried_again(error: Exception) -> None:
    failure = await post(Target(error))
    assert failure == Failure(FailureReason.TIMEOUT, "no answer within 5 s")


@pytest.mark.parametrize(
    "error",
    [httpx2.ConnectError("refused"), httpx2.ReadError("cut"), httpx2.RemoteProtocolError("not HTTP")],
)
async def test_a_target_that_cannot_be_reached_is_tried_again(error: Exception) -> None:
    failure = await post(Target(error))
    assert failure is not None
    assert (failure.reason, failure.permanent) == (FailureReason.UNREACHABLE, False)


async def test_the_deadline_holds_over_a_target_that_never_answers() -> None:
    async def hang(_request: httpx2.Request) -> httpx2.Response:
        await asyncio.Event().wait()
        raise AssertionError

    policy = WebhookPolicy(url=OWN, timeout_s=0.02)
    channel = webhook(policy, httpx2.MockTransport(hang))
    failure = await attempt(channel, "p0-1-7-0-3", NOTE)
    assert failure == Failure(FailureReason.TIMEOUT, "no answer within 0.02 s")
    await channel.close()


async def test_waiting_for_a_free_connection_does_not_count_against_the_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(provided, "SLOT_WAIT_S", 30.0)
    running = most = 0

    async def busy(_request: httpx2.Request) -> httpx2.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return httpx2.Response(200)

    policy = WebhookPolicy(url=OWN, timeout_s=0.2, max_connections=2)
    channel = webhook(policy, httpx2.MockTransport(busy))
    results = await asyncio.gather(*(attempt(channel, f"p2-0-1-0-{i}", NOTE) for i in range(60)))
    assert results == [None] * 60  # sixty at once take three deadlines in all
    assert most == 2
    await channel.close()


# --------------------------------------------------------------------------- what is sent


async def test_every_try_carries_the_notifications_id() -> None:
    target = Target(503)
    await post(target)
    await post(target)
    assert [request.headers["webhook-id"] for request in target.got] == ["p0-1-7-0-3"] * 2
    assert {request.headers["webhook-timestamp"] for request in target.got} == {str(int(START))}
    assert {request.method for request in target.got} == {"POST"}


async def test_the_body_is_the_notification() -> None:
    target = Target()
    await post(target)
    assert target.got[0].headers["content-type"] == "application/json"
    assert json.loads(target.got[0].content) == {
        "id": "p0-1-7-0-3",
        "accepted_at": "2024-11-24T06:33:20Z",
        "type": "fire",
        "alert_type": "smoke",
        "severity": "Severe",
        "title": "t",
        "body": "b",
        "recipient": "r",
        "source": "s",
        "data": {"k": "v"},
    }


async def test_a_trace_goes_on_at_the_target() -> None:
    target = Target()
    channel = webhook(WebhookPolicy(url=OWN), httpx2.MockTransport(target))
    await attempt(channel, "x", msgspec.structs.replace(NOTE, traceparent="00-a-b-01"))
    await attempt(channel, "x", NOTE)
    assert [request.headers.get("traceparent") for request in target.got] == ["00-a-b-01", None]


# --------------------------------------------------------------------------- where it is sent


async def test_a_notifications_own_target_comes_before_the_platforms() -> None:
    target = Target()
    assert await post(target, "https://public.example/x") is None
    assert await post(target, "https://v6.example/x") is None
    assert await post(target) is None
    assert [request.headers["host"] for request in target.got] == ["public.example", "v6.example", "10.0.0.5"]


async def test_the_address_that_was_checked_is_the_one_that_is_called() -> None:
    target = Target()
    assert await post(target, "https://public.example:8443/x") is None
    (request,) = target.got
    assert (request.url.host, request.headers["host"]) == ("93.184.216.34", "public.example:8443")
    assert request.extensions["sni_hostname"] == "public.example"


async def test_without_a_target_it_is_refused_for_good() -> None:
    failure = await post(Target(), default_url="")
    assert failure is not None
    assert (failure.reason, failure.permanent) == (FailureReason.NOT_CONFIGURED, True)


PRIVATE = [
    "http://private.example/",
    "http://both.example/",
    "http://v6-private.example/",
    "http://127.0.0.1/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://0.0.0.0/",
    "http://user:pass@10.0.0.5/",
    "http://192.168.0.1:8080/",
    "http://172.16.0.1/",
    "http://169.254.169.254/latest/meta-data",
    "http://100.64.0.1/",
    "http://224.0.0.1/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[fe80::1]/",
    "http://[fd00::1]/",
]


@pytest.mark.parametrize("url", PRIVATE)
async def test_an_address_that_is_not_public_is_not_called(url: str) -> None:
    target = Target()
    failure = await post(target, url)
    assert failure is not None
    assert (failure.reason, failure.permanent) == (FailureReason.FORBIDDEN_TARGET, True)
    assert target.got == []


async def test_an_operator_may_allow_private_addresses() -> None:
    target = Target()
    assert await post(target, "http://127.0.0.1/", allow_private=True) is None
    assert len(target.got) == 1


@pytest.mark.parametrize("allow_private", [False, True])
@pytest.mark.parametrize(
    "url", ["ftp://public.example/", "file:///etc/passwd", "http://x:port/", "public.example"]
)
async def test_what_is_no_http_url_is_refused_for_good(url: str, allow_private: bool) -> None:
    """The transport of httpx2 would refuse the other schemes by itself; a mocked one takes them."""

    def strict(request: httpx2.Request) -> httpx2.Response:
        if request.url.scheme not in {"http", "https"}:
            raise httpx2.UnsupportedProtocol("no such scheme")
        return httpx2.Response(200)

    policy = WebhookPolicy(allow_private=allow_private)
    channel = webhook(policy, httpx2.MockTransport(strict))
    failure = await attempt(channel, "x", msgspec.structs.replace(NOTE, webhook_url=url))
    assert failure is not None
    assert (failure.reason, failure.permanent) == (FailureReason.FORBIDDEN_TARGET, True)


@pytest.mark.parametrize(
    "url",
    ["http://public.example:99999/", "http://[oops/", "https://" + "a" * 70 + ".example/", "https://a..b/"],
)
async def test_a_url_no_address_can_be_had_from_is_refused_for_good(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        host.encode("idna")
        raise AssertionError("should not get here")

    monkeypatch.setattr(socket, "getaddrinfo", encode)
    target = Target()
    failure = await post(target, url)
    assert failure is not None
    assert (failure.reason, failure.permanent) == (FailureReason.FORBIDDEN_TARGET, True)
    assert target.got == []


async def test_a_name_that_leads_nowhere_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> Callable[..., object]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    failure = await post(Target(), "https://nowhere.example/")
    assert failure is not None
    assert (failure.reason, failure.permanent) == (FailureReason.UNREACHABLE, False)


# --------------------------------------------------------------------------- signatures and batches


SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


async def test_a_call_is_signed_as_standard_webhooks_has_it() -> None:
    """The example of the specification's own libraries: this secret, id, time and body give this signature."""
    key = decode_secret(SECRET)
    signature = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    target = Target()
    policy = WebhookPolicy(url=OWN, secret=SECRET)
    channel = webhook(policy, httpx2.MockTransport(target))
    await attempt(channel, "p0-1-7-0-3", NOTE)
    (request,) = target.got
    expected = sign(key, "p0-1-7-0-3", str(int(START)), request.content)
    assert request.headers["webhook-signature"] == expected


async def test_without_a_secret_nothing_is_signed() -> None:
    target = Target()
    await post(target)
    assert "webhook-signature" not in target.got[0].headers


@pytest.mark.parametrize("secret", ["whsec_!!!", "whsec_c2hvcnQ=", "plain"])
def test_a_weak_or_malformed_secret_is_refused_without_showing_it(secret: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        WebhookProvider(WebhookPolicy(secret=secret), ManualClock())
    assert secret not in str(caught.value)


async def test_p2_go_in_batches_by_target_and_share_their_fate() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        got.append((request.headers["host"], [n["id"] for n in json.loads(request.content)["notifications"]]))
        return httpx2.Response(503 if request.headers["host"] == "public.example" else 200)

    got: list[tuple[str, list[str]]] = []
    policy = WebhookPolicy(url=OWN, batch_records=2)
    channel = webhook(policy, httpx2.MockTransport(answer))
    elsewhere = msgspec.structs.replace(NOTE, webhook_url="https://public.example/x")
    notes = [NOTE, elsewhere, NOTE, NOTE]
    items = [Item(f"n{number}", note) for number, note in enumerate(notes)]
    assert [list(places) for places in channel.groups(items)] == [[0, 2], [3], [1]]
    made = await channel.deliver(items)
    assert sorted(got) == [("10.0.0.5", ["n0", "n2"]), ("10.0.0.5", ["n3"]), ("public.example", ["n1"])]
    assert [tries.attempts[-1].ok for tries in made] == [True, False, True, True]
    await channel.close()


async def test_the_same_batch_carries_the_same_id_on_every_try() -> None:
    target = Target(503)
    policy = WebhookPolicy(url=OWN, batch_records=10)
    channel = webhook(policy, httpx2.MockTransport(target))
    for _ in range(2):
        await channel.deliver([Item("a", NOTE), Item("b", NOTE)])
    await channel.deliver([Item("a", NOTE)])
    first, second, other = (request.headers["webhook-id"] for request in target.got)
    assert first == second != other
    await channel.close()


# --------------------------------------------------------------------------- Retry-After


def busy(retry_after: str, status: int = 429, date: str = "") -> httpx2.Response:
    headers = {"retry-after": retry_after} | ({"date": date} if date else {})
    return httpx2.Response(status, headers=headers)


@pytest.mark.parametrize(
    ("answer", "wait_s"),
    [
        (busy("120"), 120.0),
        (busy("120", 503), 120.0),
        (busy("0"), 0.0),
        (busy(" 7 "), 7.0),
        (busy("31536000"), 900.0),
        (busy("9" * 5000), 900.0),
        (busy("Sun, 06 Nov 1994 08:51:37 GMT", date="Sun, 06 Nov 1994 08:49:37 GMT"), 120.0),
        (busy("Sun, 06 Nov 1994 08:49:37 GMT", date="Sun, 06 Nov 1994 08:51:37 GMT"), 0.0),
        (busy(format_datetime(to_datetime(START + 90), usegmt=True)), 90.0),
        (busy("soon"), 0.0),
        (busy("-5"), 0.0),
        (busy("1.5"), 0.0),
        (busy("Sun, 99 Nov 1994 08:51:37 GMT"), 0.0),
        (busy("120", 400), 0.0),  # a refusal for good is not asked again
        (busy("120", 200), 0.0),
        (httpx2.Response(503), 0.0),
    ],
)
async def test_a_target_is_left_alone_for_as_long_as_it_asked(answer: httpx2.Response, wait_s: float) -> None:
    provider = WebhookProvider(
        WebhookPolicy(url=OWN), ManualClock(), transport=httpx2.MockTransport(Target(answer))
    )
    items = [Item("x", NOTE)]
    await provider.call(items)
    assert provider.retry_after(items) == pytest.approx(wait_s, abs=1.0)


async def test_only_the_target_that_asked_for_it_waits() -> None:
    """Two hooks of one host are two targets; the limit of the first says nothing of the second."""
    got: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        got.append(request.url.path)
        return busy("60") if request.url.path == "/slow" else httpx2.Response(200)

    clock = ManualClock()
    provider = WebhookProvider(WebhookPolicy(url=OWN), clock, transport=httpx2.MockTransport(answer))
    channel = ProvidedChannel("webhook", [provider], OpenDoor(), clock)
    slow, quick = (
        Item(path, msgspec.structs.replace(NOTE, webhook_url=f"https://public.example/{path}"))
        for path in ("slow", "quick")
    )
    (first,) = await channel.deliver([slow])
    assert (first.attempts[0].ok, first.parked_s, first.retry_after_s) == (False, 0.0, 60.0)
    waiting, sent = await channel.deliver([slow, quick])
    assert (waiting.attempts, waiting.parked_s, sent.attempts[0].ok) == ((), 60.0, True)
    assert got == ["/slow", "/quick"]
    clock.advance(60.0)
    await channel.deliver([slow])
    assert got == ["/slow", "/quick", "/slow"]
    await channel.close()


async def test_the_targets_that_are_left_alone_are_bounded_in_number() -> None:
    provider = WebhookProvider(
        WebhookPolicy(url=OWN), ManualClock(), transport=httpx2.MockTransport(Target(busy("60")))
    )
    for number in range(MAX_LEFT_ALONE + 50):
        url = f"https://93.184.216.34/{number}"
        await provider.call([Item("x", msgspec.structs.replace(NOTE, webhook_url=url))])
    assert len(provider._left_alone) == MAX_LEFT_ALONE


@pytest.mark.parametrize(
    "url", ["http://x:tok-s3cret/", "https://user:s3cret@[oops/", "https://public.example:s3cret/"]
)
async def test_what_is_wrong_with_a_url_is_said_without_showing_it(url: str) -> None:
    failure = await post(Target(), url)
    assert failure is not None
    assert "s3cret" not in failure.detail
