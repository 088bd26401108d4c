"""`/v1/recipients` as it answers, on a real server, without Serve around it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import msgspec
import pytest
from redis import asyncio as aioredis

from routing.recipients.store import RecipientStore
from serve_deployments.recipients import Recipients
from tests.fakes import START, ManualClock
from tocsin.clock import to_datetime
from tocsin.settings import Settings

ADDRESS = "+493012345"


@pytest.fixture
async def http(url: str, namespace: str) -> AsyncIterator[httpx2.AsyncClient]:
    settings = msgspec.structs.replace(Settings.from_env({}), redis_url=url, namespace=namespace)
    app = Recipients(settings, ManualClock()).__serve_build_asgi_app__()
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as made:
        yield made


async def put(http: httpx2.AsyncClient, path: str = "/r", /, **fields: Any) -> Any:
    answer = await http.put(path, json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def refused(
    http: httpx2.AsyncClient, path: str = "/r", /, status: int = 422, **fields: Any
) -> tuple[str, str]:
    answer = await http.put(path, json=fields)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    return problem["field"], problem.get("limit", "")


async def test_what_is_put_is_answered_shown_and_listed(http: httpx2.AsyncClient) -> None:
    fields = {
        "channels": {"p0": ["webhook", "log"], "p1": [], "p2": ["log"]},
        "muted_types": ["weather"],
        "muted_sources": ["garden"],
        "quiet_hours": {"start": "22:00", "end": "07:00", "timezone": "Europe/Berlin"},
        "max_per_hour": 7,
        "webhook_url": "https://a.example/",
        "fallback_contacts": ["neighbour"],
        "targets": {"sms": ADDRESS},
    }
    answer = await put(http, "/flat 4/ü", **fields)
    expected = fields | {
        "id": "flat 4/ü",
        "updated_at": to_datetime(START).isoformat().replace("+00:00", "Z"),
        "targets": {"sms": "***"},
    }
    assert answer == expected
    assert (await http.get("/flat%204%2F%C3%BC")).json() == expected
    assert (await http.get("/")).json() == {"total": 1, "items": [expected], "next": ""}


async def test_what_is_left_out_is_as_never_set(http: httpx2.AsyncClient) -> None:
    await put(http, max_per_hour=7, muted_types=["weather"])
    answer = await put(http)
    assert (answer["max_per_hour"], answer["muted_types"]) == (None, [])


async def test_an_address_is_masked_and_its_mask_keeps_it(
    http: httpx2.AsyncClient, client: aioredis.Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    await put(http, targets={"sms": ADDRESS, "email": "a@b.example"})
    assert (await put(http, targets={"sms": "***", "pager": "1"}))["targets"] == {
        "sms": "***",
        "pager": "***",
    }
    (stored,) = await RecipientStore(client, namespace=namespace).get_many(["r"])
    assert stored is not None
    assert stored.targets == {"sms": ADDRESS, "pager": "1"}
    assert await refused(http, status=409, targets={"fax": "***"}) == ("targets.fax", "an address")
    assert ADDRESS not in (await http.get("/r")).text + (await http.get("/")).text + caplog.text


async def test_a_removed_one_is_not_found_and_removing_it_again_does_no_harm(
    http: httpx2.AsyncClient,
) -> None:
    await put(http)
    assert (await http.delete("/r")).json() == {"id": "r", "removed": True}
    assert (await http.delete("/r")).json() == {"id": "r", "removed": False}
    missing = await http.get("/r")
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:tocsin:problem:not-found")


async def test_pages_go_on_after_the_last_id(http: httpx2.AsyncClient) -> None:
    for one in ("a", "b&c", "d"):
        await put(http, f"/{one}")
    first = (await http.get("/", params={"limit": 2})).json()
    assert ([one["id"] for one in first["items"]], first["total"], first["next"]) == (["a", "b&c"], 3, "b&c")
    second = (await http.get("/", params={"limit": 2, "after": first["next"]})).json()
    assert ([one["id"] for one in second["items"]], second["next"]) == (["d"], "")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        (
            {"quiet_hours": {"start": "22:00", "end": "07:00", "timezone": "Mars/Olympus"}},
            "quiet_hours.timezone",
        ),
        (
            {"quiet_hours": {"start": "22:00", "end": "07:00", "timezone": "../../etc/passwd"}},
            "quiet_hours.timezone",
        ),
        ({"quiet_hours": {"start": "24:00", "end": "07:00"}}, "quiet_hours.start"),
        ({"quiet_hours": {"start": "22:00\n", "end": "07:00"}}, "quiet_hours.start"),
        ({"quiet_hours": {"start": "٢٢:00", "end": "07:00"}}, "quiet_hours.start"),
        ({"quiet_hours": {"start": "22:00"}}, "quiet_hours.end"),
        ({"max_per_hour": 0}, "max_per_hour"),
        ({"max_per_hour": 1001}, "max_per_hour"),
        ({"channels": {"p3": ["log"]}}, "channels.p3"),
        ({"channels": {"p2": ["pigeon"]}}, "channels.p2[0]"),
        ({"muted_types": ["x"] * 65}, "muted_types"),
        ({"muted_types": ["a\u0000b"]}, "muted_types"),
        ({"webhook_url": "ftp://a.example/"}, "webhook_url"),
        ({"fallback_contacts": ["a", "a"]}, "fallback_contacts"),
        ({"fallback_contacts": list("abcdef")}, "fallback_contacts"),
        ({"targets": {f"t{n}": "x" for n in range(9)}}, "targets"),
        ({"targets": {"No Channel": "x"}}, "targets"),
        ({"targets": {"email": "a@b.example,c@d.example"}}, "targets.email"),
        ({"nickname": "x"}, "nickname"),
        ({"id": "r"}, "id"),
    ],
)
async def test_what_cannot_be_kept_is_refused_and_named(
    http: httpx2.AsyncClient, fields: dict[str, Any], field: str
) -> None:
    assert (await refused(http, **fields))[0] == field
    assert (await http.get("/r")).status_code == 404


async def test_a_recipient_does_not_fall_back_on_itself(http: httpx2.AsyncClient) -> None:
    assert await refused(http, status=409, fallback_contacts=["r"]) == ("fallback_contacts", "ids of others")


@pytest.mark.parametrize("path", ["/", "/" + "x" * 257, "/a%0Ab", "/a%00b"])
async def test_an_id_that_cannot_be_used(http: httpx2.AsyncClient, path: str) -> None:
    for answer in (await http.put(path, json={}), await http.delete(path)):
        assert answer.status_code in {404, 405, 422}
    assert (await http.get("/")).json()["total"] == 0


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/json", 422),
        (b"[{}]", "application/json", 422),
        (b" \n[]", "application/json", 422),
        (b"null", "application/json", 422),
        (b"{", "application/json", 422),
        (b"\xff", "application/json", 422),
        (b"{}", "application/x-ndjson", 415),
        (b"{}", "text/plain", 415),
    ],
)
async def test_a_body_that_is_not_one_object(
    http: httpx2.AsyncClient, body: bytes, kind: str, status: int
) -> None:
    assert (await http.put("/r", content=body, headers={"content-type": kind})).status_code == status


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "after=" + "x" * 257])
async def test_a_page_that_cannot_be_asked_for(http: httpx2.AsyncClient, query: str) -> None:
    assert (await http.get(f"/?{query}")).status_code == 422
