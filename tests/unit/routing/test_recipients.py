"""Recipients as values: what shows of them, what is kept of a request, and how the clients ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import msgspec
import pytest
from rich.console import Console

from cli.recipients import channels, page_table, quiet_hours, recipient_table, targets
from routing.recipients.rules import kept, masked
from tests.fakes import START
from tests.recipient_fakes import recipient
from tocsin import AsyncClient, Client, RecipientRequest
from tocsin.errors import ContradictionError, InvalidRecordError, StorageUnavailableError
from tocsin.wire.recipients import ChannelChoice, QuietSpan, RecipientPage

SECRET = "+49 151 5550100"
HOOK = "https://hooks.example/T0KEN"
FULL = RecipientRequest(
    channels=ChannelChoice(p0=("webhook", "log")),
    muted_types=("[red]",),
    quiet_hours=QuietSpan(start="22:00", end="07:00", timezone="Europe/Berlin"),
    max_per_hour=3,
    webhook_url=HOOK,
    targets={"sms": SECRET},
)


def test_addresses_show_in_no_repr() -> None:
    for value in (FULL, recipient("r", FULL), [FULL], RecipientPage(total=1, items=[recipient("r", FULL)])):
        shown = repr(value)
        assert SECRET not in shown
        assert HOOK not in shown
        assert "22:00" in shown
    with Console().capture() as capture:
        Console().print(FULL)
    assert SECRET not in capture.get()


def test_a_mask_keeps_what_was_there_and_an_address_replaces_it() -> None:
    before = recipient("r", FULL)
    wanted = RecipientRequest(targets={"sms": "***", "email": "a@b.example"})
    after = kept("r", wanted, before, now=START)
    assert after.targets == {"sms": SECRET, "email": "a@b.example"}
    assert masked(after).targets == {"sms": "***", "email": "***"}
    assert kept("r", RecipientRequest(targets={"sms": "1"}), before, now=START).targets == {"sms": "1"}
    assert kept("r", RecipientRequest(), before, now=START).targets == {}


@pytest.mark.parametrize("before", [None, recipient()])
def test_a_mask_of_nothing_is_refused(before: Any) -> None:
    with pytest.raises(ContradictionError, match="sms"):
        kept("r", RecipientRequest(targets={"sms": "***"}), before, now=START)


# --------------------------------------------------------------------------- the clients


Ask = Callable[..., Any]
KEPT = msgspec.to_builtins(recipient("a/b", FULL))


def blocking(transport: httpx2.MockTransport, method: str, *args: Any, **fields: Any) -> Any:
    with Client(transport=transport, sleep=lambda _s: None) as client:
        return getattr(client, method)(*args, **fields)


def coroutine(transport: httpx2.MockTransport, method: str, *args: Any, **fields: Any) -> Any:
    async def run() -> Any:
        async with AsyncClient(transport=transport, sleep=lambda _s: asyncio.sleep(0)) as client:
            return await getattr(client, method)(*args, **fields)

    return asyncio.run(run())


@pytest.fixture(params=[blocking, coroutine])
def ask(request: pytest.FixtureRequest) -> Ask:
    made: Ask = request.param
    return made


def answering(body: Any, seen: list[httpx2.Request], *first: httpx2.Response) -> httpx2.MockTransport:
    answers = list(first)

    def handle(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return answers.pop(0) if answers else httpx2.Response(200, content=msgspec.json.encode(body))

    return httpx2.MockTransport(handle)


@pytest.mark.parametrize(
    ("args", "fields"),
    [
        (("a/b", RecipientRequest(max_per_hour=3)), {}),
        (("a/b", {"max_per_hour": 3}), {}),
        (("a/b",), {"max_per_hour": 3}),
    ],
)
def test_setting_puts_the_whole_wish(ask: Ask, args: tuple[Any, ...], fields: dict[str, Any]) -> None:
    seen: list[httpx2.Request] = []
    answer = ask(answering(KEPT, seen), "set_recipient", *args, **fields)
    assert answer == recipient("a/b", FULL)
    assert (seen[0].method, seen[0].url.raw_path) == ("PUT", b"/v1/recipients/a%2Fb")
    assert json.loads(seen[0].content)["max_per_hour"] == 3


def test_showing_removing_and_listing(ask: Ask) -> None:
    seen: list[httpx2.Request] = []
    assert ask(answering(KEPT, seen), "recipient", "a/b").id == "a/b"
    assert ask(answering({"id": "a/b", "removed": True}, seen), "remove_recipient", "a/b").removed
    page = {"total": 1, "items": [KEPT], "next": "a/b"}
    assert ask(answering(page, seen), "recipients", after="a b", limit=1).next == "a/b"
    assert [(one.method, one.url.raw_path) for one in seen] == [
        ("GET", b"/v1/recipients/a%2Fb"),
        ("DELETE", b"/v1/recipients/a%2Fb"),
        ("GET", b"/v1/recipients?limit=1&after=a+b"),
    ]


@pytest.mark.parametrize(
    ("method", "args", "body"),
    [("set_recipient", ("a",), KEPT), ("remove_recipient", ("a",), {"id": "a", "removed": False})],
)
def test_a_write_whose_answer_was_lost_is_made_again(
    ask: Ask, method: str, args: tuple[Any, ...], body: Any
) -> None:
    seen: list[httpx2.Request] = []
    ask(answering(body, seen, httpx2.Response(502)), method, *args)
    assert len(seen) == 2


def test_what_breaks_the_schema_is_not_sent(ask: Ask) -> None:
    seen: list[httpx2.Request] = []
    with pytest.raises(InvalidRecordError) as caught:
        ask(answering(KEPT, seen), "set_recipient", "a", max_per_hour=0)
    assert (caught.value.field, seen) == ("max_per_hour", [])
    with pytest.raises(TypeError):
        ask(answering(KEPT, seen), "set_recipient", "a", RecipientRequest(), max_per_hour=1)


def test_storage_that_is_away_is_said_so(ask: Ask) -> None:
    body = {
        "type": "urn:tocsin:problem:storage-unavailable", "title": "t", "status": 503, "detail": "away"
    }  # fmt: skip
    transport = httpx2.MockTransport(lambda _request: httpx2.Response(503, json=body))
    with pytest.raises(StorageUnavailableError):
        ask(transport, "recipient", "a")


# --------------------------------------------------------------------------- the command line


def test_quiet_hours_as_options() -> None:
    before = {"start": "22:00", "end": "07:00", "timezone": "Europe/Berlin"}
    assert quiet_hours(None, "22:00-07:00", "") == {"start": "22:00", "end": "07:00"}
    assert quiet_hours(None, "22:00-07:00", "Europe/Berlin") == before
    assert quiet_hours(before, "23:00-06:00", "") == before | {"start": "23:00", "end": "06:00"}
    assert quiet_hours(before, "", "Asia/Tokyo") == before | {"timezone": "Asia/Tokyo"}
    assert quiet_hours(before, "none", "") is None
    for quiet, timezone in (("22:00", ""), ("", "Asia/Tokyo")):
        with pytest.raises(InvalidRecordError):
            quiet_hours(None, quiet, timezone)


def test_channels_as_options() -> None:
    assert channels(None, ["p2=log", "p0=webhook,log"]) == {"p2": ["log"], "p0": ["webhook", "log"]}
    assert channels({"p0": ["log"], "p2": ["webhook"]}, ["p2=none"]) == {"p0": ["log"], "p2": []}
    assert channels(None, ["p1=log", "p1=webhook"]) == {"p1": ["log", "webhook"]}
    for wrong in ("p3=log", "log", "p2"):
        with pytest.raises(InvalidRecordError):
            channels(None, [wrong])


def test_targets_as_options_are_in_no_message() -> None:
    assert targets({"sms": "***", "fax": "***"}, ["email=a=b", "fax=none"]) == {"sms": "***", "email": "a=b"}
    for wrong in (SECRET, "sms="):
        with pytest.raises(InvalidRecordError) as caught:
            targets(None, [wrong])
        assert SECRET not in str(caught.value)


def test_tables_show_what_is_wanted_with_no_markup_of_others() -> None:
    console = Console(width=160)
    one = recipient("r", FULL)
    for table in (recipient_table(one), page_table(RecipientPage(total=1, items=[one]))):
        with console.capture() as capture:
            console.print(table)
        shown = capture.get()
        assert "[red]" in shown
        assert "22:00-07:00 Europe/Berlin" in shown
        assert "webhook, log" in shown
        assert SECRET not in shown
